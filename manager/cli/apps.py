"""`vr show apps`, `groups` and `calls`: who uses the sockets of routers, and how long that takes."""

from __future__ import annotations

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastpath import accounts, calls, stats
from fastpath import interfaces as published
from fastpath import sockets as tcp
from manager.cli.errors import CliError
from manager.cli.segments import open_segments, recorded_routers
from rsock.wire import Op

if TYPE_CHECKING:
    from fastpath.segment import Segment
    from manager.cli.main import Request

_COUNTS: Final = ("bytes_sent", "bytes_received", "tx_packets", "rx_packets")
_BOOKED: Final = ("opens", "accepts", "rests", "memory")
_Key = tuple[str, str | None, int | None]  # identity, name, pid


def apps(request: Request) -> list[dict[str, Any]]:
    """Show the processes that hold sockets; opens and denials are those of the whole identity."""
    found: dict[_Key, dict[str, Any]] = {}
    books: dict[str, dict[str, Any]] = {}
    for router, state in _states(request):
        known = accounts.accounts(state)
        for account in known.values():
            _add(books.setdefault(account["identity"], dict.fromkeys(_BOOKED, 0) | {"denials": {}}), account)
        for key, kind, entry in _held(state, known):
            row = found.setdefault(key, _empty(key))
            row["routers"][router] = row["routers"].get(router, 0) + 1
            row["sockets"][kind] += 1
            for name in _COUNTS:
                row[name] += entry.get(name, 0)
    for identity in books.keys() - {identity for identity, _app, _pid in found}:
        found[identity, None, None] = _empty((identity, None, None))
    rows = [row | {"sockets": dict(row["sockets"])} | books.get(row["identity"], {}) for row in found.values()]
    return sorted(rows, key=lambda row: (row["identity"], row["app"] or "", row["pid"] or 0))


def _states(request: Request) -> Iterator[tuple[str, Segment]]:
    """Map the states of the router that is asked for, or of all that run."""
    if request["router"]:
        with open_segments(request.run_dir, request["router"]) as (_tables, state):
            yield request["router"], state
        return
    for router in recorded_routers(request.run_dir):
        with contextlib.suppress(CliError), open_segments(request.run_dir, router["name"]) as (_tables, state):
            yield router["name"], state


def _held(state: Segment, known: dict[int, dict[str, Any]]) -> Iterator[tuple[_Key, str, dict[str, Any]]]:
    """Give the sockets of a router: whose, of which type, and what is told of them."""
    for entry in stats.sockets(state):
        kind = "raw" if entry["type"] == "raw" else "udp" if entry["protocol"] == 17 else "icmp"
        yield _key(entry, known), kind, entry
    for entry in tcp.connections(state):
        yield _key(entry, known), "listen" if entry["state"] == "listen" else "tcp", entry


def _key(entry: dict[str, Any], known: dict[int, dict[str, Any]]) -> _Key:
    account = known.get(entry["account"])
    return account["identity"] if account else f"uid:{entry['uid']}", entry["app"], entry["pid"]


def _empty(key: _Key) -> dict[str, Any]:
    identity, app, pid = key
    return {
        "identity": identity, "app": app, "pid": pid, "lives": pid is not None and Path(f"/proc/{pid}").exists(),
        "routers": {}, "sockets": Counter(), **dict.fromkeys(_COUNTS, 0),
    }  # fmt: skip


def _add(book: dict[str, Any], account: dict[str, Any]) -> None:
    for name in _BOOKED:
        book[name] += account[name]
    for denial, count in account["denials"].items():
        book["denials"][denial] = book["denials"].get(denial, 0) + count


def groups(request: Request) -> list[dict[str, Any]]:
    """Show the multicast groups that sockets of a router have joined."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        names = published.names(tables)
        known = accounts.accounts(state)
        owners = {entry["socket"]: entry for entry in stats.sockets(state)}
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for joined in stats.memberships(state):
            owner = owners.get(joined["socket"])
            if owner is None:
                continue
            interface = names.get(joined["interface"], f"#{joined['interface']}")
            identity, app, pid = _key(owner, known)
            member = {"socket": joined["socket"], "identity": identity, "app": app, "pid": pid,
                      "mode": joined["mode"], "sources": joined["sources"]}  # fmt: skip
            found.setdefault((interface, joined["group"]), []).append(member)
    return [
        {"interface": interface, "group": group, **_filter(members), "members": members}
        for (interface, group), members in sorted(found.items(), key=_order)
    ]


def _order(item: tuple[tuple[str, str], object]) -> tuple[str, int, int]:
    address = ipaddress.ip_address(item[0][1])
    return item[0][0], address.version, int(address)


def _filter(members: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the filter of an interface from those of its sockets (RFC 3376 section 3.2)."""
    excluded = [set(member["sources"]) for member in members if member["mode"] == "exclude"]
    included = {source for member in members if member["mode"] == "include" for source in member["sources"]}
    if not excluded:
        return {"mode": "include", "sources": sorted(included)}
    return {"mode": "exclude", "sources": sorted(set.intersection(*excluded) - included)}


def call_times(request: Request) -> list[dict[str, Any]]:
    """Show how long the forwarder has worked on the requests of each kind."""
    with open_segments(request.run_dir, request["router"]) as (_tables, state):
        return calls.calls(state, {int(op): op.name.lower() for op in Op})
