"""No packet of the Holo suite is left out: each one of our protocols is among the vectors that are tested."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

VECTORS: Final = Path(__file__).parent.parent / "vectors"
COUNTS: Final = {"holo-bgp": 10, "holo-bfd": 1, "holo-rip/tests/packet/ripv2": 6, "holo-rip/tests/packet/ripng": 6,
                 "holo-ospf/tests/packet/ospfv2": 22}  # fmt: skip


def hex_strings(data: Any) -> set[str]:
    """Give every value of a key `hex` in nested data."""
    found: set[str] = set()
    if isinstance(data, dict):
        found |= {value for key, value in data.items() if key == "hex" and isinstance(value, str)}
        data = list(data.values())
    if isinstance(data, list):
        for value in data:
            found |= hex_strings(value)
    return found


@pytest.mark.parametrize("protocol", COUNTS)
def test_every_case_of_holo_is_tested(protocol: str, test_data: Path) -> None:
    cases = [case for case in json.loads((test_data / "holo-packets.json").read_text()) if protocol in case["file"]]
    assert len(cases) == COUNTS[protocol]
    ours: set[str] = set()
    for path in VECTORS.glob("*.json"):
        ours |= hex_strings(json.loads(path.read_text()))
    missing = Counter((case["file"], case["name"]) for case in cases if case["hex"] not in ours)
    assert not missing
