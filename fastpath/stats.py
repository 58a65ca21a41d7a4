"""What a forwarder's state segment tells: counters, drops, ports, neighbors, sockets, progress.

Plain data for `vr show` and metrics, read without the C core, so that they answer while a control,
a forwarder or the manager is dead.  Interfaces are numbers here: their names stand in the tables.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, Final

from fastpath._layout import CONSTANTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastpath.segment import Segment, View

# Position in the arrays of drop counters -> name, as in JSON, metrics and traces.
_REASONS: Final = {name: value for name, value in CONSTANTS.items() if name.startswith("DROP_")}
DROP_REASONS: Final[tuple[str, ...]] = tuple(
    name.removeprefix("DROP_").lower() for name in sorted(_REASONS, key=_REASONS.__getitem__)
)[: CONSTANTS["DROP_REASON_COUNT"]]
COUNTERS: Final = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "forwarded_packets",
    "forwarded_out_packets",
    "punt_packets",
    "originated_packets",
    "fragments_created",
    "held_packets",
)
DRIVERS: Final = {
    CONSTANTS["DRIVER_AF_PACKET"]: "af_packet",
    CONSTANTS["DRIVER_LINK"]: "link",
    CONSTANTS["DRIVER_AF_XDP"]: "af_xdp",
    CONSTANTS["DRIVER_TAP"]: "tap",
    CONSTANTS["DRIVER_PCAP"]: "pcap",
    CONSTANTS["DRIVER_AF_PACKET_V3"]: "af_packet_v3",
}
_WORKED: Final = ("thread", "packets", "batches", "handed")
MODES: Final = {
    CONSTANTS["PORT_XDP_NATIVE"]: "native",
    CONSTANTS["PORT_XDP_GENERIC"]: "generic",
    CONSTANTS["PORT_ZERO_COPY"]: "zero-copy",
    CONSTANTS["PORT_BUSY_POLL"]: "busy-poll",
}
# What AF_XDP counts of a port's rings, beside the frames that it dropped.
RINGS: Final = ("rx_ring_full", "rx_fill_empty", "rx_invalid", "tx_invalid")
_NEIGHBOR_STATES: Final = {
    CONSTANTS[f"NEIGHBOR_{name.upper()}"]: name
    for name in ("incomplete", "reachable", "stale", "delay", "probe", "failed", "static")
}
_SOCKET_TYPES: Final[dict[int, str]] = {socket.SOCK_DGRAM: "dgram", socket.SOCK_RAW: "raw"}


def drop_name(reason: int) -> str:
    """Name a drop reason; a number that this build does not know stays a number."""
    return DROP_REASONS[reason] if 0 <= reason < len(DROP_REASONS) else str(reason)


def _drops(counts: tuple[int, ...]) -> dict[str, int]:
    return {DROP_REASONS[reason]: count for reason, count in enumerate(counts) if count}


def workers(state: Segment) -> int:
    """Count the workers that a forwarder of this VR ever had; of others nothing is looked at, so that no page comes."""
    return min(max(state.integer("workers_used"), 1), CONSTANTS["MAX_WORKERS"])


def _sums(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(column) % 2**64 for column in zip(*rows, strict=True))


def interface_counters(state: Segment, index: int) -> dict[str, Any]:
    """Give the counters of one interface, of all workers; drops that never happened are left out."""
    places = CONSTANTS["MAX_INTERFACES"]
    rows = [state.copied("counters", worker * places + index) for worker in range(workers(state))]
    found: dict[str, Any] = {name: sum(row.integer(name) for row in rows) % 2**64 for name in COUNTERS}
    return found | {"drops": _drops(_sums(row.integers("drops") for row in rows))}


def host_drops(state: Segment) -> dict[str, int]:
    """Give the drops of the VR's own packets and of those that it had taken for itself."""
    words = state.integers("host_drops")
    reasons = CONSTANTS["DROP_REASON_COUNT"]
    return _drops(_sums(words[at : at + reasons] for at in range(0, len(words), reasons)))


def ports(state: Segment) -> list[dict[str, Any]]:
    """Give the ports that were ever served, once for each worker that serves them."""
    found = []
    for place, view in state.used("ports", "driver"):
        worker, port = divmod(place, CONSTANTS["MAX_PORTS"])
        flags = view.integer("flags")
        found.append(
            {
                "port": port,
                "worker": worker,
                "driver": DRIVERS.get(view.integer("driver"), str(view.integer("driver"))),
                "ifindex": view.integer("ifindex"),
                "present": bool(flags & CONSTANTS["PORT_PRESENT"]),
                "link_up": bool(flags & CONSTANTS["PORT_LINK_UP"]),
                "failed": bool(flags & CONSTANTS["PORT_FAILED"]),
                "progress": view.integer("progress"),
                "generation": view.integer("generation"),
                "rx_kernel_drops": view.integer("rx_kernel_drops"),
                "mode": [word for bit, word in MODES.items() if view.integer("mode") & bit],
                "rings": {name: view.integer(name) for name in RINGS},
            }
        )
    return found


def _address(octets: bytes, family: int) -> str:
    if family == CONSTANTS["FAMILY_IPV4"]:
        return socket.inet_ntop(socket.AF_INET, octets[:4])
    return socket.inet_ntop(socket.AF_INET6, octets)


def neighbors(state: Segment, now_ns: int | None = None) -> list[dict[str, Any]]:
    """Give the ARP and ND entries; `interface` is an index, `age` seconds since the last proof of reachability."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if now_ns is None else now_ns
    found = []
    for _slot, view in state.used("neighbors", "state"):
        name = _NEIGHBOR_STATES.get(view.integer("state"))
        if name is None:
            continue
        since = view.integer("confirmed_ns") or view.integer("changed_ns")
        found.append(
            {
                "address": _address(view.octets("address"), view.integer("family")),
                "mac": view.octets("mac").hex(":"),
                "state": name,
                "interface": view.integer("interface"),
                "age": max(0.0, round((now - since) / 1e9, 3)),
            }
        )
    return sorted(found, key=lambda entry: (entry["interface"], entry["address"]))


def sockets(state: Segment) -> list[dict[str, Any]]:
    """Give the sockets of the VR."""
    return [_socket(slot, view) for slot, view in state.used("sockets", "cookie")]


def _socket(slot: int, view: View) -> dict[str, Any]:
    inet = view.integer("family") == socket.AF_INET
    family = CONSTANTS["FAMILY_IPV4" if inet else "FAMILY_IPV6"]
    flags = view.integer("flags")
    connected = bool(flags & CONSTANTS["SOCKET_CONNECTED"])
    return {
        "socket": slot,
        "family": "inet" if inet else "inet6",
        "type": _SOCKET_TYPES.get(view.integer("type"), str(view.integer("type"))),
        "protocol": view.integer("protocol"),
        "local": _address(view.octets("local"), family),
        "local_port": view.integer("local_port"),
        "remote": _address(view.octets("remote"), family) if connected else None,
        "remote_port": view.integer("remote_port") if connected else None,
        "interface": view.integer("interface"),
        "uid": view.integer("uid"),
        "pid": view.integer("pid"),
        "app": view.text("app"),
        "account": view.integer("account"),
        "orphaned": bool(flags & CONSTANTS["SOCKET_ORPHANED"]),
        "rx_packets": view.integer("rx_packets"),
        "tx_packets": view.integer("tx_packets"),
        "rx_drops": view.integer("rx_drops"),
    }


def memberships(state: Segment) -> list[dict[str, Any]]:
    """Give the multicast memberships of all sockets."""
    sources: dict[int, list[str]] = {}
    places = CONSTANTS["SOCKET_MEMBERSHIPS"]
    used = list(state.used("sockets", "cookie"))
    families = {
        slot * places + place + 1: joined.integer("family")
        for slot, view in used
        for place, joined in enumerate(view.views("memberships"))
    }
    for _index, view in state.used("membership_sources", "membership", state.integer("membership_sources_used")):
        number = view.integer("membership")
        sources.setdefault(number, []).append(_address(view.octets("address"), families.get(number, 0)))
    return [
        {
            "socket": slot,
            "interface": joined.integer("interface"),
            "group": _address(joined.octets("group"), joined.integer("family")),
            "mode": "include" if joined.integer("mode") == CONSTANTS["MEMBERSHIP_INCLUDE"] else "exclude",
            "sources": sorted(sources.get(slot * places + place + 1, [])),
        }
        for slot, view in used
        for place, joined in enumerate(view.views("memberships"))
        if joined.integer("family")
    ]


def worker_list(state: Segment) -> list[dict[str, int]]:
    """Give what each worker has done since the segment was made."""
    return [
        {"worker": worker, **{name: state.view("workers", worker).integer(name) for name in _WORKED}}
        for worker in range(workers(state))
    ]


def progress(state: Segment, worker: int = 0) -> dict[str, int]:
    """Give what a supervisor compares: stalled is busy for long with the same count of batches."""
    view = state.view("workers", worker)
    return {
        "batches": view.integer("batches"),
        "busy_since_ns": view.integer("busy_since_ns"),
        "reader_epoch": view.integer("reader_epoch"),
    }


def forwarder(state: Segment) -> dict[str, int]:
    """Give who serves the segment now."""
    return {
        "pid": state.integer("forwarder_pid"),
        "ready": state.integer("ready"),
        "started_ns": state.integer("started_ns"),
        "attaches": state.integer("attaches"),
        "tables_epoch": state.integer("tables_epoch"),
    }
