"""Conformance cases of Holo for RIP, played to our instances: recorded topologies and steps upon them.

    topologies/TOPOLOGY/ROUTER/config.json, events.jsonl   brings an instance into a state
                               output/...                  what was sent, installed and shown on the way
    CASE/NN-input-*, NN-output-*                           a step upon that state, and what it must cause

Timers are events there: the adapter stops ours and makes happen what an event says.  Which router of which
topology a case starts from stands in Holo's source, and here in `STARTS`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from vrouter.config.rip import Rip, RipInterface, Ripng, RipngInterface, RipTimers
from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, is_link_local, parse_address, parse_interface_address, parse_prefix
from vrouter.proto import base
from vrouter.proto.rip.dialect import on_link
from vrouter.proto.rip.instance import ripng, ripv2
from vrouter.wire.rip import ripng as ng
from vrouter.wire.rip import ripv2 as v2
from vrouter.wire.rip.packet import Command, Entry, Packet

FIRST, SECOND, LAN = ("topo1-1", "rt2"), ("topo1-2", "rt2"), ("topo2-1", "rt1")
STARTS: dict[str, tuple[str, str]] = {}
HOUR = 3600.0


class Player:
    """An instance, and what an event does to it."""

    def __init__(self, protocol: str, config: dict[str, Any]) -> None:
        self.protocol = protocol
        self.instance = (ripv2 if protocol == "ripv2" else ripng)(base.Environment(Random(1)))
        self.family = 4 if protocol == "ripv2" else 6
        self.now = 1000.0
        self.links: dict[str, base.InterfaceState] = {}
        self.interfaces: dict[str, dict[str, Any]] = {}
        self.distance = 120
        self.sent: list[Any] = []
        self.routes: list[Any] = []
        self._merge(config)
        self._configure()
        self._take(self.instance.opened("udp", self.now))

    # --- inputs ---

    def event(self, event: dict[str, Any]) -> None:
        """Play one line of events.jsonl."""
        for kind, inner in event.items():
            (self.ibus if kind == "Ibus" else self.protocol_input)(inner)

    def ibus(self, event: dict[str, Any]) -> None:
        """Take what an interface manager or a routing table says."""
        for kind, data in event.items():
            name = data.get("ifname", "")
            state = self.links.get(name, base.InterfaceState(name, up=False))
            if kind == "InterfaceUpd":
                flags = data["flags"]
                up, loopback = "OPERATIVE" in flags, "LOOPBACK" in flags
                state = replace(state, up=up, mtu=min(data["mtu"], 65535), loopback=loopback, index=data["ifindex"])
            elif kind in {"InterfaceAddressAdd", "InterfaceAddressDel"}:
                address, length = parse_interface_address(data["addr"])
                own = base.OwnAddress(address, length, is_link_local(address))
                others = tuple(each for each in state.addresses if each != own)
                state = replace(state, addresses=(*others, own) if kind.endswith("Add") else others)
            else:
                continue
            self.links[name] = state
            self._take(self.instance.interface_changed(state, self.now))

    def protocol_input(self, event: dict[str, Any]) -> None:
        """Take a packet, or let time do its work."""
        for kind, data in event.items():
            instance = self.instance
            if kind == "UdpRxPdu":
                self._packet(data)
            elif kind in {"TriggeredUpd", "TriggeredUpdTimeout"}:
                if kind == "TriggeredUpdTimeout":
                    instance._hold_until = self.now
                self._tick()
            elif kind == "UpdateInterval":
                instance._update_at = self.now
                self._tick()
            elif kind == "InitialUpdate":
                for port in instance._active():
                    port.initial_at = None
                    self._take(instance._update(port, None, self.now))
                instance.table.changed.clear()
            elif kind == "NbrTimeout":
                for port in instance.ports.values():
                    port.peers.pop(parse_address(data["addr"].partition("%")[0]), None)
            else:
                row = instance.table.rows[parse_prefix(data["prefix"])]
                if kind == "RouteTimeout":
                    for path in row.paths:
                        path.expires = self.now
                else:
                    assert kind == "RouteGcTimeout"
                    row.garbage_at = self.now if row.garbage_at is not None else None
                instance.table._due = self.now
                instance.table.expire(self.now)
                self._take(instance._flush())

    def begin(self) -> None:
        """Forget what came out, and let the next triggered update go at once."""
        self.settle()
        self.instance._hold_until = self.now
        self.settle()
        self.instance._hold_until = self.now
        self.take()

    def settle(self) -> None:
        """Let a triggered update go out, as Holo does by itself at the end of a step."""
        self._tick()

    def change(self, config: dict[str, Any]) -> None:
        """Take a change of the configuration."""
        self._merge(config)
        self._configure()

    def clear(self) -> None:
        """Forget learned routes, without the request that we send then."""
        self._take([out for out in self.instance.clear("routes", {}, self.now) if not isinstance(out, base.Transmit)])

    # --- what came out ---

    def take(self) -> tuple[list[Any], list[Any]]:
        """Give packets and routes since the last call."""
        sent, self.sent = self.sent, []
        routes, self.routes = self.routes, []
        return sent, routes

    def shown(self) -> dict[str, Any]:
        """Give the state in Holo's terms."""
        rows = {}
        for row in self.instance.show("routes", {}, self.now)["routes"]:
            path = row["paths"][0] if row["paths"] and row["kind"] == "rip" else {}
            rows[row["prefix"]] = (row["metric"], path.get("next_hop"))
        neighbors = {neighbor["address"] for neighbor in self.instance.show("neighbors", {}, self.now)}
        return {"routes": rows, "neighbors": neighbors}

    # --- inside ---

    def _tick(self) -> None:
        for port in self.instance.ports.values():
            # Until the event says so: then no triggered update goes out there either.
            port.initial_at = self.now + HOUR if port.initial_at is not None else None
        self._take(self.instance.handle_timeout(self.now))
        self.instance._update_at = self.now + HOUR

    def _merge(self, config: dict[str, Any]) -> None:
        (process,) = config["ietf-routing:routing"]["control-plane-protocols"]["control-plane-protocol"]
        rip = process.get("ietf-rip:rip", {})
        self.distance = rip.get("distance", self.distance)
        for entry in rip.get("interfaces", {}).get("interface", []):
            if entry.get("@", {}).get("yang:operation") == "delete":
                del self.interfaces[entry["interface"]]
            else:
                self.interfaces.setdefault(entry["interface"], {}).update(entry)

    def _configure(self) -> None:
        make = RipInterface if self.family == 4 else RipngInterface
        interfaces: dict[str, Any] = {
            name: make(
                passive="passive" in entry,
                metric=entry.get("cost", 1),
                split_horizon=entry.get("split-horizon", "simple"),
                neighbors=tuple(each["address"] for each in entry.get("neighbors", {}).get("neighbor", ())),
            )
            for name, entry in self.interfaces.items()
        }
        timers = RipTimers(update=HOUR, timeout=HOUR, garbage=HOUR)
        if self.family == 4:
            router = RouterConfig("r", 1, rip=Rip(interfaces=interfaces, preference=self.distance, timers=timers))
        else:
            router = RouterConfig("r", 1, ripng=Ripng(interfaces=interfaces, preference=self.distance, timers=timers))
        self._take(list(self.instance.configure(base.Setting(router), self.now).outputs))
        self.instance._update_at = self.now + HOUR

    def _packet(self, data: dict[str, Any]) -> None:
        host, _, port = data["src"].rpartition(":")
        address, _, scope = host.strip("[]").partition("%")
        source = parse_address(address)
        named = (
            name
            for name, state in sorted(self.links.items())
            if (str(state.index) == scope if scope else on_link(state, source)) and name in self.interfaces
        )
        name = next(named, None)
        if name is None:
            return
        number = v2 if self.family == 4 else ng
        meta = base.Meta(name, source, self.instance.dialect.group, 255, int(port), self.instance.dialect.port)
        packet = _pdu_bytes(self.family, data["pdu"], number.VERSION)
        self._take(self.instance.received("udp", packet, meta, self.now))

    def _take(self, outputs: list[base.Output]) -> None:
        for output in outputs:
            if isinstance(output, base.Transmit):
                self.sent.append(self._transmitted(output))
            elif isinstance(output, base.RouteAdd):
                self.routes += [
                    ("add", str(r.prefix), r.preference, r.metric, r.tag, str(r.hops[0].via)) for r in output.routes
                ]
            elif isinstance(output, base.RouteDel):
                self.routes += [("del", str(r.prefix)) for r in output.routes]

    def _transmitted(self, output: base.Transmit) -> Any:
        packet = v2.decode(output.data)[0] if self.family == 4 else ng.decode(output.data)
        return (output.interface, f"{output.destination}:{output.port}", *_plain(packet))


def _plain(packet: Packet) -> tuple[Any, ...]:
    entries = tuple((str(e.prefix), e.metric, e.tag, str(e.next_hop) if e.next_hop else None) for e in packet.entries)
    return (packet.command.name.capitalize(), "whole" if packet.whole else entries)


def _pdu_bytes(family: int, pdu: dict[str, Any], version: int) -> bytes:
    """Write the packet that Holo describes, an erroneous one too."""
    if "Err" in pdu:
        ((error, value),) = pdu["Err"].items()
        return bytes((value if error == "InvalidCommand" else 2, value if error == "InvalidVersion" else version, 0, 0))
    packet = expected_packet(family, pdu["Ok"])
    data = v2.encode(packet) if family == 4 else ng.encode(packet)
    for error in pdu["Ok"].get("rte_errors", ()):
        ((kind, value),) = error.items()
        data += _bad_entry(family, kind, value)
    return data


def _bad_entry(family: int, kind: str, value: Any) -> bytes:
    if family == 4:
        afi = value if kind == "InvalidRteAddressFamily" else 2
        via = int(ipaddress.ip_address(value)) if kind == "InvalidRteNexthop" else 0
        metric = value if kind == "InvalidRteMetric" else 1
        parts = (afi.to_bytes(2, "big"), bytes(2), b"\x0a\x63\0\0\xff\xff\0\0", via.to_bytes(4, "big"))
        return b"".join(parts) + metric.to_bytes(4, "big")
    if kind == "InvalidRteNexthop":
        return ipaddress.ip_address(value).packed + b"\0\0\0\xff"
    length, metric = (value, 1) if kind == "InvalidRtePrefixLength" else (64, value)
    return ipaddress.ip_address("2001:db8:99::").packed + bytes((0, 0, length, metric))


def expected_packet(family: int, pdu: dict[str, Any]) -> Packet:
    """Read a packet in Holo's JSON."""
    command = Command[pdu["command"].upper()]
    entries = []
    via: Address | None = None
    for rte in pdu["rtes"]:
        ((kind, data),) = rte.items()
        if kind == "Nexthop":
            via = parse_address(data["addr"]) if data["addr"] else None
            continue
        whole = kind == "Zero" or (data["prefix"] == "::/0" and data["metric"] == 16)
        if whole and command is Command.REQUEST:
            return Packet(command, whole=True)
        if family == 4:
            via = parse_address(data["nexthop"]) if data["nexthop"] else None
        entries.append(Entry(parse_prefix(data["prefix"]), data["metric"], data["tag"], via))
    return Packet(command, tuple(entries))


# --- whole cases ---


def lines(path: Path) -> list[Any]:
    """Read a file of JSON lines; one that is not there has none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def start(root: Path, protocol: str, topology: str, router: str) -> Player:
    """Bring an instance into the state of a router."""
    place = root / protocol / "topologies" / topology / router
    player = Player(protocol, json.loads((place / "config.json").read_text()))
    for event in lines(place / "events.jsonl"):
        player.event(event)
    return player


def compare(player: Player, place: Path, prefix: str, suffix: str = "", *, timed: bool = True) -> list[str]:
    """Give in which of its outputs a player differs from a case.

    Not timed: which changes share a packet is left open, and what was last said of each prefix counts.  A way that
    was better for a moment alone may have been announced there, and not by us.
    """
    sent, routes = player.take()
    wrong = []
    wanted_sent = []
    for line in lines(place / f"{prefix}protocol.jsonl"):
        data = line["UdpTxPdu"]
        destination = re.sub(r"%\d+|[][]", "", data["dst"])
        wanted_sent.append((data["ifname"], destination, *_plain(expected_packet(player.family, data["pdu"]))))
    if timed and Counter(sent) != Counter(wanted_sent):
        beyond, missing = Counter(sent) - Counter(wanted_sent), Counter(wanted_sent) - Counter(sent)
        wrong.append(f"packets{suffix}: {list(beyond)} beyond, {list(missing)} missing")
    if not timed:
        ours, theirs = set(_last(sent).items()), set(_last(wanted_sent).items())
        if ours - theirs or len(theirs - ours) > 1:
            wrong.append(f"packets{suffix}: {ours ^ theirs}")
    wanted_routes = [_wanted_route(line) for line in lines(place / f"{prefix}ibus.jsonl") if "InterfaceSub" not in line]
    if Counter(routes) != Counter(filter(None, wanted_routes)):
        wrong.append(f"routes{suffix}: {routes}, not {wanted_routes}")
    state = place / f"{prefix}northbound-state.json"
    if state.exists():
        wanted, shown = _wanted_state(json.loads(state.read_text())), player.shown()
        if shown["routes"] != wanted["routes"]:
            wrong.append(f"table{suffix}: {set(shown['routes'].items()) ^ set(wanted['routes'].items())}")
        # Holo keeps the neighbors of a lost interface, and counts those too that only ask or err.
        if not shown["neighbors"] <= wanted["neighbors"]:
            wrong.append(f"neighbors{suffix}: {shown['neighbors']}, not {wanted['neighbors']}")
    return wrong


def _last(packets: list[Any]) -> dict[Any, Any]:
    """Give what was last said where of each prefix."""
    return {
        (interface, destination, entry[0]): entry[1:]
        for interface, destination, command, entries in packets
        if command == "Response"
        for entry in entries
    }


def _wanted_route(line: dict[str, Any]) -> Any:
    ((kind, data),) = line.items()
    if kind == "RouteIpDel":
        return ("del", data["prefix"])
    if kind != "RouteIpAdd":
        return None
    hop = data["nexthops"][0]["Address"]["addr"]
    return ("add", data["prefix"], data["distance"], data["metric"], data["tag"], hop)


def _wanted_state(data: dict[str, Any]) -> dict[str, Any]:
    (process,) = data["ietf-routing:routing"]["control-plane-protocols"]["control-plane-protocol"]
    rip = process["ietf-rip:rip"]
    family = rip.get("ipv4") or rip.get("ipv6") or {}
    rows = {}
    for row in family.get("routes", {}).get("route", ()):
        prefix = row.get("ipv4-prefix") or row["ipv6-prefix"]
        rows[prefix] = (row["metric"], row.get("next-hop") if row["metric"] < 16 else None)
    neighbors = family.get("neighbors", {}).get("neighbor", ())
    return {"routes": rows, "neighbors": {each.get("ipv4-address") or each["ipv6-address"] for each in neighbors}}


def play_topology(root: Path, protocol: str, topology: str, router: str) -> list[str]:
    """Play what a router lived through; give in what we differ."""
    player = start(root, protocol, topology, router)
    return compare(player, root / protocol / "topologies" / topology / router / "output", "", timed=False)


def play_case(root: Path, protocol: str, case: str, where: tuple[str, str]) -> list[str]:
    """Play the steps of a case; give in what we differ."""
    player = start(root, protocol, *where)
    player.begin()
    place = root / protocol / case
    wrong = []
    for number in sorted({path.name[:2] for path in place.iterdir()}):
        for path in sorted(place.glob(f"{number}-input-*")):
            kind = path.name[len("NN-input-") :].partition(".")[0]
            if kind == "northbound-config-change":
                player.change(json.loads(path.read_text()))
            elif kind == "northbound-rpc":
                player.clear()
            else:
                for line in lines(path):
                    (player.ibus if kind == "ibus" else player.protocol_input)(line)
        player.settle()
        wrong += compare(player, place, f"{number}-output-", f" of step {number}")
    return wrong
