"""Signed segments (RFC 2385) and hop limits that only neighbors reach (RFC 5082), with the kernel as the other side."""

from __future__ import annotations

import errno
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from hosts import drops
from tcp_ends import (
    IP_MINTTL,
    IPV6_MINHOPCOUNT,
    MIB,
    PATHS,
    TCP_MD5SIG,
    Ends,
    Info,
    Path,
    closed,
    crosswise,
    key_for,
    laws,  # noqa: F401 - a fixture
    one_link,
    together,
    transfer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.root

KEY: Final = b"what only both sides know"
SHORT: Final = 1.2  # long enough for a SYN that is sent again
FRAMES: Final = pytest.mark.parametrize("ends", [False], ids=["frames"], indirect=True)


@pytest.fixture(scope="module", params=[True, False], ids=["offloads", "frames"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with one_link(host_offloads=request.param) as made:
        yield made


def dropped(ends: Ends, name: str) -> int:
    return drops(ends.lab, "red").get(name, 0)


def signing(path: Path, ours: bytes | None, theirs: bytes | None) -> Callable[[socket.socket, bool, bool], None]:
    """Give what sets the keys of both sides; None: no key."""

    def prepare(sock: socket.socket, is_ours: bool, _client: bool) -> None:
        key = ours if is_ours else theirs
        if key is not None:
            option = key_for(path.theirs if is_ours else path.ours, key)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, option)

    return prepare


@pytest.mark.parametrize("by_us", [True, False])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", [KEY, b"k", b"x" * 80], ids=["usual", "short", "long"])
def test_signed_transfers(ends: Ends, path: Path, by_us: bool, key: bytes) -> None:
    before = dropped(ends, "tcp_authentication")
    ours, theirs = ends.connect(path, by_us=by_us, prepare=signing(path, key, key))
    transfer(ours, theirs, MIB, end=False)
    transfer(theirs, ours, MIB, end=False)
    info, other = Info.of(ours), Info.of(theirs)
    assert info.options == other.options
    crosswise(ours, theirs, MIB)
    assert dropped(ends, "tcp_authentication") == before
    closed(ours, theirs)


def unanswered(ends: Ends, path: Path, *, by_us: bool, prepare: Callable[[socket.socket, bool, bool], None]) -> None:
    """The client hears nothing, however often it asks."""
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        ends.connect(path, by_us=by_us, timeout=SHORT, prepare=prepare)
    assert time.monotonic() - begin < 10 * SHORT


@FRAMES
@pytest.mark.parametrize(
    ("our_key", "their_key"), [(KEY, b"another"), (KEY, None), (None, KEY)], ids=["wrong", "ours", "theirs"]
)
def test_other_keys_are_no_keys(ends: Ends, our_key: bytes | None, their_key: bytes | None) -> None:
    """What comes to us is counted, the SYNs of both families at least."""
    before = dropped(ends, "tcp_authentication")
    together(
        *(
            partial(unanswered, ends, path, by_us=by_us, prepare=signing(path, our_key, their_key))
            for path in PATHS
            for by_us in (True, False)
        )
    )
    assert dropped(ends, "tcp_authentication") >= before + 2


def test_keys_are_asked_for_by_peer(ends: Ends) -> None:
    """A listener with keys for others takes us without, and one socket has keys for several."""
    for path in PATHS:
        for by_us in (True, False):

            def prepare(sock: socket.socket, _ours: bool, client: bool) -> None:
                if client:
                    return
                others = ("192.0.2.7", "10.0.0.99") if sock.family == socket.AF_INET else ("2001:db8::7", "fd00::1")
                for other in others:
                    sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, key_for(other, KEY))

            ours, theirs = ends.connect(path, by_us=by_us, prepare=prepare)
            transfer(ours, theirs, 10_000)
            closed(ours, theirs)


def test_a_key_changes(ends: Ends) -> None:
    """As an operator does it: both sides take the new key, the connection goes on."""
    path = PATHS[0]
    ours, theirs = ends.connect(path, by_us=True, prepare=signing(path, KEY, KEY))
    transfer(ours, theirs, 10_000, end=False)
    for sock, peer in ((ours, path.theirs), (theirs, path.ours)):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, key_for(peer, b"the next one"))
    transfer(ours, theirs, 10_000, end=False)
    transfer(theirs, ours, 10_000)
    closed(ours, theirs)


def limit(path: Path, least: int, hops: int, *, ours_guards: bool) -> Callable[[socket.socket, bool, bool], None]:
    """Let one side take only packets with at least that TTL, and the other send with this one."""
    inet = path.family == socket.AF_INET
    level = socket.IPPROTO_IP if inet else socket.IPPROTO_IPV6

    def prepare(sock: socket.socket, is_ours: bool, _client: bool) -> None:
        if is_ours is ours_guards:
            sock.setsockopt(level, IP_MINTTL if inet else IPV6_MINHOPCOUNT, least)
            sock.setsockopt(level, socket.IP_TTL if inet else socket.IPV6_UNICAST_HOPS, 255)
        else:
            sock.setsockopt(level, socket.IP_TTL if inet else socket.IPV6_UNICAST_HOPS, hops)

    return prepare


@pytest.mark.parametrize("ours_guards", [True, False])
@pytest.mark.parametrize("by_us", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_neighbors_only(ends: Ends, path: Path, by_us: bool, ours_guards: bool) -> None:
    ours, theirs = ends.connect(path, by_us=by_us, prepare=limit(path, 255, 255, ours_guards=ours_guards))
    transfer(ours, theirs, MIB, end=False)
    transfer(theirs, ours, MIB)
    closed(ours, theirs)


@FRAMES
def test_strangers_are_not_heard(ends: Ends) -> None:
    """RFC 5082: what has come through a router is dropped and counted; whoever asks is not answered."""
    before = dropped(ends, "tcp_min_ttl")
    together(
        *(
            partial(unanswered, ends, path, by_us=by_us, prepare=limit(path, 255, 64, ours_guards=ours_guards))
            for path in PATHS
            for by_us, ours_guards in ((False, True), (True, False), (True, True))
        )
    )
    assert dropped(ends, "tcp_min_ttl") >= before + 4


def test_options_that_make_no_sense(ends: Ends) -> None:
    with ends.open() as sock:
        for value in (b"", b"x" * 100, key_for("10.0.0.2", KEY)[:-81] + b"x"):
            with pytest.raises(OSError, match="Invalid") as failure:
                sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, value)
            assert failure.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="Invalid"):
            sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 256)
