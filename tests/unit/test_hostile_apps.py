"""Apps that mean harm, towards a forwarder: fds that bite, floods, records that are no requests."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from rsock.client_core import open_body
from rsock.wire import HEADER, MAGIC, Flag, Op
from tests.unit.apps import WAIT, World, world
from tests.unit.test_server import connect

STRANGER: Final = 12345
LINGER: Final = 3  # seconds that closing the last copy of the fd takes
PATIENCE: Final = 5.0


@pytest.fixture
def red() -> Iterator[World]:
    with world() as made:
        yield made


@contextlib.contextmanager
def lingering() -> Iterator[socket.socket]:
    """Make a TCP socket that holds whoever closes its last copy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client = socket.create_connection(listener.getsockname())
        server, _address = listener.accept()
        with server, client:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(bytes(65536))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
            yield client


def send_biting(peer: socket.socket, fd: socket.socket) -> bool:
    """Send the fd; False: it was refused, and closing it is harmless again."""
    try:
        socket.send_fds(peer, [ping()], [fd.fileno()])
    except (PermissionError, BrokenPipeError, ConnectionResetError):
        fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        return False
    return True


def as_stranger(red: World) -> socket.socket:
    """Connect as somebody without any right."""
    os.chmod(Path(red.path).parent, 0o755)
    os.chmod(red.path, 0o666)
    os.seteuid(STRANGER)
    try:
        return connect(red)
    finally:
        os.seteuid(0)


def ping(number: int = 1) -> bytes:
    return HEADER.pack(MAGIC, Op.PING, 0, 0, number, 0, 0, 0)


def serves(red: World) -> None:
    """See that another app is answered at once."""
    with connect(red) as other:
        begin = time.monotonic()
        other.send(ping(7))
        answer = HEADER.unpack_from(other.recv(4096))
        assert answer[4] == 7
        assert answer[2] & Flag.REPLY
        assert time.monotonic() - begin < PATIENCE


@pytest.mark.root
@pytest.mark.parametrize("first", [b"", b"junk", ping()], ids=["at once", "behind junk", "behind a request"])
@pytest.mark.parametrize("leave", [True, False], ids=["gone", "there"])
def test_fds_of_strangers_do_not_hold_the_forwarder(red: World, first: bytes, *, leave: bool) -> None:
    with lingering() as fd:
        stranger = as_stranger(red)
        if first:
            stranger.send(first)
        send_biting(stranger, fd)
        fd.close()
        if leave:
            stranger.close()
        for _ in range(3):
            serves(red)
        stranger.close()
        serves(red)


@pytest.mark.root
def test_fds_do_not_come_through_a_sockets_own_fd(red: World) -> None:
    with red.socket() as app, lingering() as fd, socket.socket(fileno=os.dup(app.fileno())) as end:
        end.setblocking(True)
        if send_biting(end, fd):
            fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            pytest.skip("this kernel (before 6.16) cannot refuse fds: the supervisor's fence is what is left")


def test_random_records_harm_nobody(red: World) -> None:
    chance = random.Random(2)
    for _ in range(300):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(WAIT)
            peer.connect(red.path)
            for _record in range(chance.randrange(1, 6)):
                if chance.random() < 0.3:
                    data = chance.randbytes(chance.randrange(0, 600))
                else:
                    op = chance.choice([*Op, chance.randrange(256)])
                    while op in {Op.SHUTDOWN, Op.PORT_ADD, Op.PORT_REMOVE, Op.HOLD}:  # we are root here
                        op = chance.randrange(256)
                    data = HEADER.pack(
                        MAGIC, op, chance.choice([0, 0, chance.randrange(256)]), 0, chance.randrange(1 << 64),
                        chance.choice([0, 1, 4095, 4096, chance.randrange(1 << 32)]), 0, chance.randrange(1 << 64),
                    ) + chance.randbytes(chance.choice([0, 4, 12, 24, 64, 300]))  # fmt: skip
                peer.send(data)
    serves(red)


def test_who_does_not_read_his_answers_is_left(red: World) -> None:
    with connect(red) as peer:
        peer.setblocking(False)

        def flood() -> None:
            for number in range(100_000):
                peer.send(ping(number))

        with pytest.raises(OSError):  # of some kind: it depends on who is first
            flood()
        serves(red)


def test_a_cookie_cannot_be_guessed_and_slots_end_where_they_end(red: World) -> None:
    with red.socket() as app, connect(red) as peer:
        assert app.fileno() >= 0
        for slot in (0, 1, 4095, 4096, 1 << 31, 0xFFFFFFFF):
            for cookie in (0, 1, (1 << 64) - 1, random.Random(slot).randrange(1 << 64)):
                for op in (Op.BIND, Op.CONNECT, Op.CLOSE, Op.SETOPT, Op.GETOPT, Op.NAME):
                    peer.send(HEADER.pack(MAGIC, op, 0, 0, 1, slot, 0, cookie) + bytes(64))
                    answer = HEADER.unpack_from(peer.recv(4096))
                    assert answer[2] & Flag.ERROR
                    assert os.strerror(answer[6]) == "Bad file descriptor"


def test_odd_families_and_types_are_refused(red: World) -> None:
    with connect(red) as peer:
        peer.settimeout(WAIT)
        for family, kind, protocol in [(0, 2, 17), (1, 2, 0), (17, 3, 3), (2, 0, 0), (2, 1, 17), (2, 5, 17), (2, 99, 1),
                                       (65535, 65535, 65535), (10, 2, 1), (2, 2, 58), (2, 3, 65535)]:  # fmt: skip
            peer.send(HEADER.pack(MAGIC, Op.OPEN, 0, 0, 1, 0, 0, 0) + open_body(family, kind, protocol, bytes(16), b""))
            data, fds, _flags, _address = socket.recv_fds(peer, 4096, 4)
            assert HEADER.unpack_from(data)[2] & Flag.ERROR, (family, kind, protocol)
            assert not fds
