"""Rates and what came of them, read without C: control-plane policing, and the policers of interfaces.

tables_segment.police_root --> police_table (immutable) --> police_entry[], police_peer[]     asked for
state_segment.control_plane[class], policers[worker, interface, direction]                    counted
"""

from __future__ import annotations

from typing import Any, Final

from fastpath._layout import CONSTANTS, SIZES
from fastpath.segment import Segment, View

# In the order of enum control_class.
CLASSES: Final = tuple(
    name.removeprefix("CONTROL_").lower()
    for name, value in sorted(
        ((name, value) for name, value in CONSTANTS.items() if name.startswith("CONTROL_")), key=lambda item: item[1]
    )
    if value < CONSTANTS["CONTROL_CLASSES"]
)
DIRECTIONS: Final = {CONSTANTS["POLICE_IN"]: "in", CONSTANTS["POLICE_OUT"]: "out"}
UNITS: Final = {CONSTANTS["POLICE_BITS"]: "bits", CONSTANTS["POLICE_PACKETS"]: "packets"}
_COUNTERS: Final = ("passed_packets", "passed_bytes", "dropped_packets", "dropped_bytes")
_ATTEMPTS: Final = 16


def _published(tables: Segment) -> tuple[View, list[View]] | None:
    """Give the table and its entries as copies of one moment; None: there is none."""
    for _ in range(_ATTEMPTS):
        offset = tables.integer("police_root")
        if not offset:
            return None
        size = SIZES["police_table"]
        head = View(tables.buffer[offset : offset + size], "police_table", 0)
        entry, count = SIZES["police_entry"], head.integer("entry_count")
        copy = tables.buffer[offset + size : offset + size + count * entry]
        whole = len(copy) == count * entry
        if whole and tables.integer("police_root") == offset and _epoch(tables, offset) == head.integer("epoch"):
            return head, [View(copy, "police_entry", number * entry) for number in range(count)]
    return None


def _epoch(tables: Segment, offset: int) -> int:
    return tables.at("police_table", offset).integer("epoch")


def control_plane(tables: Segment, state: Segment) -> list[dict[str, Any]]:
    """Give all classes with their rates and what passed and was dropped; rate None: no limit."""
    found = _published(tables)
    shown = []
    for number, name in enumerate(CLASSES):
        rate = found[0].view("control", number) if found is not None else None
        limited = rate is not None and rate.integer("rate") != 0
        counters = state.view("control_plane", number)
        shown.append(
            {
                "class": name,
                "rate": rate.integer("rate") if rate is not None and limited else None,
                "burst": rate.integer("burst") if rate is not None and limited else None,
                "passed": counters.integer("passed"),
                "dropped": counters.integer("dropped"),
            }
        )
    return shown


def policers(tables: Segment, state: Segment) -> list[dict[str, Any]]:
    """Give the policers of all interfaces, which are numbers here."""
    found = _published(tables)
    shown = []
    for entry in found[1] if found is not None else ():
        interface, direction = entry.integer("interface"), entry.integer("direction")
        rate = entry.view("rate")
        shown.append(
            {
                "interface": interface,
                "direction": DIRECTIONS.get(direction, str(direction)),
                "rate": rate.integer("rate"),
                "burst": rate.integer("burst"),
                "unit": UNITS.get(entry.integer("unit"), "?"),
                **_counted(state, interface, direction),
            }
        )
    return shown


def _counted(state: Segment, interface: int, direction: int) -> dict[str, int]:
    """Sum up what all workers have counted."""
    sums = dict.fromkeys(_COUNTERS, 0)
    for worker in range(CONSTANTS["MAX_WORKERS"]):
        place = (worker * CONSTANTS["MAX_INTERFACES"] + interface) * CONSTANTS["POLICE_DIRECTIONS"] + direction
        counters = state.copied("policers", place)
        for name in _COUNTERS:
            sums[name] += counters.integer(name)
    return sums
