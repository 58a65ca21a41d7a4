"""The BFD sessions of `routers.NAME.bfd.sessions`: they run by themselves, and their changes are told to operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vrouter.config.bfd import BfdSession
from vrouter.net.address import parse_address
from vrouter.proto.base import (
    BfdClose,
    BfdOpen,
    BfdState,
    Notify,
    Output,
    Reconfigured,
    Setting,
    Silent,
)
from vrouter.proto.watch import bfd_open


class Standalone(Silent):
    """The instance `bfd` of a VR."""

    def __init__(self) -> None:
        """Watch nobody yet."""
        self._asked: dict[str, BfdOpen] = {}
        self._states: dict[str, BfdState] = {}

    def configure(self, new: Setting, now: float) -> Reconfigured:  # noqa: ARG002
        """Open, change and close sessions."""
        configured = new.router.bfd.sessions if new.router.bfd is not None else {}
        wanted = {name: _request(name, session) for name, session in configured.items() if session.enabled}
        outputs: list[Output] = [BfdClose(name) for name in self._asked if name not in wanted]
        outputs += [request for name, request in wanted.items() if self._asked.get(name) != request]
        self._asked = wanted
        self._states = {name: state for name, state in self._states.items() if name in wanted}
        return Reconfigured(live=True, outputs=tuple(outputs))

    def bfd_changed(self, state: BfdState, now: float) -> list[Output]:  # noqa: ARG002
        """Tell operators."""
        if state.session not in self._asked:
            return []
        self._states[state.session] = state
        details = (("session", state.session), ("remote", str(self._asked[state.session].remote)))
        if state.up:
            return [Notify("bfd-up", details)]
        reason = "administratively-down" if state.admin_down else state.diagnostic
        return [Notify("bfd-down", (*details, ("reason", reason)))]

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:  # noqa: ARG002
        """Answer `sessions`: which are asked for, and whether they are up; the state segment tells more."""
        if query != "sessions":
            raise KeyError(query)
        return [
            {"session": name, "remote": str(request.remote), "up": name in self._states and self._states[name].up}
            for name, request in self._asked.items()
        ]


def _request(name: str, session: BfdSession) -> BfdOpen:
    request = bfd_open(
        session,
        name,
        parse_address(session.remote),
        local=parse_address(session.local) if session.local else None,
        interface=session.interface or "",
        multihop=session.multihop,
    )
    return replace(request, routes=False)
