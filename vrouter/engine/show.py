"""What the engine itself answers operators: the RIB, why a route was chosen, the instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from vrouter.filters import explain as acl_explain
from vrouter.net.address import Prefix, parse_address, parse_prefix
from vrouter.rib import explain, policy_show
from vrouter.rib.route import Protocol

if TYPE_CHECKING:
    from vrouter.engine.engine import Engine

PAGE: Final = 1000  # entries of one answer, unless asked for fewer


def show(engine: Engine, instance: str, query: str, arguments: Mapping[str, Any], now: float) -> Any:
    """Answer, or let an instance answer.  Raises KeyError for what nobody knows, ValueError for bad arguments."""
    own = _QUERIES.get((instance, query))
    if own is not None:
        return own(engine, arguments, now)
    hosted = engine.hosted.get(instance)
    if hosted is None or hosted.instance is None:
        raise KeyError(instance)
    return hosted.instance.show(query, arguments, now)


def _routes(engine: Engine, arguments: Mapping[str, Any], _now: float) -> Any:
    """Page through the RIB: {protocol?, after?: PREFIX, limit?} -> {routes, after: PREFIX | None}."""
    protocol = arguments.get("protocol")
    wanted = () if protocol is None else (_protocol(str(protocol)),)
    after: Prefix | None = parse_prefix(str(arguments["after"])) if arguments.get("after") else None
    limit = min(max(int(arguments.get("limit") or PAGE), 1), PAGE)
    found = explain.rows(engine.rib, wanted, after, limit)
    return {"routes": found, "after": found[-1]["prefix"] if len(found) >= limit else None}


def _explain(engine: Engine, arguments: Mapping[str, Any], now: float) -> Any:
    """Tell which route to an address is used, and why no other: {address} -> the RIB's answer, and BGP's paths."""
    address = parse_address(str(arguments["address"]))
    table = engine.routes.table
    best = None if table is None else table.lookup(address)
    answer = explain.explain(engine.rib, address, best)
    hosted = engine.hosted.get(engine.routes.owner)
    if best is not None and hosted is not None and hosted.instance is not None:
        answer["bgp"] = hosted.instance.show("prefix", {"prefix": str(best.prefix)}, now)
    return answer


def _instances(engine: Engine, _arguments: Mapping[str, Any], now: float) -> Any:
    """Tell which protocols run."""
    return [
        {
            "name": hosted.name,
            "state": "running" if hosted.instance is not None else "failed",
            "age": round(now - hosted.born, 3),
            "failures": hosted.failures,
            "sockets": len(hosted.sockets),
            "routes": len(hosted.routes),
        }
        for hosted in engine.hosted.values()
        if hosted.instance is not None or hosted.retry_at is not None
    ]


def _protocol(name: str) -> Protocol:
    try:
        return Protocol[name.upper()]
    except KeyError:
        raise ValueError(f"no protocol {name!r}") from None


_QUERIES: Final[dict[tuple[str, str], Callable[[Engine, Mapping[str, Any], float], Any]]] = {
    ("rib", "routes"): _routes,
    ("rib", "explain"): _explain,
    ("policy", "list"): lambda engine, arguments, _now: policy_show.listing(engine.policies, arguments),
    ("policy", "explain"): lambda engine, arguments, _now: policy_show.explain(engine.policies, arguments),
    ("acl", "explain"): lambda engine, arguments, _now: acl_explain.explain(engine.root.acls, arguments),
    ("engine", "instances"): _instances,
}
