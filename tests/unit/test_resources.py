"""What a VR owns, where more of it cannot be had."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fastpath import segment
from manager import resources
from manager.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_fds() -> set[str]:
    """Which fds this process has, by what they are."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{link.name} {link.readlink()}")
        except FileNotFoundError:
            continue  # the one that has read the directory
    return found


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let so many more fds be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free: list[int] = []
    while len(free) <= count:
        free.append(os.dup(2))
    limit = free[count]
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def owned() -> Iterator[Resources]:
    """Segments of a router, and no more of it than that."""
    fds = resources._make_segments(1, "red")
    ours, its = socket.socketpair()
    with ours, its:
        made = Resources("none", -1, 0, -1, *fds, ours, its)
        yield made
        made._close_segments()


@pytest.mark.parametrize("room", range(5))
def test_segments_that_cannot_be_had_leave_the_old_ones(owned: Resources, room: int) -> None:
    """Else their numbers, which come to mean others' fds, would be closed a second time."""
    before = open_fds()
    with room_for(room), pytest.raises(OSError, match="Too many open files"):
        owned.renew_segments(1, "red")
    assert open_fds() == before
    assert owned.view.router == "red"


def test_fresh_segments_take_the_place_of_the_old(owned: Resources) -> None:
    count = len(open_fds())
    owned.renew_segments(2, "red")
    assert len(open_fds()) == count
    assert segment.check(owned.tables_ro, segment.KIND_TABLES) == segment.TABLES_SIZE
