"""The socket server: rights, quotas, hostile peers, and sockets that outlive the forwarder."""

from __future__ import annotations

import array
import errno
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from fastpath._layout import CONSTANTS
from fastpath.tables import RuleEntry
from rsock.client_core import open_body
from rsock.link import Link
from rsock.wire import HEADER, MAGIC, Flag, Op, Right, layout
from tests.unit.apps import HOST, WAIT, World, wait_for, world
from tests.unit.rules import prefixes, publish
from tests.unit.test_host_udp import udp_fields, udp_packet

APP_UID, OTHER_UID, GROUP = 12345, 12346, 12400
HOLD = layout("rsock_hold")
ALL = 0xFFFFFFFF


@pytest.fixture
def red() -> Iterator[World]:
    with world() as made:
        yield made


def connect(red: World) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Waits where the backlog is full, which a socket with Python's own timeout does not.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(WAIT), 0))
    peer.connect(red.path)
    peer.settimeout(WAIT)
    return peer


def hold(slot: int, cookie: int) -> bytes:
    return HEADER.pack(MAGIC, Op.HOLD, 0, 0, 0, slot, 0, cookie) + HOLD.pack(slot, 0, cookie)


def receive_hold(peer: socket.socket) -> tuple[int, int, int, list[int]]:
    """Give op, slot, gone and fds of the next record that control gets."""
    data, ancillary, _flags, _address = peer.recvmsg(512, 64)
    fds = array.array("i")
    for _level, _kind, value in ancillary:
        fds.frombytes(value)
    slot, gone, _cookie = HOLD.unpack_from(data, HEADER.size)
    return data[2], slot, gone, list(fds)


def test_sockets_outlive_the_forwarder(red: World) -> None:
    control = connect(red)
    control.send(hold(ALL, 0))
    assert receive_hold(control)[1] == ALL
    sock = red.socket()
    sock.bind(("", 6001))
    op, slot, gone, fds = receive_hold(control)
    assert (op, gone, len(fds)) == (Op.HOLD, 0, 1)
    with red.socket() as short:
        _op, other, _gone, more = receive_hold(control)
        assert short.fileno() >= 0
    assert receive_hold(control)[1:3] == (other, 1)
    os.close(more[0])

    red.stop()
    control.close()
    red.router.crash()
    sock.sendto(b"written while nobody was there", (HOST, 1))
    red.start()
    red.context.close()  # in one process, the dead core's connections stay open
    cookie = red.router.state.view("sockets", slot).integer("cookie")
    control = connect(red)
    socket.send_fds(control, [hold(slot, cookie)], fds)
    control.send(hold(ALL, 0))
    assert receive_hold(control)[1] == ALL
    assert udp_fields(red.sent()[0])[4] == b"written while nobody was there"
    red.arrive(udp_packet(b"goes on", 6001))
    assert sock.recvfrom(100) == (b"goes on", (HOST, 7777))
    assert sock.getsockname() == ("0.0.0.0", 6001)
    sock.close()
    control.close()
    os.close(fds[0])


def test_orphans_end(red: World) -> None:
    """The old core of the same process still has the other end, as a control that does not come would."""
    sock = red.socket()
    sock.bind(("", 6002))
    red.crash()
    red.context.close()
    control = connect(red)
    control.send(hold(ALL, 0))
    assert receive_hold(control)[1] == ALL
    with pytest.raises(OSError, match="down") as failure:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    assert failure.value.errno == errno.ENETDOWN
    with red.socket() as again:
        again.bind(("", 6002))
    sock.close()
    control.close()


def publish_rules(red: World, *rules: tuple[int, int, int, list[tuple[int, int]], str | None]) -> None:
    """Publish rules: identity, id, operations, ports, prefix."""
    publish(
        red,
        *(
            RuleEntry(identity, number, operations, ports=tuple(ports), prefixes=prefixes(prefix) if prefix else ())
            for identity, number, operations, ports, prefix in rules
        ),
    )


def as_user(uid: int, groups: list[int], action: Callable[[], object]) -> int:
    """Do something in a child that is another user; give the errno that it ended with."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.root
def test_rules_decide(red: World) -> None:
    os.chmod(os.path.dirname(red.path), 0o755)
    os.chmod(red.path, 0o666)
    kinds = CONSTANTS
    publish_rules(
        red,
        (kinds["RULE_GID"], GROUP, Right.UDP, [(5000, 5999)], "10.0.0.0/24"),
        (kinds["RULE_UID"], APP_UID, sum(Right), [], None),
    )

    def opened() -> None:
        red.socket().close()

    def raw() -> None:
        red.socket(kind=socket.SOCK_RAW, proto=89).close()

    def bound(port: int) -> Callable[[], None]:
        return lambda: red.socket().bind(("", port))

    def connected(host: str) -> Callable[[], None]:
        return lambda: red.socket().connect((host, 9))

    def sent_abroad() -> None:
        sock = red.socket()
        sock.sendto(b"x", ("192.0.2.1", 9))
        sock.recv(10)

    def joined() -> None:
        request = socket.inet_aton("239.1.1.1") + socket.inet_aton("10.0.0.1")
        red.socket().setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)

    assert as_user(OTHER_UID, [], opened) == errno.EACCES
    assert as_user(OTHER_UID, [], raw) == errno.EPERM
    assert as_user(APP_UID, [], opened) == 0
    assert as_user(APP_UID, [], raw) == 0
    assert as_user(APP_UID, [], joined) == 0
    assert as_user(APP_UID, [GROUP], raw) == errno.EPERM, "the first rule that matches decides"
    assert as_user(OTHER_UID, [GROUP], opened) == 0
    assert as_user(OTHER_UID, [GROUP], bound(5000)) == 0
    assert as_user(OTHER_UID, [GROUP], bound(0)) == 0
    assert as_user(OTHER_UID, [GROUP], bound(53)) == errno.EACCES
    assert as_user(OTHER_UID, [GROUP], connected(HOST)) == 0
    assert as_user(OTHER_UID, [GROUP], connected("192.0.2.1")) == errno.EACCES
    assert as_user(OTHER_UID, [GROUP], sent_abroad) == errno.EACCES
    assert as_user(OTHER_UID, [GROUP], joined) == errno.EACCES
    assert red.drops("socket_denied", None) == 1


@pytest.mark.root
def test_a_user_has_a_quota(red: World) -> None:
    os.chmod(os.path.dirname(red.path), 0o755)
    os.chmod(red.path, 0o666)
    publish_rules(red, (CONSTANTS["RULE_ANY"], 0, Right.UDP, [], None))

    def greedy() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        link, fds = Link(red.path), []
        for number in range(1, 1024 + 2):
            body = open_body(socket.AF_INET, socket.SOCK_DGRAM, 0, number.to_bytes(16), b"greedy")
            fds.append(link.call_fd(Op.OPEN, body, timeout=WAIT)[1])

    assert as_user(OTHER_UID, [], greedy) == errno.EMFILE


def test_hostile_records_are_survived(red: World) -> None:
    sock = red.socket()
    for record in (b"x", bytes(32), bytes(64), b"\1\4" + bytes(62), b"\1\7" + bytes(80), os.urandom(5000)):
        os.write(sock.fileno(), record)
    assert red.drops("socket_malformed", None) >= 5
    for record in (
        b"x",
        os.urandom(32),
        HEADER.pack(MAGIC, Op.OPEN, 0, 0, 1, 0, 0, 0),
        HEADER.pack(MAGIC, Op.BIND, 0, 0, 1, 4_000_000_000, 0, 1) + bytes(60),
        HEADER.pack(MAGIC, Op.PORT_ADD, 0, 0, 1, 0, 0, 0) + b"\xff" * 200,
        HEADER.pack(MAGIC, 99, 0, 0, 1, 0, 0, 0),
        bytes(4096),
        bytes(100_000),
    ):
        with connect(red) as peer:
            peer.send(record)
            answer = peer.recv(4096)
            assert answer == b"" or answer[3] & Flag.ERROR
    sock.sendto(b"still here", (HOST, 1))
    assert udp_fields(red.sent()[0])[4] == b"still here"
    sock.close()


def test_a_cookie_is_the_proof(red: World) -> None:
    sock = red.socket()
    link = Link(red.path)
    with pytest.raises(OSError, match="descriptor") as failure:
        link.call(Op.NAME, slot=sock._slot, cookie=sock._cookie ^ 1, timeout=WAIT)  # type: ignore[attr-defined]
    link.close()
    assert failure.value.errno == errno.EBADF
    sock.close()


def test_a_repeated_open_is_the_same_socket(red: World) -> None:
    link = Link(red.path)
    body = open_body(socket.AF_INET, socket.SOCK_DGRAM, 0, b"0123456789abcdef", b"me")
    first, lost = link.call_fd(Op.OPEN, body, timeout=WAIT)
    second, fd = link.call_fd(Op.OPEN, body, timeout=WAIT)
    assert first == second
    assert os.read(lost, 10) == b""
    assert not select.select([fd], [], [], 0)[0]
    os.close(lost)
    os.close(fd)
    link.close()
    slot = struct.unpack_from("<I", first)[0]
    deadline = time.monotonic() + WAIT
    while red.router.state.view("sockets", slot).integer("cookie"):
        assert time.monotonic() < deadline, "closing the last fd must end the socket"
        time.sleep(0.001)


def test_surplus_fds_are_closed(red: World) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with connect(red) as peer:
        for _ in range(8):
            socket.send_fds(peer, [HEADER.pack(MAGIC, Op.PING, 0, 0, 1, 0, 0, 0)], [0] * 20)
            assert peer.recv(100)[3] == Flag.REPLY
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)


def test_segments_and_ping(red: World) -> None:
    with connect(red) as peer:
        peer.send(HEADER.pack(MAGIC, Op.SEGMENTS, 0, 0, 7, 0, 0, 0))
        data, fds, _flags, _address = socket.recv_fds(peer, 100, 4)
        assert (data[3], len(fds)) == (Flag.REPLY, 2)
        for fd in fds:
            os.close(fd)


def test_trace_tells_the_drop(red: World) -> None:
    record = layout("rsock_trace_record")
    with connect(red) as peer:
        peer.send(HEADER.pack(MAGIC, Op.TRACE, 0, 0, 1, 0, 0, 0) + layout("rsock_trace").pack(0, 1))
        assert peer.recv(100)[3] == Flag.REPLY
        time.sleep(0.01)
        red.arrive(udp_packet(b"x", 6999))
        stages: list[tuple[str, int]] = []
        while not stages or not stages[-1][1]:
            data = peer.recv(2000)
            _packet, _interface, _time, stage, length, drop = record.unpack_from(data, HEADER.size)
            assert len(data) == HEADER.size + record.size + length
            stages.append((stage.rstrip(b"\0").decode(), drop))
        assert stages[-1] == ("drop", CONSTANTS["DROP_NO_SOCKET"])
        assert len(stages) > 1
    red.sent()


def test_capture(red: World) -> None:
    record = layout("rsock_capture_record")
    with connect(red) as peer, red.socket() as sock:
        peer.send(HEADER.pack(MAGIC, Op.CAPTURE, 0, 0, 1, 0, 0, 0) + layout("rsock_capture").pack(1, 40, 0))
        assert peer.recv(100)[3] == Flag.REPLY
        time.sleep(0.01)
        sock.sendto(bytes(100), (HOST, 9))
        red.sent()
        data = peer.recv(2000)
        interface, outgoing, _time, captured, length, lost, drop = record.unpack_from(data, HEADER.size)
        assert (interface, outgoing, captured, length, lost, drop) == (1, 1, 40, 142, 0, 0)
