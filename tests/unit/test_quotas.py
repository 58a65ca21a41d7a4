"""Identities and quotas in the forwarder: remote keys, limits, denials, and rules that change under sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastpath import accounts
from fastpath._layout import CONSTANTS
from fastpath.tables import Quota, RuleEntry
from rsock.client_core import Endpoint, dial_body, open_body
from rsock.link import Link
from rsock.wire import HEADER, MAGIC, Flag, Op, Right, layout
from tests.unit.apps import HOST, WAIT, World, wait_for, world
from tests.unit.rules import prefixes, publish
from tests.unit.test_server import ALL, as_user, connect, hold

pytestmark = pytest.mark.root

APP_UID, OTHER_UID, RELAY_UID = 12345, 12346, 12400
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
UID, CURVE, RELAY, ANY = (CONSTANTS[f"RULE_{word}"] for word in ("UID", "CURVE", "RELAY", "ANY"))
DENIED = layout("rsock_denied")


@pytest.fixture
def red() -> Iterator[World]:
    with world() as made:
        os.chmod(os.path.dirname(made.path), 0o755)
        os.chmod(made.path, 0o666)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            made.socket(kind=kind).close()  # modules that are imported late may be out of another user's reach
        yield made


def opening(link: Link, kind: int = socket.SOCK_DGRAM, key: bytes = b"", token: int = 0) -> int:
    """Open a socket by hand; give its fd."""
    body = open_body(socket.AF_INET, kind, 0, token.to_bytes(16), b"test", key)
    return int(link.call_fd(Op.OPEN, body, timeout=WAIT)[1])


def account(red: World, identity: str) -> dict[str, Any]:
    found = {each["identity"]: each for each in accounts.accounts(red.router.state).values()}
    return found.get(identity, {"denials": {}})


def test_only_the_relay_may_speak_for_a_key(red: World) -> None:
    publish(red, RuleEntry(RELAY, RELAY_UID), RuleEntry(CURVE, 0, Right.UDP, KEY), RuleEntry(UID, APP_UID, sum(Right)))

    def by(key: bytes, kind: int = socket.SOCK_DGRAM) -> Callable[[], object]:
        return lambda: opening(Link(red.path), kind, key)

    assert as_user(RELAY_UID, [], by(KEY)) == 0
    assert as_user(RELAY_UID, [], by(OTHER_KEY)) == errno.EACCES
    assert as_user(RELAY_UID, [], by(KEY, socket.SOCK_STREAM)) == errno.EACCES
    assert as_user(RELAY_UID, [], by(KEY, socket.SOCK_RAW)) == errno.EPERM
    assert as_user(RELAY_UID, [], by(b"")) == errno.EACCES, "it has no right of its own"
    assert as_user(APP_UID, [], by(KEY)) == errno.EPERM
    assert as_user(APP_UID, [], by(b"")) == 0
    assert as_user(0, [], by(KEY)) == errno.EPERM, "root is no relay either"
    assert account(red, f"curve:{accounts.z85(KEY)}")["opens"] == 1
    assert account(red, f"curve:{accounts.z85(KEY)}")["denials"] == {"open": 2}
    assert account(red, f"uid:{APP_UID}")["denials"] == {"identity": 1}
    assert account(red, "uid:0")["denials"] == {"identity": 1}


def test_a_rule_for_anybody_does_not_let_keys_in(red: World) -> None:
    publish(red, RuleEntry(RELAY, RELAY_UID), RuleEntry(ANY, 0, Right.UDP))
    assert as_user(RELAY_UID, [], lambda: opening(Link(red.path), key=KEY)) == errno.EACCES
    assert as_user(APP_UID, [], lambda: opening(Link(red.path))) == 0


def test_one_connection_opens_for_many_and_a_repeated_token_stays_with_its_key(red: World) -> None:
    rules = [RuleEntry(CURVE, 0, Right.UDP, key, prefixes=prefixes(to)) for key, to in
             ((KEY, "10.0.0.0/24"), (OTHER_KEY, "192.0.2.0/24"))]  # fmt: skip
    publish(red, RuleEntry(RELAY, RELAY_UID), *rules)

    def many() -> None:
        link = Link(red.path)
        name = layout("rsock_name")
        opened = layout("rsock_opened")
        found = {}
        for key in (KEY, OTHER_KEY):
            body = open_body(socket.AF_INET, socket.SOCK_DGRAM, 0, b"t" * 16, b"", key)
            found[key] = opened.unpack_from(link.call_fd(Op.OPEN, body, timeout=WAIT)[0])
        assert found[KEY][0] != found[OTHER_KEY][0]
        to = name.pack(socket.AF_INET, 9, 0, socket.inet_aton(HOST), 0, 0, 0, b"")
        slot, _rights, cookie = found[KEY]
        link.call(Op.CONNECT, to, slot=slot, cookie=cookie, timeout=WAIT)
        slot, _rights, cookie = found[OTHER_KEY]
        link.call(Op.CONNECT, to, slot=slot, cookie=cookie, timeout=WAIT)

    assert as_user(RELAY_UID, [], many) == errno.EACCES
    assert account(red, f"curve:{accounts.z85(OTHER_KEY)}")["denials"] == {"connect": 1}


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_sockets_are_limited_and_given_back(red: World, kind: int) -> None:
    publish(red, RuleEntry(UID, APP_UID, sum(Right), quota=Quota(sockets=20)), RuleEntry(ANY, 0, sum(Right)))

    def twenty() -> None:
        link = Link(red.path)
        held = [opening(link, kind, token=number) for number in range(1, 21)]
        with pytest.raises(OSError, match="Too many open files"):
            opening(link, kind)
        for fd in held:
            os.close(fd)
        deadline = time.monotonic() + WAIT
        while True:
            with contextlib.suppress(OSError):
                opening(link, kind)
                return
            assert time.monotonic() < deadline
            time.sleep(0.01)

    assert as_user(APP_UID, [], twenty) == 0
    assert account(red, f"uid:{APP_UID}")["denials"]["sockets"] >= 1


def test_opens_are_limited_by_the_second(red: World) -> None:
    publish(red, RuleEntry(UID, APP_UID, Right.UDP, quota=Quota(opens=50)))

    def hasty() -> None:
        link = Link(red.path)
        for number in range(1000):
            os.close(opening(link, token=number + 1))

    begin = time.monotonic()
    assert as_user(APP_UID, [], hasty) == errno.EAGAIN
    assert 50 <= account(red, f"uid:{APP_UID}")["opens"] <= 51 + 50 * (time.monotonic() - begin)


def test_buffers_shrink_as_memory_goes_and_then_there_is_none(red: World) -> None:
    publish(red, RuleEntry(UID, APP_UID, Right.UDP, quota=Quota(memory=1 << 20)))

    def hoarder() -> None:
        link = Link(red.path)
        for number in range(1000):
            opening(link, token=number + 1)

    assert as_user(APP_UID, [], hoarder) == errno.ENOBUFS
    assert account(red, f"uid:{APP_UID}")["opens"] <= (1 << 20) // (8 << 10) + 1
    assert account(red, f"uid:{APP_UID}")["denials"] == {"memory": 1}


def test_bytes_are_limited_by_the_second(red: World) -> None:
    publish(red, RuleEntry(UID, APP_UID, Right.UDP, quota=Quota(bytes=20_000)))

    def chatty() -> None:
        sock = red.socket()
        for _ in range(100):
            sock.sendto(bytes(1000 - 64), (HOST, 9))

    begin = time.monotonic()
    assert as_user(APP_UID, [], chatty) == 0
    wait_for(lambda: bool(account(red, f"uid:{APP_UID}")["denials"]))
    time.sleep(0.05)
    red.rest()
    denied = account(red, f"uid:{APP_UID}")["denials"]["byte-rate"]
    assert 79 - 20 * (time.monotonic() - begin) <= denied <= 80
    red.sent(100 - denied)


def test_many_hogs_leave_connections_to_others(red: World) -> None:
    """Each takes all the connections that it gets."""
    publish(red, RuleEntry(ANY, 0, Right.UDP))
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    held: list[socket.socket] = []
    got: list[int] = []

    def serves(peer: socket.socket) -> bool:
        try:
            peer.send(HEADER.pack(MAGIC, Op.PING, 0, 0, 1, 0, 0, 0))
            return bool(peer.recv(100))
        except OSError:
            return False

    try:
        for hog in range(8):
            before = len(held)
            os.seteuid(20_000 + hog)
            try:
                for _ in range(300):
                    peer = connect(red)
                    if not serves(peer):
                        peer.close()
                        break
                    held.append(peer)
            finally:
                os.seteuid(0)
            got.append(len(held) - before)
        assert got[0] == 256
        assert got[-1] >= 10
        assert sum(got) < 1024 - 32
        assert as_user(OTHER_UID, [], lambda: opening(Link(red.path))) == 0
        assert account(red, "uid:20000")["denials"] == {"connections": 1}
    finally:
        for each in held:
            each.close()


def test_control_is_told_once_a_second(red: World) -> None:
    publish(red, RuleEntry(UID, APP_UID, Right.UDP))
    control = connect(red)
    control.send(hold(ALL, 0))
    control.recv(512)

    def denied() -> None:
        for _ in range(10):
            with contextlib.suppress(OSError):
                opening(Link(red.path), socket.SOCK_RAW)

    def record() -> tuple[Any, ...]:
        while (data := control.recv(512))[2] == Op.HOLD:
            pass
        assert data[2] == Op.DENIED
        return DENIED.unpack_from(data, HEADER.size)

    assert as_user(APP_UID, [], denied) == 0
    kind, uid, _key, denial, error, suppressed = record()
    assert (kind, uid, accounts.DENIALS[denial], error, suppressed) == (UID, APP_UID, "open", errno.EPERM, 0)
    control.settimeout(0.2)
    with pytest.raises(TimeoutError):
        control.recv(512)
    time.sleep(0.9)
    control.settimeout(WAIT)
    assert as_user(APP_UID, [], denied) == 0
    assert record()[5] == 9
    control.close()


def test_rules_that_change_close_what_they_forbid_and_nothing_else(red: World) -> None:
    everything = RuleEntry(UID, APP_UID, sum(Right))
    other = RuleEntry(UID, OTHER_UID, sum(Right))
    publish(red, everything, other)
    pair, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def holder() -> None:
        link = Link(red.path)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            body = open_body(socket.AF_INET, kind, 89 if kind == socket.SOCK_RAW else 0, bytes(16), b"")
            socket.send_fds(theirs, [b"fd"], [link.call_fd(Op.OPEN, body, timeout=WAIT)[1]])

    for uid in (APP_UID, OTHER_UID):
        assert as_user(uid, [], holder) == 0
    fds = [socket.recv_fds(pair, 10, 1)[1][0] for _ in range(4)]
    for fd in fds:
        os.set_blocking(fd, False)

    def ended(fd: int) -> bool:
        try:
            return os.read(fd, 100) == b""
        except BlockingIOError:
            return False

    def wait_for(expected: list[bool]) -> None:
        deadline = time.monotonic() + WAIT
        while [ended(fd) for fd in fds] != expected:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    wait_for([False] * 4)
    publish(red, other, everything)
    time.sleep(0.05)
    wait_for([False] * 4)
    publish(red, RuleEntry(UID, APP_UID, Right.UDP), other)
    wait_for([False, True, False, False])
    publish(red, other)
    wait_for([True, True, False, False])
    for fd in fds:
        os.close(fd)
    pair.close()
    theirs.close()


def test_calls_are_timed(red: World) -> None:
    with red.socket() as sock:
        sock.bind(("", 0))
    times = red.router.state.view("calls", Op.BIND)
    wait_for(lambda: times.integer("count") == 1)  # counted once the reply has left
    assert sum(times.integers("buckets")) == 1


def test_connections_end_with_the_rule_that_let_them_in(red: World) -> None:
    """A connection to a prefix that is taken away is reset; a listener that may stay gets it accepted meanwhile."""
    everything = RuleEntry(UID, APP_UID, sum(Right))
    publish(red, everything)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def app() -> None:
        with red.socket(kind=socket.SOCK_STREAM) as listener, red.socket(kind=socket.SOCK_STREAM) as client:
            listener.bind(("10.0.0.1", 0))
            listener.listen()
            client.connect(listener.getsockname())
            server, _address = listener.accept()
            with server:
                client.sendall(b"x")
                assert server.recv(1) == b"x"
                theirs.send(b"connected")
                theirs.recv(10)
                client.recv(1)

    child = os.fork()
    if child == 0:
        os._exit(as_user(APP_UID, [], app))
    assert ours.recv(10) == b"connected"
    publish(red, RuleEntry(UID, APP_UID, sum(Right), prefixes=prefixes("192.0.2.0/24")))
    time.sleep(0.05)
    ours.send(b"go on")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.ECONNRESET
    assert account(red, f"uid:{APP_UID}")["denials"]["connect"] == 1
    ours.close()
    theirs.close()


def test_a_connection_that_waits_for_a_slow_app_ends_with_its_rule(red: World) -> None:
    """The app has no room for it, and then it is forbidden: it goes, and nobody takes its place in the listener."""
    publish(red, RuleEntry(UID, APP_UID, sum(Right)))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(WAIT)

    def app() -> None:
        ours.close()
        theirs.settimeout(WAIT)
        with red.socket(kind=socket.SOCK_STREAM) as listener:
            listener.bind(("10.0.0.1", 7200))
            listener.listen(1)
            theirs.send(b"listening")
            theirs.recv(10)
            with contextlib.suppress(OSError):
                while True:
                    listener.settimeout(0.2)
                    listener.accept()[0].close()
            theirs.send(b"accepted")
            theirs.recv(10)

    child = os.fork()
    if child == 0:
        os._exit(as_user(APP_UID, [], app))
    assert ours.recv(10) == b"listening"
    clients = [red.socket(kind=socket.SOCK_STREAM) for _ in range(3)]
    for client in clients:
        client.connect(("10.0.0.1", 7200))
    before = len(os.listdir("/proc/self/fd"))
    publish(red, RuleEntry(UID, APP_UID, sum(Right), prefixes=prefixes("192.0.2.0/24")))
    for client in clients:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    # Both of our ends of each, that of the one that has waited too.
    assert len(os.listdir("/proc/self/fd")) == before - 2 * len(clients)
    ours.send(b"go on")
    assert ours.recv(10) == b"accepted"
    assert account(red, f"uid:{APP_UID}")["denials"]["accept"] == 3
    ours.send(b"end")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for each in (*clients, ours, theirs):
        each.close()


def test_who_waits_for_a_connection_is_told_that_it_is_forbidden_now(red: World) -> None:
    publish(red, RuleEntry(UID, APP_UID, sum(Right)))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(WAIT)

    def app() -> None:
        ours.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(red.path)
            peer.settimeout(WAIT)
            nobody = Endpoint(socket.AF_INET, socket.inet_aton(HOST) + bytes(12), 80, 0)
            body = dial_body(socket.AF_INET, 0, nobody, b"")
            peer.send(HEADER.pack(MAGIC, Op.DIAL, Flag.WAIT, 0, 1, 0, 0, 0) + body)
            theirs.send(b"asked")
            answer = HEADER.unpack_from(peer.recv(512))
            raise OSError(int(answer[6]), "")

    child = os.fork()
    if child == 0:
        os._exit(as_user(APP_UID, [], app))
    assert ours.recv(10) == b"asked"
    time.sleep(0.05)
    publish(red, RuleEntry(UID, APP_UID, Right.UDP))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.ECONNABORTED
    ours.close()
    theirs.close()
