"""How an engine is made from the header of a recording: for a VR, and again for a replay."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from vrouter.engine.engine import Engine, Surroundings
from vrouter.engine.recording import Header
from vrouter.rib.bgp_reference import ReferenceTable
from vrouter.rib.bgp_table import BgpTable


def seeded(seed: int) -> Callable[[str], Random]:
    """Give what makes generators, each seeded with a name."""
    return lambda name: Random(f"{seed}/{name}")


def make_engine(
    header: Header, bgp_table: Callable[[], BgpTable] = ReferenceTable, accelerators: Any = None
) -> Engine:  # fmt: skip
    """Make an engine."""
    surroundings = Surroundings(seeded(header.seed), header.restarted, header.boot, bgp_table, accelerators)
    return Engine(header.name, surroundings)
