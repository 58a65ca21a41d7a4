"""The manager's side of a VR's control: its configuration, questions of operators, and whether it serves.

    greet --answer--> ready --configure--> configured --probe--> answers, or is fenced

What was sent is kept, so that only what differs is sent again; a new control has nothing, and gets it all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from manager.member import Member
from manager.peers import ControlPeer, Result
from manager.probe import Probe
from manager.reactor import Reactor
from vrouter.api.messages import ControlOp

# A control that takes a large configuration answers no probe meanwhile; it is not hung.
CONFIGURE_PATIENCE: Final = 30.0

log = structlog.get_logger()


class ControlLink:
    """What is said between the manager and one control."""

    def __init__(
        self, reactor: Reactor, name: str, path: Path, member: Member, greeted: Callable[[], None],
        configured: Callable[[], None],
    ) -> None:  # fmt: skip
        """Prepare; `greeted` hears that a control serves, `configured` that it has taken what it was sent."""
        self.sent: dict[str, Any] | None = None  # the configuration that it has confirmed
        self._reactor = reactor
        self._name = name
        self._path = path
        self._member = member
        self._greeted = greeted
        self._configured = configured
        self._peer: ControlPeer | None = None
        self._configuring: dict[str, Any] | None = None
        self._busy_since = 0.0
        self._questions: dict[object, Result] = {}  # of operators, that have no answer
        self._probe = Probe()

    # ---- a life ----

    def greet(self) -> None:
        """Speak to a new process."""
        try:
            self._peer = ControlPeer(
                self._reactor, self._path, lambda: self._member.suspect("closed the manager's connection")
            )
        except OSError as error:
            self._member.fence(f"cannot be reached: {error.strerror}")
            return
        self._peer.request(ControlOp.PING, lambda _result, _error: self.answered())

    def answered(self) -> None:
        """Hear that the new process serves."""
        self._member.answered()
        self._greeted()
        if self._member.pid is not None:
            self._probe.begin(self._member.pid)

    def adopted(self, pid: int) -> None:
        """Go on with one that a manager before us has started."""
        self._probe.begin(pid)
        if self._probe.stopped:
            self._member.fence("stopped by a signal")

    def lost(self) -> None:
        """It has gone: who has asked it something hears of that."""
        self.close()
        questions, self._questions = self._questions, {}
        for result in questions.values():
            result(None, f"the control of {self._name} has gone")

    def close(self) -> None:
        """Stop speaking to it."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._probe.end()
        self.sent = self._configuring = None

    # ---- what it is told and asked ----

    @property
    def idle(self) -> bool:
        """Tell whether it serves, and is not taking a configuration: it may be sent one."""
        return self._member.ready and self._peer is not None and self._configuring is None

    @property
    def configuring(self) -> bool:
        """Tell whether it is taking a configuration, which may take it long."""
        return self._configuring is not None and time.monotonic() - self._busy_since < CONFIGURE_PATIENCE

    @property
    def owing(self) -> bool:
        """Tell whether it has a question of an operator to answer."""
        return bool(self._questions)

    def configure(self, wanted: dict[str, Any]) -> None:
        """Send a configuration to one that is idle."""
        assert self._peer is not None
        self._configuring, self._busy_since = wanted, time.monotonic()
        self._peer.request(ControlOp.CONFIGURE, self._on_configured, router=wanted)

    def _on_configured(self, result: object, error: str | None) -> None:
        del result
        sent, self._configuring = self._configuring, None
        if error is not None:
            log.error("control refused its configuration", router=self._name, reason=error)
        self.sent = sent
        self._configured()

    def tell_link(self, port: int, *, up: bool, mtu: int) -> None:
        """Tell the state of a port's link."""
        if self._peer is not None and self._member.ready:
            self._peer.request(ControlOp.LINK, port=port, up=up, mtu=mtu)

    def tell_offload(self, fd: int | None, size: int, answered: Callable[[str | None], None]) -> bool:
        """Give the map of the routes, where it is there."""
        if self._peer is None or not self._member.ready:
            return False
        fds = [] if fd is None else [fd]
        self._peer.request(ControlOp.OFFLOAD, lambda _result, error: answered(error), fds=fds, size=size)
        return True

    def ask(self, op: ControlOp, fields: dict[str, Any], result: Result) -> None:
        """Pass an operator's question on.  Raises KeyError when it is not there."""
        if not self._member.ready or self._peer is None:
            raise KeyError(self._name)
        question = object()
        self._questions[question] = result

        def answered(value: Any, error: str | None) -> None:
            if self._questions.pop(question, None) is not None:
                result(value, error)

        self._peer.request(op, answered, **fields)

    def probe(self, *, at_work: bool) -> None:
        """Ask it whether it lives, if that is due; called every `probe.INTERVAL` seconds.

        `at_work`: it is in the middle of something, how long of which is the supervisor's business.
        """
        if not self._member.ready or self._peer is None:
            return
        if self._probe.silent and not self.configuring and not at_work:
            self._member.fence("does not answer")
        elif self._probe.stopped:
            self._member.fence("stopped by a signal")
        elif self._probe.due(owing=self._configuring is not None or self.owing):
            self._peer.request(ControlOp.PING, lambda _result, _error: self._probe.answered())
