"""The socket calls of TCP: results and errors as Linux gives them, between two stacks in this process."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.unit import tcp_pieces
from tests.unit.tcp_pieces import (
    ACCEPTABLE,
    CLOSED,
    CONNECTED,
    FAILED,
    MS,
    PEER_CLOSED,
    READABLE,
    RST,
    SECOND,
    WRITABLE,
    Stream,
    Wire,
    flags_of,
)

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET


@contextlib.contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(OSError, match=r".") as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_what_waits_to_be_sent_is_not_overwritten(wire: Wire) -> None:
    """Large packets point into the send queue: until they have left, others find no room in what was freed of it."""
    (first, _), (second, _) = wire.pair(80), wire.pair(81)
    box = wire.boxes[0]
    first.write(b"a" * 14_000)
    box.flush()
    first.abort()
    second.write(b"b" * 14_000)
    box.flush()
    sent = b"".join(packet[20 + (packet[32] >> 4) * 4 :] for packet, _vnet in box.take())
    assert sent == b"a" * 14_000 + b"b" * 14_000
    used = box.number("blocks")
    second.abort()
    third, _ = wire.pair(82)
    third.write(b"c" * 14_000)
    assert box.number("blocks") == used, "what has left is used again"


def test_connect_talk_close(wire: Wire) -> None:
    listener = wire.boxes[1].socket()
    listener.bind("0.0.0.0", 80)
    listener.listen(5)
    with fails(errno.EAGAIN):
        listener.accept()
    client = wire.boxes[0].socket()
    client.connect(wire.boxes[1].address, 80)
    with fails(errno.EALREADY):
        client.connect(wire.boxes[1].address, 80)
    with fails(errno.EAGAIN):
        client.write(b"early")
    assert client.events() == 0
    wire.run()
    assert client.events() & (CONNECTED | WRITABLE) == CONNECTED | WRITABLE
    assert listener.events() & ACCEPTABLE
    with fails(errno.EISCONN):
        client.connect(wire.boxes[1].address, 80)
    server = listener.accept()
    assert client.write(b"question") == 8
    wire.run()
    assert server.events() & READABLE
    assert server.read(3, socket.MSG_PEEK) == b"que"
    assert server.read(3) == b"que"
    assert server.read() == b"stion"
    with fails(errno.EAGAIN):
        server.read()
    server.write(b"answer")
    server.shutdown(socket.SHUT_WR)
    with fails(errno.EPIPE):
        server.write(b"more")
    wire.run()
    assert client.events() & (PEER_CLOSED | READABLE) == READABLE
    assert client.read() == b"answer"
    assert client.events() & PEER_CLOSED
    assert client.read() == b""
    assert client.write(b"half-closed") == 11
    client.close()
    wire.run()
    assert server.read() == b"half-closed"
    assert server.read() == b""
    wire.run()
    assert server.events() & CLOSED  # its FIN was the first: a record in TIME-WAIT stands for it
    assert wire.boxes[1].number("timewaits") == 1
    server.close()
    listener.close()
    wire.run(61 * SECOND)
    for box in wire.boxes:
        assert box.number("timewaits") == box.number("blocks") == box.number("flights") == box.number("packets") == 0
        assert all(box.number("socket_state", 4096 + slot) == -1 for slot in range(box.number("used")))


def test_refused(wire: Wire) -> None:
    client = wire.boxes[0].socket()
    client.connect(wire.boxes[1].address, 81)
    wire.run()
    assert client.events() & FAILED
    assert client.error == errno.ECONNREFUSED
    assert client.error == 0
    with fails(errno.ENOTCONN):
        client.read()
    with fails(errno.EPIPE):
        client.write(b"x")
    listener = wire.boxes[1].socket()
    listener.bind("0.0.0.0", 81)
    listener.listen()
    client.connect(wire.boxes[1].address, 81)  # as on Linux: the same socket may try again
    wire.run()
    assert client.state == tcp_pieces.S_ESTABLISHED


def test_connect_times_out() -> None:
    wire = Wire()
    wire.lose = lambda _side, _packet: True
    client = wire.boxes[0].socket()
    client.set(TCP, socket.TCP_SYNCNT, 2)
    client.connect(wire.boxes[1].address, 80)
    wire.run(130 * SECOND)
    assert client.events() & FAILED
    assert client.error == errno.ETIMEDOUT


def test_unconnected(wire: Wire) -> None:
    lone = wire.boxes[0].socket()
    with fails(errno.ENOTCONN):
        lone.read()
    with fails(errno.ENOTCONN):
        lone.shutdown(socket.SHUT_RDWR)
    with fails(errno.EINVAL):
        lone.accept()
    with fails(errno.EPIPE):
        lone.write(b"x")
    with fails(errno.ENETUNREACH):
        lone.connect("198.51.100.1", 80)
    with fails(errno.ENETUNREACH):
        lone.connect("224.0.0.1", 80)
    with fails(errno.EADDRNOTAVAIL):
        lone.bind("10.0.9.9", 80)
    six = wire.boxes[0].socket(socket.AF_INET6)
    six.set(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    with fails(errno.EINVAL):
        six.bind(wire.boxes[0].address, 80)
    with fails(errno.ENETUNREACH):
        six.connect(wire.boxes[1].address, 80)


def test_reset_reaches_reader_once(wire: Wire) -> None:
    client, server = wire.pair()
    server.write(b"last words")
    wire.run()
    server.set(SOL, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    server.close()
    wire.run()
    assert flags_of(wire.seen[-1][1]) & RST
    assert client.events() & (FAILED | CLOSED) == FAILED | CLOSED
    assert client.read() == b"last words"  # what had arrived is not lost
    with fails(errno.ECONNRESET):
        client.read()
    assert client.read() == b""
    with fails(errno.EPIPE):
        client.write(b"x")
    client.close()
    wire.run()
    assert wire.boxes[0].number("flights") == wire.boxes[0].number("blocks") == 0


def test_close_with_unread_data_resets(wire: Wire) -> None:
    client, server = wire.pair()
    client.write(b"never read")
    wire.run()
    server.close()
    wire.run()
    with fails(errno.ECONNRESET):
        client.read()


def test_data_before_close_is_delivered(wire: Wire) -> None:
    client, server = wire.pair()
    payload = random.Random(1).randbytes(50_000)
    assert client.write(payload) == len(payload)
    client.close()
    assert client.state == tcp_pieces.S_FIN_WAIT_1
    wire.run(2 * SECOND)
    assert server.read() == payload
    assert server.read() == b""
    server.close()
    wire.run()
    assert wire.boxes[0].number("timewaits") == 1


def test_orphan_in_fin_wait_2_becomes_a_record(wire: Wire) -> None:
    client, server = wire.pair()
    client.close()
    wire.run()
    assert client.state == -1
    assert wire.boxes[0].number("timewaits") == 1
    server.write(b"nobody reads this")
    wire.run()
    assert server.read() == b""  # the FIN came first
    assert server.error == errno.EPIPE


def test_back_pressure(wire: Wire) -> None:
    client, server = wire.pair()
    client.set(SOL, socket.SO_SNDBUF, 20_000)
    assert client.get(SOL, socket.SO_SNDBUF) == 40_000
    sent = bytearray()
    source = random.Random(2)
    with contextlib.suppress(BlockingIOError):
        for _ in range(100):
            data = source.randbytes(7000)
            sent += data[: client.write(data)]
            wire.run(10 * MS)
    unread, unacknowledged, _unsent, _readable, writable, *_ = wire.boxes[0].status(client.slot)
    assert (unread, writable) == (0, 0)
    assert 20_000 <= unacknowledged <= 80_000  # as on Linux, the last write may overshoot
    assert len(sent) <= unacknowledged + wire.boxes[1].status(server.slot)[0]
    received = bytearray()
    client.events()
    for _ in range(1000):
        with contextlib.suppress(OSError):
            received += server.read(9000)
        wire.run(10 * MS)
        if len(received) == len(sent):
            break
    assert received == sent
    assert client.events() & WRITABLE
    wire.run()
    assert [box.number("blocks") for box in wire.boxes] == [0, 0]
    assert [box.number("flights") for box in wire.boxes] == [0, 0]


def test_memory_runs_out() -> None:
    wire = Wire(blocks=16)
    client, server = wire.pair()
    written = client.write(bytes(200_000))
    assert 0 < written <= 16 * 4096
    received = bytearray()
    for _ in range(400):
        wire.run(500 * MS)
        with contextlib.suppress(BlockingIOError):
            received += server.read()
    assert len(received) == written
    client.close()
    server.close()
    wire.run(70 * SECOND)
    assert [box.number("blocks") for box in wire.boxes] == [0, 0]


def test_reserve_and_commit(wire: Wire) -> None:
    client, server = wire.pair()
    sent = bytearray()
    source = random.Random(3)
    for _ in range(200):
        data = source.randbytes(source.choice([1, 100, 4095, 4096, 4097, 12_000]))
        done = wire.boxes[0].reserve_write(client.slot, data, source.randrange(len(data) + 1))
        sent += data[:done]
        wire.run(5 * MS)
        with contextlib.suppress(BlockingIOError):
            assert server.read() == sent
            sent.clear()
    wire.run()
    assert not sent
    assert wire.boxes[0].number("blocks") == 0


def reusing(box: tcp_pieces.Box, option: int, family: int = socket.AF_INET) -> Stream:
    made = box.socket(family)
    made.set(SOL, option, 1)
    return made


def test_bind_conflicts(wire: Wire) -> None:
    box = wire.boxes[0]
    first = box.socket()
    first.bind(box.address, 5000)
    with fails(errno.EINVAL):
        first.bind(box.address, 5001)
    with fails(errno.EADDRINUSE):
        box.socket().bind("0.0.0.0", 5000)
    with fails(errno.EADDRINUSE):
        box.socket(socket.AF_INET6).bind("::", 5000)
    six = box.socket(socket.AF_INET6)
    six.set(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind("::", 5000)
    box.socket().bind(box.second_address, 5000)
    first.close()
    with fails(errno.EADDRINUSE):  # the second address still has it
        box.socket().bind("0.0.0.0", 5000)
    first = reusing(box, socket.SO_REUSEADDR)
    second = reusing(box, socket.SO_REUSEADDR)
    first.bind("0.0.0.0", 5001)
    second.bind("0.0.0.0", 5001)
    first.listen()
    with fails(errno.EADDRINUSE):
        second.listen()
    with fails(errno.EADDRINUSE):
        reusing(box, socket.SO_REUSEADDR).bind("0.0.0.0", 5001)
    sharers = [reusing(box, socket.SO_REUSEPORT) for _ in range(3)]
    for sharer in sharers:
        sharer.bind("0.0.0.0", 5002)
        sharer.listen()
    with fails(errno.EADDRINUSE):
        box.socket().bind("0.0.0.0", 5002)


def test_reuseport_spreads_connections(wire: Wire) -> None:
    listeners = [reusing(wire.boxes[1], socket.SO_REUSEPORT) for _ in range(4)]
    for listener in listeners:
        listener.bind("0.0.0.0", 80)
        listener.listen(100)
    for _ in range(80):
        wire.boxes[0].socket().connect(wire.boxes[1].address, 80)
    wire.run()
    counts = []
    for listener in listeners:
        counts.append(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.accept()
                counts[-1] += 1
    assert sum(counts) == 80
    assert min(counts) >= 5


def test_dual_stack_listener(wire: Wire) -> None:
    listener = wire.boxes[1].socket(socket.AF_INET6)
    listener.bind("::", 80)
    listener.listen()
    four, six = wire.boxes[0].socket(), wire.boxes[0].socket(socket.AF_INET6)
    four.connect(wire.boxes[1].address, 80)
    wire.run()
    six.connect(wire.boxes[1].address6, 80)
    wire.run()
    for client in (four, six):
        server = listener.accept()
        client.write(b"hello")
        wire.run()
        assert server.read() == b"hello"


def test_ports_of_connects_are_shared_among_destinations(wire: Wire) -> None:
    box = wire.boxes[0]
    ports = []
    for number in range(3000):
        client = box.socket()
        client.connect(f"10.1.{number % 16}.1", 80)
        ports.append((number % 16, client.port))
    assert len(set(ports)) == 3000
    assert len({port for _, port in ports}) < 3000
    assert all(32768 <= port <= 60999 for _, port in ports)
    assert len({ports[i][1] - ports[0][1] for i in range(16)}) > 4  # each destination begins elsewhere


def test_all_ports_to_one_destination() -> None:
    wire = Wire()
    box = wire.boxes[0]
    ports = set()
    for _ in range(60999 - 32768 + 1):
        client = box.socket()
        client.connect("10.1.0.1", 80)
        ports.add(client.port)
    box.take()
    assert len(ports) == 60999 - 32768 + 1
    with fails(errno.EADDRNOTAVAIL):
        box.socket().connect("10.1.0.1", 80)
    box.socket().connect("10.1.0.1", 81)


def test_late_port(wire: Wire) -> None:
    client = wire.boxes[0].socket()
    client.set(socket.IPPROTO_IP, 24, 1)
    client.bind(wire.boxes[0].second_address, 0)
    assert client.port == 0
    with fails(errno.EINVAL):
        client.bind(wire.boxes[0].address, 0)
    client.connect(wire.boxes[1].address, 80)
    assert client.port != 0
    wire.run()
    assert wire.seen[0][1][12:16] == socket.inet_aton(wire.boxes[0].second_address)


def test_port_in_time_wait(wire: Wire) -> None:
    client, server = wire.pair(8080)
    server.close()
    wire.run()
    client.close()
    wire.run()
    assert wire.boxes[1].number("timewaits") == 1
    with fails(errno.EADDRINUSE):
        wire.boxes[1].socket().bind("0.0.0.0", 8080)
    again = reusing(wire.boxes[1], socket.SO_REUSEADDR)
    again.bind("0.0.0.0", 8080)
    again.listen()


@pytest.mark.parametrize("loss", [0.02, 0.1])
def test_bytes_survive_a_bad_wire(loss: float) -> None:
    dice = random.Random(int(loss * 100))
    wire = Wire(delay=5 * MS)
    client, server = wire.pair()
    wire.lose = lambda _side, _packet: dice.random() < loss
    payload = dice.randbytes(400_000)
    sent, received = 0, bytearray()
    for _ in range(60_000):
        with contextlib.suppress(BlockingIOError):
            sent += client.write(payload[sent : sent + 30_000]) if sent < len(payload) else 0
        with contextlib.suppress(BlockingIOError):
            received += server.read()
        if len(received) == len(payload):
            break
        wire.run(20 * MS)
    assert received == payload
    client.close()
    server.close()
    wire.run(900 * SECOND)
    for box in wire.boxes:
        assert box.number("timewaits") == box.number("blocks") == box.number("flights") == box.number("packets") == 0


def test_a_socket_that_connects_again_offers_as_much_as_before(wire: Wire) -> None:
    """What the first connection left must not limit the scale of the next one's window (RFC 7323 section 2)."""
    client, _server = wire.pair()
    client.disconnect()
    listener = wire.boxes[1].socket()
    listener.bind("0.0.0.0", 81)
    listener.listen()
    client.connect(wire.boxes[1].address, 81)
    wire.run()
    syns = [packet[40:] for side, packet in wire.seen if side == 0 and flags_of(packet) == 2]
    assert len(syns) == 2
    assert syns[0][-3:] == syns[1][-3:], "the same window scale option"


def test_disconnect_lets_a_socket_connect_again(wire: Wire) -> None:
    client, server = wire.pair(80)
    client.disconnect()
    wire.run()
    with fails(errno.ECONNRESET):
        server.read()
    listener = reusing(wire.boxes[1], socket.SO_REUSEADDR)
    listener.bind("0.0.0.0", 80)
    listener.listen()
    client.connect(wire.boxes[1].address, 80)
    wire.run()
    server = listener.accept()
    client.write(b"again")
    wire.run()
    assert server.read() == b"again"


def test_listener_close_resets_what_was_not_accepted(wire: Wire) -> None:
    listener = wire.boxes[1].socket()
    listener.bind("0.0.0.0", 80)
    listener.listen()
    client = wire.boxes[0].socket()
    client.connect(wire.boxes[1].address, 80)
    wire.run()
    listener.close()
    wire.run()
    assert client.events() & FAILED
    assert client.error == errno.ECONNRESET
    assert all(wire.boxes[1].number("socket_state", 4096 + slot) == -1 for slot in range(2))


def test_reset_in_the_accept_queue_is_accepted_and_fails(wire: Wire) -> None:
    listener = wire.boxes[1].socket()
    listener.bind("0.0.0.0", 80)
    listener.listen()
    client = wire.boxes[0].socket()
    client.connect(wire.boxes[1].address, 80)
    wire.run()
    client.write(b"sent before")
    wire.run()
    client.abort()
    wire.run()
    server = listener.accept()
    assert server.read() == b"sent before"
    with fails(errno.ECONNRESET):
        server.read()


def test_successor_resets_the_peers(wire: Wire) -> None:
    clients = [wire.pair(80 + number)[0] for number in range(3)]
    wire.boxes[1].die()
    wire.run()
    for client in clients:
        with fails(errno.ECONNRESET):
            client.read()
    assert wire.boxes[1].number("used") == 3 + 1
    assert all(wire.boxes[1].number("socket_state", 4096 + slot) == -1 for slot in range(4))
    wire.pair(80)


def test_slots_come_back(wire: Wire) -> None:
    for _ in range(50):
        client, server = wire.pair(80)
        client.abort()
        wire.run(10 * MS)
        server.close()
        wire.run(10 * MS)
    assert wire.boxes[0].number("used") <= 2
    assert wire.boxes[1].number("used") <= 4


# Option, value to set, value to read: as Linux 6.x answers.
OPTIONS = [
    (SOL, socket.SO_KEEPALIVE, 1, 1),
    (SOL, socket.SO_REUSEADDR, 5, 1),
    (SOL, socket.SO_RCVBUF, 100_000, 200_000),
    (SOL, socket.SO_RCVBUF, 1, 2304),
    (SOL, socket.SO_SNDBUF, 1, 4608),
    (SOL, socket.SO_SNDBUF, 10_000_000, 425_984),
    (TCP, socket.TCP_NODELAY, 7, 1),
    (TCP, socket.TCP_CORK, 1, 1),
    (TCP, socket.TCP_MAXSEG, 1000, 1000),
    (TCP, socket.TCP_KEEPIDLE, 10, 10),
    (TCP, socket.TCP_KEEPINTVL, 11, 11),
    (TCP, socket.TCP_KEEPCNT, 12, 12),
    (TCP, socket.TCP_SYNCNT, 3, 3),
    (TCP, socket.TCP_LINGER2, 30, 30),
    (TCP, socket.TCP_LINGER2, -5, -1),
    (TCP, socket.TCP_DEFER_ACCEPT, 5, 7),
    (TCP, socket.TCP_WINDOW_CLAMP, 10_000, 10_000),
    (TCP, socket.TCP_USER_TIMEOUT, 4000, 4000),
    (TCP, socket.TCP_NOTSENT_LOWAT, 16384, 16384),
    (TCP, socket.TCP_QUICKACK, 0, 0),
    (socket.IPPROTO_IP, socket.IP_TTL, 33, 33),
    (socket.IPPROTO_IP, socket.IP_TTL, -1, 64),
    (socket.IPPROTO_IP, socket.IP_TOS, 0xB8, 0xB8),
    (socket.IPPROTO_IP, 21, 255, 255),
    (socket.IPPROTO_IP, 10, 2, 2),
]


@pytest.mark.parametrize(("level", "name", "value", "answer"), OPTIONS)
def test_options_as_the_kernel(wire: Wire, level: int, name: int, value: int, answer: int) -> None:
    ours = wire.boxes[0].socket()
    ours.set(level, name, value)
    assert ours.get(level, name) == answer
    with socket.socket() as theirs:
        theirs.setsockopt(level, name, value)
        told = theirs.getsockopt(level, name)
    if name not in {socket.SO_SNDBUF, socket.SO_RCVBUF} or level != SOL:  # a sysctl bounds these there
        assert told == answer


DEFAULTS = [
    (SOL, socket.SO_TYPE),
    (SOL, socket.SO_DOMAIN),
    (SOL, socket.SO_PROTOCOL),
    (SOL, socket.SO_ACCEPTCONN),
    (SOL, socket.SO_ERROR),
    (SOL, socket.SO_OOBINLINE),
    (TCP, socket.TCP_KEEPIDLE),
    (TCP, socket.TCP_KEEPINTVL),
    (TCP, socket.TCP_KEEPCNT),
    (TCP, socket.TCP_MAXSEG),
    (TCP, socket.TCP_SYNCNT),
    (TCP, socket.TCP_USER_TIMEOUT),
    (TCP, socket.TCP_QUICKACK),
    (socket.IPPROTO_IP, socket.IP_TTL),
    (socket.IPPROTO_IP, socket.IP_TOS),
]


@pytest.mark.parametrize(("level", "name"), DEFAULTS)
def test_defaults_as_the_kernel(wire: Wire, level: int, name: int) -> None:
    with socket.socket() as theirs:
        assert wire.boxes[0].socket().get(level, name) == theirs.getsockopt(level, name)


REFUSED = [
    (TCP, socket.TCP_MAXSEG, 40),
    (TCP, socket.TCP_KEEPIDLE, 0),
    (TCP, socket.TCP_KEEPCNT, 128),
    (TCP, socket.TCP_SYNCNT, 0),
    (TCP, socket.TCP_USER_TIMEOUT, -1),
    (TCP, socket.TCP_CONGESTION, b"nonsense"),
    (TCP, socket.TCP_NODELAY, b"x"),
    (TCP, 9999, 1),
    (socket.IPPROTO_IP, socket.IP_TTL, 256),
    (socket.IPPROTO_IP, 21, 256),
    (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1),
]


@pytest.mark.parametrize(("level", "name", "value"), REFUSED)
def test_refused_options_as_the_kernel(wire: Wire, level: int, name: int, value: int | bytes) -> None:
    with socket.socket() as theirs, pytest.raises(OSError, match=r".") as told:
        theirs.setsockopt(level, name, value)
    with fails(told.value.errno or 0):
        wire.boxes[0].socket().set(level, name, value)


def test_congestion_control_by_name(wire: Wire) -> None:
    client, _server = wire.pair()
    assert client.get_bytes(TCP, socket.TCP_CONGESTION) == b"cubic".ljust(16, b"\0")
    client.set(TCP, socket.TCP_CONGESTION, b"reno\0")
    assert client.get_bytes(TCP, socket.TCP_CONGESTION) == b"reno".ljust(16, b"\0")


def test_tcp_info(wire: Wire) -> None:
    client, server = wire.pair()
    client.write(bytes(50_000))
    wire.run(2 * SECOND)
    assert len(server.read()) == 50_000
    info = client.get_bytes(TCP, socket.TCP_INFO, 512)
    assert len(info) == 248
    assert info[0] == 1  # TCP_ESTABLISHED
    assert info[5] & 7 == 7  # timestamps, SACK, window scaling
    assert client.get_bytes(TCP, socket.TCP_INFO, 20) == info[:20]
    rto, _ato, mss = struct.unpack_from("=III", info, 8)
    assert (200_000 <= rto <= 210_000, mss) == (True, 1448)
    pmtu, _ssthresh, rtt, _variance = struct.unpack_from("=IIII", info, 60)
    assert pmtu == 1500
    assert 1900 <= rtt <= 60_000
    acked, _received = struct.unpack_from("=QQ", info, 120)
    assert acked in {50_000, 50_001}
    assert struct.unpack_from("=Q", server.get_bytes(TCP, socket.TCP_INFO), 128) == (50_000,)


def test_bound_to_an_interface(wire: Wire) -> None:
    client = wire.boxes[0].socket()
    with fails(errno.ENODEV):
        client.set(SOL, socket.SO_BINDTODEVICE, b"nope\0")
    client.set(SOL, socket.SO_BINDTODEVICE, b"eth0\0")
    assert client.get_bytes(SOL, socket.SO_BINDTODEVICE) == b"eth0\0"
    client.set(SOL, socket.SO_BINDTODEVICE, b"")
    assert client.get_bytes(SOL, socket.SO_BINDTODEVICE) == b""
