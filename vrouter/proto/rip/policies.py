"""Route policies as RIP applies them: to what is heard, redistributed and announced.

Of what a policy can set, metric and tag mean something here; a metric beyond 15 refuses the route.
"""

from __future__ import annotations

from typing import Any, Final

from vrouter.net.address import Address, Prefix
from vrouter.proto.rip.table import Row
from vrouter.rib.policy import Changes, PolicySet, RouteView, route_view
from vrouter.rib.route import Protocol, Route
from vrouter.wire.rip.packet import INFINITY

_MAX_TAG: Final = 0xFFFF
_KINDS: Final = {protocol.name.lower(): protocol for protocol in Protocol}


class Policies:
    """The policies of a VR; without a name, all is accepted as it is."""

    def __init__(self, policies: Any) -> None:
        self._policies: PolicySet | None = policies

    def heard(
        self, name: str | None, prefix: Prefix, metric: int, tag: int, sender: tuple[str, Address]
    ) -> tuple[int, int] | None:
        """Give metric and tag of what a neighbor on an interface says; None: refused."""
        if name is None:
            return metric, tag
        view = RouteView(prefix, Protocol.RIP, metric=metric, tag=tag, interface=sender[0], neighbor=sender[1])
        return self._judge(name, view)

    def announced(self, name: str | None, row: Row, metric: int, tag: int, interface: str) -> tuple[int, int] | None:
        """Give metric and tag of what is announced on an interface; None: refused."""
        if name is None:
            return metric, tag
        protocol = _KINDS.get(row.own.kind, Protocol.STATIC) if row.own is not None else Protocol.RIP
        return self._judge(name, RouteView(row.prefix, protocol, metric=metric, tag=tag, interface=interface))

    def redistributed(self, name: str | None, route: Route, metric: int) -> tuple[int, int] | None:
        """Give metric and tag of another protocol's route; None: refused."""
        if name is None:
            return metric, route.tag & _MAX_TAG
        changes = self._evaluate(name, route_view(route))
        if changes is None:
            return None
        # The metric of another protocol says nothing here, unless the policy sets one.
        chosen = metric if changes.metric is None else changes.metric
        tag = route.tag if changes.tag is None else changes.tag
        return (chosen, tag & _MAX_TAG) if 1 <= chosen < INFINITY else None

    def same(self, other: Policies, name: str | None) -> bool:
        """Tell whether a policy is what it is in another set."""
        if name is None or self._policies is other._policies:
            return True
        if self._policies is None or other._policies is None:
            return False
        known = name in self._policies
        return known == (name in other._policies) and (
            not known or self._policies.number(name) == other._policies.number(name)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policies) and self._policies is other._policies

    def __hash__(self) -> int:
        return id(self._policies)

    def _judge(self, name: str, view: RouteView) -> tuple[int, int] | None:
        changes = self._evaluate(name, view)
        changed = changes.apply(view) if changes is not None else None
        if changed is None or changed.metric >= INFINITY:
            return None
        return max(changed.metric, 1), changed.tag & _MAX_TAG

    def _evaluate(self, name: str, view: RouteView) -> Changes | None:
        if self._policies is None or name not in self._policies:
            return None
        verdict = self._policies.evaluate(name, view)
        return verdict.changes if verdict.accept else None
