"""Gathers the metrics: what segments and /proc tell of each router, and what its protocols tell when asked.

Names are `vr_...` with a label `vr`; there is none per route.  A router whose control is dead or slow still
has its interfaces, drops and sockets, which are read without it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastpath import bfd, calls, filters, interfaces, police, sockets, stats
from fastpath._layout import CONSTANTS, SIZES
from fastpath.accounts import accounts
from fastpath.segment import KIND_STATE, KIND_TABLES, Segment
from manager.http import protocols
from manager.http.exposition import Families, Family
from manager.http.upstream import UpstreamError
from rsock.wire import Op
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from manager.http.upstream import Upstream

QUICK: Final = 1.0
ALL_ROUTERS: Final = 5.0  # seconds that asking protocols may take in one scrape
TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
AFIS: Final = {CONSTANTS["FAMILY_IPV4"]: "ipv4", CONSTANTS["FAMILY_IPV6"]: "ipv6"}
PROTOCOLS: Final = {
    value: name.removeprefix("ROUTE_").lower() for name, value in CONSTANTS.items() if name.startswith("ROUTE_")
}
CALLS: Final = {op.value: op.name.lower() for op in Op}
_ENTRY: Final = SIZES["prefix_entry"]
_FAMILY, _PROTOCOL = 16, 20  # bytes in a prefix_entry

COUNTERS: Final = {
    "rx_packets": ("interface_receive_packets", "Frames that came in."),
    "rx_bytes": ("interface_receive_bytes", "Bytes of frames that came in, without FCS."),
    "tx_packets": ("interface_transmit_packets", "Frames that were sent."),
    "tx_bytes": ("interface_transmit_bytes", "Bytes of frames that were sent, without FCS."),
    "forwarded_packets": ("forwarded_packets", "Packets that came in here and were sent on."),
    "punt_packets": ("punt_packets", "Packets that came in here and were for the router itself."),
}


class _Router:
    """The mapped segments of a router, for as long as they are these."""

    def __init__(self, key: tuple[str, str], fds: list[int]) -> None:
        self.key = key
        self._stack = contextlib.ExitStack()
        for fd in fds:
            self._stack.callback(os.close, fd)
        try:
            self.tables = self._stack.enter_context(Segment(fds[0], KIND_TABLES))
            self.state = self._stack.enter_context(Segment(fds[1], KIND_STATE))
        except OSError:
            self._stack.close()
            raise
        self._counted: tuple[int, dict[tuple[str, str], int]] = (-1, {})

    def close(self) -> None:
        """Unmap them."""
        self._stack.close()

    def routes(self) -> dict[tuple[str, str], int]:
        """Count the installed routes by family and protocol; again only when they have changed."""
        generation = self.tables.integer("generation")
        if self._counted[0] != generation:
            self._counted = generation, self._count()
        return self._counted[1]

    def _count(self) -> dict[tuple[str, str], int]:
        offset = self.tables.integer("prefix_root")
        if not offset:
            return {}
        first = offset + SIZES["prefix_table"]
        end = first + self.tables.at("prefix_table", offset).integer("capacity") * _ENTRY
        buffer = self.tables.buffer
        pairs = collections.Counter(
            zip(buffer[first + _FAMILY : end : _ENTRY], buffer[first + _PROTOCOL : end : _ENTRY], strict=False)
        )
        return {
            (AFIS[family], PROTOCOLS.get(protocol, str(protocol))): count
            for (family, protocol), count in sorted(pairs.items())
            if family in AFIS
        }


class Collector:
    """Gathers; keeps segments mapped between two scrapes."""

    def __init__(self, upstream: Upstream) -> None:
        """Ask this manager."""
        self._upstream = upstream
        self._routers: dict[str, _Router] = {}

    def collect(self) -> list[Family]:
        """Give all metrics as they are now.  Raises UpstreamError."""
        families = Families()
        routers = self._upstream.call(ManagerOp.ROUTERS, QUICK)
        deadline = time.monotonic() + ALL_ROUTERS
        self._forget({router["name"] for router in routers})
        _manager(families, self._upstream.call(ManagerOp.STATUS, QUICK))
        _process(families, os.getpid(), vr="", process="api")
        _process(families, os.getppid(), vr="", process="zygote")
        for router in routers:
            name = router["name"]
            families.add("up", "gauge", "Whether the router runs.", int(router["state"] == "up"), vr=name)
            families.add("restarts", "counter", "Processes of the router that died.", router["restarts"], vr=name)
            for process, pid in router["pids"].items():
                if pid:
                    _process(families, pid, vr=name, process=process)
            mapped = self._mapped(router)
            if mapped is not None:
                _forwarding(families, name, mapped)
                _apps(families, name, mapped.state)
                _bfd(families, name, mapped)
                _policing(families, name, mapped)
                _filters(families, name, mapped)
            if router["state"] == "up" and time.monotonic() < deadline:
                protocols.collect(families, self._upstream, name)
        return list(families.all.values())

    def _forget(self, present: set[str]) -> None:
        for name in self._routers.keys() - present:
            self._routers.pop(name).close()

    def _mapped(self, router: dict[str, Any]) -> _Router | None:
        name, key = router["name"], (router["name"], str(router.get("netns")))
        known = self._routers.get(name)
        if known is not None and known.key == key:
            return known
        if known is not None:
            self._routers.pop(name).close()
        try:
            fds = self._upstream.segments(name, QUICK)
            self._routers[name] = _Router(key, fds)
        except (UpstreamError, OSError):
            return None
        return self._routers[name]


def _manager(families: Families, status: dict[str, Any]) -> None:
    """What the manager tells of itself."""
    config = status["config"]
    text = "Whether the last configuration that was to be applied could not be used; the one before runs on."
    families.add("config_load_error", "gauge", text, int(config["load_error"]))
    families.add("config_hash", "info", "Digest of the configuration that runs.", 1, hash=config["hash"])
    text = "When the configuration that runs was applied."
    families.add("config_applied_timestamp_seconds", "gauge", text, config["applied_at"])
    text = "Time from the request until all routers were as the configuration says."
    families.add_timings("config_apply_seconds", text, config["apply_seconds"])
    families.add_timings("loop_lag_seconds", protocols.LAG, status["loop_lag"], vr="")


def _process(families: Families, pid: int, **labels: str) -> None:
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / TICKS
        resident = int(fields[21]) * PAGE
        families.add("process_cpu_seconds", "counter", "User and system time of a process.", cpu, **labels)
        families.add("process_resident_memory_bytes", "gauge", "Resident memory of a process.", resident, **labels)


def _forwarding(families: Families, vr: str, mapped: _Router) -> None:
    """What the forwarder and its tables tell."""
    tables, state = mapped.tables, mapped.state
    up = {port["port"]: port["link_up"] for port in stats.ports(state) if port["worker"] == 0}
    dropped = "Packets that were dropped, by reason; without an interface: the router's own."
    names = {}
    for interface in interfaces.published(tables):
        labels = {"vr": vr, "interface": interface.name}
        names[interface.index] = interface.name
        counted = stats.interface_counters(state, interface.index)
        for counter, (name, text) in COUNTERS.items():
            families.add(name, "counter", text, counted[counter], **labels)
        for reason, count in counted["drops"].items():
            families.add("drops", "counter", dropped, count, vr=vr, reason=reason, interface=interface.name)
        carrier = interface.port == 0 or up.get(interface.port, False)
        text = "Whether an interface is configured up and has a carrier."
        families.add("interface_up", "gauge", text, int(interface.admin_up and carrier), **labels)
    for reason, count in stats.host_drops(state).items():
        families.add("drops", "counter", dropped, count, vr=vr, reason=reason, interface="")
    entries = dict.fromkeys(AFIS.values(), 0)
    for (afi, protocol), count in mapped.routes().items():
        entries[afi] += count
        text = "Routes by the protocol that brought them."
        families.add("routes", "gauge", text, count, vr=vr, afi=afi, protocol=protocol, state="installed")
    for afi, count in entries.items():
        families.add("fib_entries", "gauge", "Prefixes in the forwarding table.", count, vr=vr, afi=afi)
    text = "Memory of the tables segment that was ever in use."
    families.add("fib_memory_bytes", "gauge", text, tables.integer("arena_end"), vr=vr)
    seen = collections.Counter((entry["interface"], entry["state"]) for entry in stats.neighbors(state))
    for (index, kind), count in sorted(seen.items()):
        text = "ARP and ND entries by their state."
        families.add("neighbors", "gauge", text, count, vr=vr, interface=names.get(index, str(index)), state=kind)


def _apps(families: Families, vr: str, state: Segment) -> None:
    """What apps have and ask for."""
    kinds = {17: "udp", 1: "icmp", 58: "icmp6"}
    count = collections.Counter(
        ("raw" if entry["type"] == "raw" else kinds.get(entry["protocol"], str(entry["protocol"])), entry["app"])
        for entry in stats.sockets(state)
    )
    count.update(("tcp", entry["app"]) for entry in sockets.connections(state))
    for (protocol, app), number in sorted(count.items()):
        families.add("socket_count", "gauge", "Sockets that are open.", number, vr=vr, proto=protocol, app=app)
    for op, counts, seconds in calls.histograms(state, CALLS):
        text = "Requests of apps that the forwarder has answered."
        families.add("rsock_calls", "counter", text, sum(counts), vr=vr, op=op)
        spent = {"bounds": calls.upper_seconds(), "counts": counts, "sum": seconds}
        text = "Time that the forwarder spent on a request of an app."
        families.add_timings("rsock_call_seconds", text, spent, vr=vr, op=op)
    denied: collections.Counter[str] = collections.Counter()
    rests = 0
    for account in accounts(state).values():
        denied.update(account["denials"])
        rests += account["rests"]
    text = "Times that an identity took more than its share of the forwarder, and had to wait."
    families.add("rsock_rests", "counter", text, rests, vr=vr)
    for reason, number in sorted(denied.items()):
        families.add("rsock_denied", "counter", "Requests of apps that were denied.", number, vr=vr, reason=reason)


def _policing(families: Families, vr: str, mapped: _Router) -> None:
    """What rates let pass, and what they did not."""
    for entry in police.control_plane(mapped.tables, mapped.state):
        for outcome in ("passed", "dropped"):
            text = "Packets that ask for more than forwarding, by class."
            labels = {"vr": vr, "class": entry["class"], "outcome": outcome}
            families.add("control_plane_packets", "counter", text, entry[outcome], **labels)
    names = interfaces.names(mapped.tables)
    for entry in police.policers(mapped.tables, mapped.state):
        interface = names.get(entry["interface"], str(entry["interface"]))
        for outcome in ("passed", "dropped"):
            labels = {"vr": vr, "interface": interface, "direction": entry["direction"], "outcome": outcome}
            text = "Packets at policers."
            families.add("policer_packets", "counter", text, entry[f"{outcome}_packets"], **labels)
            text = "Bytes of IP packets at policers."
            families.add("policer_bytes", "counter", text, entry[f"{outcome}_bytes"], **labels)


def _filters(families: Families, vr: str, mapped: _Router) -> None:
    """What lists decided, by named entry, and what was counted by prefix."""
    published = filters.published(mapped.tables)
    for each in published.lists:
        sums: dict[tuple[str, str], list[int]] = {}
        for place, (entry, count) in enumerate(
            zip(each.entries, filters.counts(mapped.state, each.entries), strict=True)
        ):
            name = "end" if place == len(each.entries) - 1 else entry.name
            own = sums.setdefault((name, entry.action), [0, 0])
            own[0] += count.packets
            own[1] += count.bytes
        for (name, action), (packets, octets) in sums.items():
            labels = {"vr": vr, "acl": each.name, "entry": name, "action": action}
            families.add("acl_packets", "counter", "Packets that an entry of a list decided about.", packets, **labels)
            families.add("acl_bytes", "counter", "Bytes of IP packets, likewise.", octets, **labels)
    for entry, count in zip(published.prefixes, filters.counts(mapped.state, published.prefixes), strict=True):
        labels = {"vr": vr, "prefix": entry.text}
        families.add("counted_packets", "counter", "Packets forwarded to a counted prefix.", count.packets, **labels)
        families.add("counted_bytes", "counter", "Bytes of IP packets, likewise.", count.bytes, **labels)


def _bfd(families: Families, vr: str, mapped: _Router) -> None:
    names = interfaces.names(mapped.tables)
    for session in bfd.shown(mapped.state, names, time.clock_gettime_ns(time.CLOCK_BOOTTIME)):
        labels = {
            "vr": vr, "peer": session["remote"], "local": session["local"] or "", "interface": session["interface"],
            "multihop": str(session["multihop"]).lower(),
        }  # fmt: skip
        families.add("bfd_session_up", "gauge", "Whether a BFD session is up.", int(session["state"] == "up"), **labels)
        families.add("bfd_session_downs", "counter", "Times that a session went down.", session["downs"], **labels)
