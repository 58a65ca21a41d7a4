"""Fixtures of the unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.harness import Router


@pytest.fixture
def router() -> Iterator[Router]:
    """Give a VR with interfaces a and b whose addresses are past detection; the laws must hold in the end."""
    from tests.unit.harness import Router, two_sided

    with Router(two_sided()) as made:
        made.settle()
        yield made
        made.laws()
