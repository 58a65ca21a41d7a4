"""Sockets opened and connected in one, names of fds, requests that are asked again, and how connections end."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

import rsock
from rsock.client_core import Endpoint, dial_body, name_body, option_body, parse_resolved
from rsock.link import Link
from rsock.wire import HEADER, MAGIC, Flag, Op, State
from tests.unit.apps import WAIT, wait_for
from tests.unit.stream_worlds import BLUE, RED, Pair, worlds


@pytest.fixture
def pair() -> Iterator[Pair]:
    with worlds() as made:
        yield made


def identity(fd: int) -> tuple[bytes, int, int]:
    """Read kind, slot and nonce from the name of an app's fd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(fd)) as probe:
        _rsk1, _vr, kind, last = probe.getsockname()[1:].split(b"/")
    slot, nonce = last.split(b".")
    return kind, int(slot, 16), int(nonce, 16)


@pytest.mark.parametrize("known_before", [False, True])
def test_the_number_of_the_fd_stays(pair: Pair, known_before: bool) -> None:
    """Whoever has asked for it has the socket's own fd; else it is put there by connect()."""
    with pair.blue.listener() as listener, pair.red.socket() as client:
        number = client.fileno() if known_before else socket.socket.fileno(client)
        kept = os.dup(number) if known_before else -1
        client.connect((BLUE, listener.getsockname()[1]))
        assert client.fileno() == number
        assert not os.get_inheritable(number)
        server, _peer = listener.accept()
        if known_before:
            os.write(kept, b"by a copy that was made before")
            os.close(kept)
            assert server.recv(100) == b"by a copy that was made before"
        server.close()


def test_names_tell_what_an_fd_is(pair: Pair) -> None:
    client, server = pair.connected()
    with (
        pair.red.socket() as idle,
        rsock.socket(socket.AF_INET6, socket.SOCK_DGRAM, vr="red", ctx=pair.red.context) as datagrams,
    ):
        link = Link(pair.red.path)
        for sock, kind, state in (
            (client, b"t4", State.CONNECTED), (idle, b"t4", State.NEW), (datagrams, b"u6", State.NEW)
        ):  # fmt: skip
            found, slot, nonce = identity(sock.fileno())
            assert found == kind
            resolved = parse_resolved(link.call(Op.RESOLVE, slot=slot, cookie=nonce, timeout=WAIT))
            assert resolved.state == state
            again = parse_resolved(link.call(Op.RESOLVE, slot=slot, cookie=resolved.cookie, timeout=WAIT))
            assert again == resolved
            with pytest.raises(OSError, match="Bad file descriptor"):
                link.call(Op.RESOLVE, slot=slot, cookie=nonce ^ 1, timeout=WAIT)
        link.close()
    client.close()
    server.close()


def test_a_repeated_open_has_a_name_too(pair: Pair) -> None:
    """The fd that was lost on the way may still have the first one."""
    link = Link(pair.red.path)
    body = struct.pack("<HHHH16s", socket.AF_INET, socket.SOCK_DGRAM, 0, 0, os.urandom(16))
    fds = [link.call_fd(Op.OPEN, body, timeout=WAIT)[1] for _time in range(3)]
    found = {identity(fd) for fd in fds}
    assert len(found) == 3
    assert len({slot for _kind, slot, _nonce in found}) == 1
    assert len({nonce & 0xFFFFFFFF for _kind, _slot, nonce in found}) == 1
    for fd in fds:
        os.close(fd)
    link.close()


def test_a_refused_socket_connects_again(pair: Pair) -> None:
    with pair.red.socket() as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect((BLUE, 9))
        with pair.blue.listener(9):
            client.connect((BLUE, 9))
            assert client.getpeername() == (BLUE, 9)


@pytest.mark.parametrize("known_before", [False, True])
def test_a_bound_socket_dials_from_there(pair: Pair, known_before: bool) -> None:
    with pair.blue.listener() as listener, pair.red.socket() as client:
        if known_before:
            assert client.fileno() >= 0
        client.bind((RED, 7777))
        client.connect((BLUE, listener.getsockname()[1]))
        server, peer = listener.accept()
        assert peer == client.getsockname() == (RED, 7777)
        server.close()


def in_use(pair: Pair) -> int:
    """Count red's TCP sockets."""
    return sum(pair.red.router.state.view("tcp", place).integer("cookie") != 0 for place in range(16))


def dial_record(number: int, where: str, port: int, flags: Flag = Flag.WAIT) -> bytes:
    endpoint = Endpoint(socket.AF_INET, socket.inet_aton(where).ljust(16, b"\0"), port, 0)
    body = dial_body(socket.AF_INET, 0, endpoint, b"x")
    return HEADER.pack(MAGIC, Op.DIAL, flags, 0, number, 0, 0, 0) + body


def test_who_goes_takes_back_what_he_asked(pair: Pair) -> None:
    pair.cut = True
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(pair.red.path)
        for number in range(5):
            peer.send(dial_record(number, BLUE, 80))
        wait_for(lambda: in_use(pair) == 5)
    wait_for(lambda: in_use(pair) == 0)


def test_answers_come_as_the_connections_do(pair: Pair) -> None:
    """Those that wait keep no other request of the same connection waiting."""
    pair.cut = True
    with pair.blue.listener() as listener, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(pair.red.path)
        peer.settimeout(WAIT)
        port = listener.getsockname()[1]
        peer.send(dial_record(1, BLUE, port))
        peer.send(dial_record(2, "203.0.113.1", port))  # no route
        peer.send(HEADER.pack(MAGIC, Op.PING, 0, 0, 3, 0, 0, 0))
        answers = [HEADER.unpack_from(peer.recv(512)) for _answer in range(2)]
        assert [(answer[4], answer[6]) for answer in answers] == [(2, errno.ENETUNREACH), (3, 0)]
        pair.cut = False
        data, ancillary, _flags, _address = peer.recvmsg(512, 64)
        assert HEADER.unpack_from(data)[4] == 1
        os.close(struct.unpack("i", ancillary[0][2])[0])
        listener.accept()[0].close()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 40, 55])
def test_a_short_dial_is_refused(pair: Pair, length: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(pair.red.path)
        peer.settimeout(WAIT)
        record = dial_record(1, BLUE, 80)
        peer.send(record[: min(HEADER.size + length, len(record))])
        assert HEADER.unpack_from(peer.recv(512))[6] in {errno.EINVAL, errno.ESOCKTNOSUPPORT}


def test_a_request_is_executed_once(pair: Pair) -> None:
    """Whoever asks again on another connection gets the same answer; another session's request is another one."""
    with rsock.socket(socket.AF_INET, socket.SOCK_DGRAM, vr="red", ctx=pair.red.context) as sock:
        ours: Any = sock
        slot, cookie = ours._slot, ours._cookie
        group = socket.inet_aton("239.1.2.3") + socket.inet_aton(RED)
        bind = name_body(Endpoint(socket.AF_INET, bytes(16), 5151, 0))
        join = option_body(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)

        def ask(op: Op, body: bytes, session: int, number: int) -> int:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
                peer.connect(pair.red.path)
                peer.settimeout(WAIT)
                peer.send(HEADER.pack(MAGIC, op, 0, session, number, slot, 0, cookie) + body)
                answer = HEADER.unpack_from(peer.recv(512))
                assert answer[4] == number
                return int(answer[6])

        assert [ask(Op.BIND, bind, 7, 1) for _time in range(3)] == [0, 0, 0]
        assert ask(Op.BIND, bind, 8, 1) == errno.EINVAL
        assert [ask(Op.SETOPT, join, 7, 2) for _time in range(3)] == [0, 0, 0]
        assert [ask(Op.SETOPT, join, 7, 3) for _time in range(2)] == [errno.EADDRINUSE] * 2
        assert [ask(Op.SETOPT, join, 0, 2) for _time in range(2)] == [errno.EADDRINUSE] * 2  # no session, no memory
        assert ask(Op.CLOSE, b"", 7, 4) == 0
        assert ask(Op.CLOSE, b"", 7, 4) == 0
        assert ask(Op.CLOSE, b"", 7, 5) == errno.EBADF


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("written", [False, True])
def test_a_timeout_is_no_reset(pair: Pair, side: str, written: bool) -> None:
    client, server = pair.connected()
    mine, other = (client, server) if side == "client" else (server, client)
    if written:
        mine.sendall(b"x")
        assert other.recv(1) == b"x"
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        mine.setsockopt(socket.IPPROTO_TCP, option, 1)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pair.cut = True
    assert select.select([mine], [], [], 2 * WAIT)[0]
    with pytest.raises(TimeoutError) as raised:
        mine.recv(100)
    assert raised.value.errno == errno.ETIMEDOUT
    mine.close()
    other.close()


def test_tcp_info_of_what_is_over(pair: Pair) -> None:
    client, server = pair.connected()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""

    def is_over() -> bool:
        return bool(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[0] == 7)  # TCP_CLOSE

    wait_for(is_over)
    assert len(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)) == 104
    client.close()
    server.close()
