"""Runs policy programs in the C interpreter, from the same values as the Python evaluator."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from tests.unit.c_build import FASTPATH, build
from vrouter.net.address import Address, packed
from vrouter.rib.policy_terms import NEXT_HOPS
from vrouter.rib.route_view import NO_CHANGES, Changes, NextHopTo, RouteView, Verdict

_NUMBERS = ("local_pref", "med", "metric", "tag", "preference", "weight")
_LISTS = (("communities", ">I"), ("large", ">III"), ("extended", ">Q"))


def library() -> Any:
    """Give the compiled interpreter."""
    header = (FASTPATH / "src" / "policy" / "policy.h").read_text()
    declarations = re.sub(r"//[^\n]*|^#[^\n]*", "", header, flags=re.MULTILINE)
    sources = tuple(f"policy/{path.name}" for path in sorted((FASTPATH / "src" / "policy").glob("*.c")))
    return build("_policy_harness", sources, declarations, '#include "policy/policy.h"')


class Interpreter:
    """One loaded program."""

    def __init__(self, program: bytes) -> None:
        module = library()
        self._ffi, self._lib = module.ffi, module.lib
        out = self._ffi.new("struct policy **")
        error = self._lib.policy_load(program, len(program), out)
        if error:
            raise ValueError(error)
        self._policy = self._ffi.gc(out[0], self._lib.policy_free)
        self._room = self._ffi.new("struct policy_room *")

    @property
    def looks_at_prefix(self) -> bool:
        return bool(self._lib.policy_looks_at_prefix(self._policy))

    def evaluate(self, view: RouteView) -> Verdict:
        route = self._ffi.new("struct policy_route *")
        kept = self._fill(route, view)
        verdict = self._ffi.new("struct policy_verdict *")
        self._lib.policy_evaluate(self._policy, route, self._room, verdict)
        del kept
        return Verdict(verdict.accept, self._changes(verdict), verdict.term)

    def prepared(self, view: RouteView) -> Callable[[], None]:
        """Give a call that asks about one route again and again, to be measured."""
        route = self._ffi.new("struct policy_route *")
        kept = self._fill(route, view)
        verdict = self._ffi.new("struct policy_verdict *")
        ask, policy, room = self._lib.policy_evaluate, self._policy, self._room

        def run() -> None:
            ask(policy, route, room, verdict)

        run.kept = kept  # type: ignore[attr-defined]
        return run

    def _fill(self, route: Any, view: RouteView) -> list[Any]:
        lib = self._lib
        route.family, route.length, route.protocol = view.prefix.family, view.prefix.length, view.protocol
        route.address = packed(view.prefix.family, view.prefix.value)
        for name in ("metric", "tag", "preference", "weight"):
            setattr(route, name, getattr(view, name))
        for name in ("origin", "local_pref", "med"):
            value = getattr(view, name)
            if value is not None:
                setattr(route, name, value)
                route.has |= getattr(lib, f"POLICY_HAS_{name.upper()}")
        for name in ("next_hop", "neighbor"):
            address = getattr(view, name)
            if address is not None:
                setattr(route, f"{name}_family", address.family)
                setattr(route, name, packed(address.family, address.value))
                route.has |= getattr(lib, f"POLICY_HAS_{name.upper()}")
        route.interface = view.interface.encode()
        kept = []
        if view.as_path is not None:
            route.has |= lib.POLICY_HAS_AS_PATH
            path = b"".join(struct.pack(f">BB{len(n)}I", kind, len(n), *n) for kind, n in view.as_path)
            kept.append(self._ffi.from_buffer(path))
            route.as_path, route.as_path_size = kept[-1], len(path)
        for name, form in _LISTS:
            values = (each if isinstance(each, tuple) else (each,) for each in getattr(view, name))
            data = b"".join(struct.pack(form, *each) for each in values)
            kept.append(self._ffi.from_buffer(data))
            setattr(route, name, kept[-1])
            setattr(route, f"{name}_size", len(data))
        return kept

    def _changes(self, verdict: Any) -> Changes:
        lib = self._lib
        values: dict[str, Any] = {}
        for name in (*_NUMBERS, "origin"):
            if verdict.changed & getattr(lib, f"POLICY_{name.upper()}"):
                values[name] = getattr(verdict, name)
        if verdict.changed & lib.POLICY_NEXT_HOP:
            raw = bytes(verdict.next_hop)[: 4 if verdict.next_hop_family == 4 else 16]
            known = verdict.next_hop_kind == lib.POLICY_TO_ADDRESS
            address = Address(verdict.next_hop_family, int.from_bytes(raw, "big")) if known else None
            values["next_hop"] = NextHopTo(NEXT_HOPS[verdict.next_hop_kind], address)
        for name, form in _LISTS:
            if verdict.changed & getattr(lib, f"POLICY_{name.upper()}"):
                data = bytes(self._ffi.buffer(getattr(self._room, name), getattr(verdict, f"{name}_size")))
                found = struct.iter_unpack(form, data)
                values[name] = tuple(each if len(each) > 1 else each[0] for each in found)
        if verdict.changed & lib.POLICY_PREPEND:
            values["prepend"] = tuple(verdict.prepend[0 : verdict.prepend_count])
        return Changes(**values) if values else NO_CHANGES
