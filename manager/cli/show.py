"""The `vr show` commands: plain data, made from segments where they are enough."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastpath import accounts, stats
from fastpath import interfaces as published
from fastpath import routes as installed
from fastpath import sockets as tcp
from manager.cli.client import Manager
from manager.cli.echo import parse_address
from manager.cli.errors import CliError, Exit
from manager.cli.segments import open_segments, recorded_routers
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from fastpath.segment import Segment
    from manager.cli.main import Request

ROUTER_KEYS: Final = ("name", "state", "id", "pids", "restarts", "netns")
UNKNOWN_MAC: Final = "00:00:00:00:00:00"
_PROTOCOLS: Final = {1: "icmp", 17: "udp", 58: "icmp"}


def routers(request: Request) -> list[dict[str, Any]]:
    """Show all routers; without a manager what it wrote last, with the pids that still live."""
    try:
        with Manager(request.run_dir) as manager:
            found = manager.call(ManagerOp.ROUTERS)
    except CliError as problem:
        try:
            recorded = recorded_routers(request.run_dir)
        except CliError:
            raise problem from None
        found = [_checked(router) for router in recorded]
    return [{key: router.get(key) for key in ROUTER_KEYS} for router in found]


def _checked(router: dict[str, Any]) -> dict[str, Any]:
    """Correct a recorded router by what lives."""
    pids = {
        role: pid if pid and _is_ours(pid, router["name"]) else None for role, pid in (router.get("pids") or {}).items()
    }
    state = router["state"] if pids.get("forwarder") else "down"
    return router | {"pids": pids, "state": state}


def _is_ours(pid: int, router: str) -> bool:
    """Tell a process of that router from one that has got its pid since."""
    with contextlib.suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        return title.startswith(f"anabranch: {router} ".encode())
    return False


def _recorded(request: Request) -> dict[str, Any]:
    """Give what only the manager knows of a router: devices, processes."""
    with contextlib.suppress(CliError):
        for router in recorded_routers(request.run_dir):
            if router["name"] == request["router"]:
                return router
    return {}


def unsent(table: str) -> dict[str, int]:
    """Take out of a proc(5) net/dev how many frames each device was given and has dropped."""
    lines = (line.partition(":") for line in table.splitlines()[2:])
    return {name.strip(): int(counts.split()[11]) for name, _colon, counts in lines}


def _unsent(router: dict[str, Any]) -> dict[str, int]:
    """Ask the kernel about the devices of a router: who forwards at the driver never hears of that."""
    with contextlib.suppress(OSError):
        return unsent(Path(f"/proc/{router['pids'].get('forwarder')}/net/dev").read_text())
    return {}


def interfaces(request: Request) -> list[dict[str, Any]]:
    """Show interfaces with their counters."""
    router = _recorded(request)
    recorded = router.get("interfaces") or {}
    lost = _unsent(router) if any(interface.get("offload") for interface in recorded.values()) else {}
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        ports = _ports(state)
        return [
            _interface(entry, ports.get(entry.port), recorded.get(entry.name, {}), state)
            | ({"device_drops": lost[device]} if (device := recorded.get(entry.name, {}).get("device")) in lost else {})
            for entry in published.published(tables)
        ]


def _ports(state: Segment) -> dict[int, dict[str, Any]]:
    """Give the ports by number, with what the rings of all workers have counted."""
    found: dict[int, dict[str, Any]] = {}
    for part in stats.ports(state):
        port = found.setdefault(part["port"], part)
        if port is not part and port["generation"] == part["generation"]:
            port["rx_kernel_drops"] += part["rx_kernel_drops"]
            port["rings"] = {name: count + part["rings"][name] for name, count in port["rings"].items()}
    return found


def _interface(
    entry: published.Published, port: dict[str, Any] | None, recorded: dict[str, Any], state: Segment
) -> dict[str, Any]:
    loopback = entry.kind == "loopback"
    working = loopback or (port is not None and port["present"] and port["link_up"] and not port["failed"])
    found: dict[str, Any] = {
        "name": entry.name,
        "device": recorded.get("device"),
        "driver": "loopback" if loopback else port["driver"] if port else recorded.get("driver"),
        "state": "up" if entry.admin_up and working else "down",
        "mtu": entry.mtu,
        "mac": entry.mac,
        "addresses": list(entry.addresses),
        "vlan": entry.vlan or None,
        "index": entry.index,
        "counters": stats.interface_counters(state, entry.index),
    }
    if port is not None and port["mode"]:
        copied = [] if "zero-copy" in port["mode"] else ["copy"]
        found["mode"] = [*port["mode"][:1], *copied, *port["mode"][1:]]
        found["rings"] = {"rx_dropped": port["rx_kernel_drops"], **port["rings"]}
        found["queues"] = recorded.get("queues", 1)
    if recorded.get("offload"):
        found["offload"] = recorded["offload"]
        found["offload_kind"] = recorded["offload_kind"]
    if recorded.get("driver_reason"):
        found["driver_reason"] = recorded["driver_reason"]
    if recorded.get("problem"):
        found["problem"] = recorded["problem"]
    return found


def neighbors(request: Request) -> list[dict[str, Any]]:
    """Show ARP and ND entries."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        names = published.names(tables)
        return [_neighbor(entry, names) for entry in stats.neighbors(state)]


def _neighbor(entry: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    mac = None if entry["mac"] == UNKNOWN_MAC else entry["mac"]
    return entry | {"mac": mac, "interface": names.get(entry["interface"], f"#{entry['interface']}")}


def routes(request: Request) -> list[dict[str, Any]]:
    """Show the routes that control has installed."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        return _with_macs(installed.routes(tables), tables, state)


def fib(request: Request) -> list[dict[str, Any]]:
    """Show the entries that the forwarder's look-up really leads to."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        found = [entry for entry in installed.routes(tables) if _is_used(tables, entry["prefix"])]
        return _with_macs(found, tables, state)


def _is_used(tables: Segment, prefix: str) -> bool:
    """Tell whether a look-up inside the prefix comes to it, or to a longer one."""
    network = ipaddress.ip_network(prefix)
    for address in (network.network_address, network.broadcast_address):
        entry = installed.lookup(tables, str(address))
        if entry is None or ipaddress.ip_network(entry["prefix"]).prefixlen < network.prefixlen:
            return False
    return True


def route(request: Request) -> dict[str, Any]:
    """Show the entry that would be used for an address."""
    address = parse_address(request["address"])[1]
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        entry = installed.lookup(tables, address)
        if entry is None:
            raise CliError(f"{request['router']} has no route to {address}", "no-route", Exit.NEGATIVE)
        return {"address": address, **_with_macs([entry], tables, state, address)[0]}


def _with_macs(
    entries: list[dict[str, Any]], tables: Segment, state: Segment, destination: str | None = None
) -> list[dict[str, Any]]:
    """Add to each next hop the MAC of its neighbor where it is known; on a connected network the destination's."""
    names = published.names(tables)
    known = {
        (entry["address"], names.get(entry["interface"])): entry["mac"]
        for entry in stats.neighbors(state)
        if entry["mac"] != UNKNOWN_MAC
    }

    def complete(hop: dict[str, Any]) -> dict[str, Any]:
        mac = None if hop.get("kind") else known.get((hop["via"] or destination, hop["interface"]))
        return hop | {"mac": mac} if mac else hop

    return [entry | {"nexthops": [complete(hop) for hop in entry["nexthops"]]} for entry in entries]


def drops(request: Request) -> list[dict[str, Any]]:
    """Show drops, the most frequent first; `interface` is where the packet came in, null for our own."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        found: list[dict[str, Any]] = [
            {"reason": reason, "interface": None, "packets": count} for reason, count in stats.host_drops(state).items()
        ]
        for index, name in published.names(tables).items():
            counted = stats.interface_counters(state, index)["drops"]
            found += [{"reason": reason, "interface": name, "packets": count} for reason, count in counted.items()]
    return sorted(found, key=lambda drop: -drop["packets"])


def sockets(request: Request) -> list[dict[str, Any]]:
    """Show the sockets of programs in a router."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        names = published.names(tables)
        owners = accounts.accounts(state)
        shown = [_socket(entry, names, owners) for entry in stats.sockets(state)]
        shown += [_connection(entry, names, owners) for entry in tcp.connections(state)]
        return shown + _counted("syn-received", tcp.half_open(state)) + _counted("time-wait", tcp.time_wait(state))


def _counted(state: str, count: int) -> list[dict[str, Any]]:
    """Give one line for connections that are no program's: no longer, or not yet."""
    about = dict.fromkeys(("socket", "family", "local", "remote", "interface", "app", "pid", "uid", "identity"))
    return [{"type": "tcp", "protocol": 6, "state": state, "count": count, **about}] if count else []


def _identity(entry: dict[str, Any], owners: dict[int, dict[str, Any]]) -> str:
    owner = owners.get(entry["account"])
    return str(owner["identity"]) if owner else f"uid:{entry['uid']}"


def _connection(entry: dict[str, Any], names: dict[int, str], owners: dict[int, dict[str, Any]]) -> dict[str, Any]:
    index = entry["interface"]
    kept = {key: value for key, value in entry.items() if key not in {"local_port", "remote_port", "rtt_us", "account"}}
    return kept | {
        "type": "tcp",
        "protocol": 6,
        "local": _endpoint(entry["local"], entry["local_port"]),
        "remote": _endpoint(entry["remote"], entry["remote_port"]) if entry["remote"] else None,
        "interface": names.get(index, f"#{index}") if index else None,
        "identity": _identity(entry, owners),
        "rtt_ms": round(entry["rtt_us"] / 1000, 3),
    }


def _socket(entry: dict[str, Any], names: dict[int, str], owners: dict[int, dict[str, Any]]) -> dict[str, Any]:
    kind = "raw" if entry["type"] == "raw" else _PROTOCOLS.get(entry["protocol"], str(entry["protocol"]))
    index = entry["interface"]
    return {
        "socket": entry["socket"],
        "type": kind,
        "family": entry["family"],
        "protocol": entry["protocol"],
        "state": "connected" if entry["remote"] else "open",
        "local": _endpoint(entry["local"], entry["local_port"]),
        "remote": _endpoint(entry["remote"], entry["remote_port"]) if entry["remote"] else None,
        "interface": names.get(index, f"#{index}") if index else None,
        "app": entry["app"],
        "pid": entry["pid"],
        "uid": entry["uid"],
        "identity": _identity(entry, owners),
        "orphaned": entry["orphaned"],
        "rx_packets": entry["rx_packets"],
        "tx_packets": entry["tx_packets"],
        "rx_drops": entry["rx_drops"],
    }


def _endpoint(address: str, port: int | None) -> str:
    shown = "*" if address in ("0.0.0.0", "::") else f"[{address}]" if ":" in address else address
    return f"{shown}:{port}" if port else f"{shown}:*"
