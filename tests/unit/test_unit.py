"""One VR as the manager holds it: what it tells a control, and in which order."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from manager.member import Phase
from manager.resolve import InterfacePlan, PortFacts, PortPlan, RouterPlan
from manager.unit import Box, Unit
from vrouter.config.schema import Dns

if TYPE_CHECKING:
    from collections.abc import Callable

    from manager.peers import ControlPeer, ForwarderPeer
    from manager.ports import Port


class RecordingControl:
    """Takes requests and answers none."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def request(self, op: str, _result: object = None, **fields: Any) -> None:
        self.requests.append((str(op), fields))


def test_a_control_hears_of_the_links_before_its_configuration() -> None:
    """A link that it does not know is up: a new control would open routes over a dead one for a moment."""
    port_plan = PortPlan("device", "eth1")
    interface = InterfacePlan("lan", "ethernet", port_plan.key, 0, None, ("10.0.0.1/24",))
    plan = RouterPlan("red", {port_plan.key: port_plan}, frozenset(), (interface,), (), (), Dns())
    reactor = SimpleNamespace(after=lambda _seconds, _callback: SimpleNamespace(cancel=lambda: None))
    box = SimpleNamespace(
        reactor=reactor, run_dir=Path("/nonexistent"), changed=lambda _unit, _reason: None, relay_uid=lambda: 0
    )
    unit = Unit(cast("Box", box), plan, 1, (1000, 1001))
    facts = PortFacts(1, "02:00:00:00:00:01", 1500)
    port = SimpleNamespace(id=1, present=True, link_up=False, mtu=1500, facts=facts)
    unit.ports[port_plan.key] = cast("Port", port)
    control = RecordingControl()
    unit.control_link._peer = cast("ControlPeer", control)
    unit.control.phase = Phase.GREETING
    unit.control_link.answered()
    assert [op for op, _fields in control.requests][:2] == ["link", "configure"]
    assert control.requests[0][1] == {"port": 1, "up": False, "mtu": 1500}


class OldForwarder:
    """Refuses ports with more fds than it knows."""

    def __init__(self) -> None:
        self.taken: list[list[int]] = []
        self._answers: list[Callable[[], None]] = []

    def request(self, _op: object, _spec: bytes, fds: list[int], answer: Any) -> None:
        known = len(fds) == 1
        if known:
            self.taken.append(fds)
        self._answers.append(lambda: answer(0 if known else errno.EINVAL, b"", False))

    def answer_all(self) -> None:
        while self._answers:
            self._answers.pop(0)()


def test_a_forwarder_that_knows_no_batches_gets_ports_without() -> None:
    """A new manager has adopted it; a device is coupled anew, which two workers are to share."""
    plan = RouterPlan("red", {}, frozenset(), (), (), (), Dns())
    reactor = SimpleNamespace(after=lambda _seconds, _callback: SimpleNamespace(cancel=lambda: None))
    box = SimpleNamespace(reactor=reactor, run_dir=Path("/nonexistent"), relay_uid=lambda: 0)
    unit = Unit(cast("Box", box), plan, 1, (1000, 1001))
    forwarder = OldForwarder()
    unit._forwarder_peer = cast("ForwarderPeer", forwarder)
    more = [[8, 9], [11, 12]]

    def send_singly() -> bool:
        had = any(more)
        more[:] = [[], []]
        return had

    def parts() -> list[tuple[bytes, list[int]]]:
        return [(b"", [7, *more[0]]), (b"", [10, *more[1]])]

    port = SimpleNamespace(id=1, generation=5, parts=parts, send_singly=send_singly, problem="")
    unit._add_port(cast("Port", port))
    forwarder.answer_all()
    assert forwarder.taken == [[7], [10]]
    assert port.problem == ""
