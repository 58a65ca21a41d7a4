"""Fixtures of the interop tests: peers and namespaces that end with the test, whatever becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Lab
from peers import Peers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def peers() -> Iterator[Peers]:
    """Give a place to run peers in; at the end all are stopped."""
    with Peers() as made:
        yield made


@pytest.fixture
def bare_lab() -> Iterator[Lab]:
    """Give a lab without a running manager: namespaces and links."""
    with Lab() as lab:
        yield lab
