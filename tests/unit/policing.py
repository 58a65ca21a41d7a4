"""Publishes rates for a VR of the harness, as its control would."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from fastpath import police, segment
from fastpath._layout import CONSTANTS
from fastpath.binding import check, ffi, lib
from tests.unit.harness import Router


def publish(
    router: Router,
    control: Mapping[str, tuple[int, int]] | None = None,
    policers: Iterable[tuple[str, str, str, int, int]] = (),
    peers: Iterable[str] = (),
) -> None:
    """Limit classes to (rate, burst); policers are (interface, direction, unit, rate, burst)."""
    rates = ffi.new("struct police_rate[]", CONSTANTS["CONTROL_CLASSES"])
    for name, (rate, burst) in (control or {}).items():
        entry = rates[CONSTANTS[f"CONTROL_{name.upper()}"]]
        entry.rate, entry.burst = rate, burst
    given = list(policers)
    entries = ffi.new("struct police_entry[]", len(given))
    for entry, (name, direction, unit, rate, burst) in zip(entries, given, strict=True):
        entry.interface, entry.direction = router.index(name), CONSTANTS[f"POLICE_{direction.upper()}"]
        entry.unit = CONSTANTS[f"POLICE_{unit.upper()}"]
        entry.rate.rate, entry.rate.burst = rate, burst
        router.interfaces[name].features |= CONSTANTS[f"FEATURE_POLICE_{direction.upper()}"]
    known = sorted(map(ipaddress.ip_address, peers), key=lambda address: (address.version, int(address)))
    addresses = ffi.new("struct police_peer[]", len(known))
    for peer, address in zip(addresses, known, strict=True):
        ffi.buffer(peer.address)[: len(address.packed)] = address.packed
        peer.family = address.version
    check(lib.table_writer_police(router._writer, rates, entries, len(entries), addresses, len(addresses)))
    router.publish()
    router.poll()


def classes(router: Router) -> dict[str, tuple[int, int]]:
    """Give (passed, dropped) of each class that was seen."""
    with segment.Segment(router.tables_fd, segment.KIND_TABLES) as tables:
        shown = police.control_plane(tables, router.state)
    return {it["class"]: (it["passed"], it["dropped"]) for it in shown if it["passed"] or it["dropped"]}


def policer(router: Router, number: int = 0) -> dict[str, Any]:
    """Give a policer with its counters."""
    with segment.Segment(router.tables_fd, segment.KIND_TABLES) as tables:
        return police.policers(tables, router.state)[number]
