"""Another project's conformance data of OSPFv2: its topologies as networks in virtual time, its states as values."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.unit.ospf_network import Network
from vrouter.config import ospf as config
from vrouter.net.address import Address, network, parse_interface_address

ARCHIVE: Final = Path(os.environ.get("ANABRANCH_TEST_DATA", "/nonexistent")) / "holo-conformance-rip-ospf.tar.xz"
ROOT: Final = "holo/holo-ospf/tests/conformance/ospfv2/"
TYPES: Final = (1, 2, 3, 4, 5)
Topology = dict[str, dict[str, str]]  # router -> file -> text


def contents() -> dict[tuple[str, ...], str]:
    """All files by their place."""
    with tarfile.open(ARCHIVE) as archive:
        files = [member for member in archive if member.isfile() and member.name.startswith(ROOT)]
        return {
            tuple(member.name.removeprefix(ROOT).split("/")): archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in files
        }


def topologies(files: dict[tuple[str, ...], str]) -> dict[str, Topology]:
    found: dict[str, Topology] = {}
    for place, text in files.items():
        if place[0] == "topologies" and len(place) > 3:
            found.setdefault(place[1], {}).setdefault(place[2], {})[place[-1]] = text
    return found


def protocol(text: str) -> dict[str, Any]:
    control = json.loads(text)["ietf-routing:routing"]["control-plane-protocols"]["control-plane-protocol"]
    (ospf,) = [entry["ietf-ospf:ospf"] for entry in control if "ietf-ospf:ospf" in entry]
    return dict(ospf)


def area(written: dict[str, Any]) -> config.Area:
    interfaces = {
        entry["name"]: config.OspfInterface(
            cost=entry.get("cost"),
            network=entry.get("interface-type", "broadcast"),
            passive=entry.get("passive", False),
            priority=entry.get("priority", 1),
            hello_interval=float(entry.get("hello-interval", 10)),
            dead_interval=float(entry.get("dead-interval", 40)),
        )
        for entry in written.get("interfaces", {}).get("interface", [])
    }
    return config.Area(
        type="stub" if "stub" in written.get("area-type", "") else "normal",
        summaries=written.get("summary", True),
        default_cost=written.get("default-cost", 10),
        ranges={
            entry["prefix"]: config.Range(advertise=entry.get("advertise", True), cost=entry.get("cost"))
            for entry in written.get("ranges", {}).get("range", [])
        },
        interfaces=interfaces,
    )


def settings(written: dict[str, Any]) -> config.Ospf:
    areas = {entry["area-id"]: area(entry) for entry in written.get("areas", {}).get("area", [])}
    preference = written.get("preference", {})
    return config.Ospf(
        router_id=written.get("explicit-router-id"),
        areas=areas,
        preference=preference.get("all", preference.get("internal", 110)),
    )


def addresses(events: str) -> dict[str, str]:
    """The IPv4 address of each interface, as the first events tell."""
    found: dict[str, str] = {}
    for line in events.splitlines():
        told = json.loads(line).get("Ibus", {}).get("InterfaceAddressAdd")
        if told and ":" not in told["addr"]:
            found.setdefault(told["ifname"], told["addr"])
    return found


def link(router: str, interface: str, own: Address, length: int) -> str:
    """Name the link that an interface is on: by its prefix, or where addresses are borrowed, by its own name."""
    match = re.fullmatch(r"eth-(rt\d+)(-\d+)?", interface)
    if length < 32 or match is None:
        return str(network(own, length))
    return "-".join(sorted((router, match[1]))) + (match[2] or "")


def boot(topology: Topology) -> Network:
    net = Network()
    for name, files in sorted(topology.items()):
        written = protocol(files["config.json"])
        interfaces = {}
        for interface, text in addresses(files["events.jsonl"]).items():
            own, length = parse_interface_address(text)
            interfaces[interface] = text if interface == "lo" else f"{text}@{link(name, interface, own, length)}"
        net.add(name, interfaces, settings(written))
    net.run(120)
    return net


def recorded_routes(state: dict[str, Any]) -> set[Any]:
    return {
        (
            route["prefix"],
            route["metric"],
            route["route-type"],
            tuple(
                sorted(
                    (hop["outgoing-interface"], hop.get("next-hop", ""))
                    for hop in route.get("next-hops", {}).get("next-hop", [])
                )
            ),
        )
        for route in state.get("local-rib", {}).get("route", [])
    }


def own_routes(net: Network, name: str) -> set[Any]:
    return {
        (
            row["prefix"],
            row["cost"],
            row["kind"],
            tuple(sorted((hop["interface"], hop["via"] or "") for hop in row["nexthops"])),
        )
        for row in net.nodes[name].show("route")["rows"]
    }


def differences(net: Network, name: str, state: dict[str, Any]) -> list[str]:
    node = net.nodes[name]
    found = []
    routes, expected = own_routes(net, name), recorded_routes(state)
    if routes != expected:
        found.append(f"routes {sorted(routes ^ expected)[:6]}")
    for entry in state["areas"]["area"]:
        counts = Counter(
            e.header.type
            for e in node.instance._core.areas[
                Address(4, parse_interface_address(entry["area-id"])[0].value).value
            ].database
        )
        told = {
            row["lsa-type"]: row["lsa-count"]
            for row in entry["statistics"]["database"]["area-scope-lsa-type"]
            if row["lsa-type"] in TYPES
        }
        if {kind: counts[kind] for kind in told} != told:
            found.append(f"area {entry['area-id']}: LSAs {dict(counts)} and not {told}")
        for interface in entry.get("interfaces", {}).get("interface", []):
            rows = {row["router_id"]: row["state"] for row in node.show("neighbor", interface=interface["name"])}
            neighbors = interface.get("neighbors", {}).get("neighbor", [])
            if rows != {n["neighbor-router-id"]: n["state"] for n in neighbors}:
                found.append(f"{interface['name']}: neighbors {rows}")
    return found
