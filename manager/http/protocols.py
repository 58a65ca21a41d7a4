"""What a router's protocols tell of themselves, asked over the manager as `vr show` does.

A protocol that does not run is not asked; one that does not answer in time is left out of this scrape.
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
from typing import TYPE_CHECKING, Any, Final

from manager.http.exposition import Families
from manager.http.upstream import Upstream, UpstreamError
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK: Final = 1.0
# As bgpPeerState of RFC 4273; what an operator has shut is idle.
BGP_STATES: Final = {
    "idle": 1, "connect": 2, "active": 3, "open-sent": 4, "open-confirm": 5, "established": 6,
}  # fmt: skip

LAG: Final = 'How long a turn of the loop of a control, or of the manager (vr=""), kept all else waiting.'
INPUT: Final = "Time that control took for an input, with all that came of it, by its kind."
FAILED: Final = "Requests of the manager and of operators that failed by a fault of the control's."
_UPDATES: Final = "Time of BGP's table for what a neighbor sent (feed), and for a part of what follows (process)."
_TIMED: Final[dict[str, tuple[str, str, dict[str, str]]]] = {
    "loop_lag": ("loop_lag_seconds", LAG, {}),
    "bgp_feed": ("bgp_update_seconds", _UPDATES, {"part": "feed"}),
    "bgp_process": ("bgp_update_seconds", _UPDATES, {"part": "process"}),
    "spf": ("ospf_spf_seconds", "Time of a computation of shortest paths.", {}),
}


def collect(families: Families, upstream: Upstream, vr: str) -> None:
    """Ask each protocol that runs, and add what it tells."""

    def ask(instance: str, query: str) -> Any:
        fields = {"name": vr, "instance": instance, "query": query, "arguments": {}}
        return upstream.call(ManagerOp.SHOW, QUICK, **fields)

    with contextlib.suppress(UpstreamError):
        told = ask("control", "metrics")
        _timings(families, vr, told)
        for instance in told["instances"]:
            name = str(instance["name"])
            if instance["state"] == "running" and name in _ADD:
                query, add = _ADD[name]
                add(families, vr, name, ask(name, query))


def _timings(families: Families, vr: str, told: dict[str, Any]) -> None:
    for name, timings in told["timings"].items():
        if name in _TIMED:
            metric, text, labels = _TIMED[name]
            families.add_timings(metric, text, timings, vr=vr, **labels)
    for kind, timings in told["inputs"].items():
        families.add_timings("control_input_seconds", INPUT, timings, vr=vr, input=str(kind))
    families.add("control_failed_requests", "counter", FAILED, told.get("failed_requests", 0), vr=vr)


def _bgp(families: Families, vr: str, _name: str, neighbors: list[dict[str, Any]]) -> None:
    for each in neighbors:
        peer = str(each["neighbor"])
        state = BGP_STATES.get(each["state"], 1)
        session = each.get("session") or {}
        own = f"ipv{ipaddress.ip_address(peer.partition('%')[0]).version}"
        for afi in session.get("families") or [own]:
            text = "State of a session: 1 idle, 2 connect, 3 active, 4 open-sent, 5 open-confirm, 6 established."
            labels = {"vr": vr, "peer": peer, "asn": str(each["remote_as"] or ""), "afi": str(afi)}
            families.add("bgp_peer_state", "gauge", text, state, **labels)
        if state == BGP_STATES["established"] and each["since"] is not None:
            text = "For how long a session has been established."
            families.add("bgp_peer_uptime_seconds", "gauge", text, each["since"], vr=vr, peer=peer)
        for afi, counts in each["families"].items():
            for kind, count in counts.items():
                text = "Prefixes of a session: received, accepted of these, stale of these, sent."
                families.add("bgp_prefixes", "gauge", text, count, vr=vr, peer=peer, afi=str(afi), kind=str(kind))
        for direction, kinds in each["messages"].items():
            for kind, count in kinds.items():
                labels = {"vr": vr, "peer": peer, "type": str(kind), "dir": str(direction)}
                families.add("bgp_messages", "counter", "Messages of a neighbor.", count, **labels)


def _ospf(families: Families, vr: str, _name: str, neighbors: list[dict[str, Any]]) -> None:
    counted = collections.Counter((str(each["area"]), str(each["state"])) for each in neighbors)
    for (area, state), count in sorted(counted.items()):
        families.add("ospf_neighbors", "gauge", "OSPF neighbors by their state.", count, vr=vr, area=area, state=state)


def _rip(families: Families, vr: str, name: str, summary: dict[str, Any]) -> None:
    if summary["running"]:
        labels = {"vr": vr, "protocol": name}
        families.add("rip_neighbors", "gauge", "Neighbors that were heard.", summary["neighbors"], **labels)
        families.add("rip_routes", "gauge", "Routes in the table of RIP.", summary["routes"], **labels)


_ADD: Final[dict[str, tuple[str, Callable[[Families, str, str, Any], None]]]] = {
    "bgp": ("neighbor", _bgp),
    "ospf": ("neighbor", _ospf),
    "rip": ("summary", _rip),
    "ripng": ("summary", _rip),
}
