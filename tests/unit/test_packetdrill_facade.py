"""The packetdrill facade by itself: hand-made packets, socket calls, and a clock that is only ours."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.unit import packets
from tests.unit.c_build import ROOT, build

HERE: Final = ROOT / "tests" / "packetdrill"
US: Final = 1
MS: Final = 1000
S: Final = 1_000_000
LOCAL: Final = "192.168.0.1"
REMOTE: Final = "192.0.2.1"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
LISTEN_PORT: Final = 8080
PEER_PORT: Final = 50000
O_NONBLOCK: Final = os.O_NONBLOCK
F_GETFL, F_SETFL = 3, 4
SIOCINQ: Final = 0x541B
POLLIN, POLLOUT = 1, 4
EPOLLIN, EPOLLOUT, EPOLLET = 1, 4, 1 << 31

DECLARATIONS: Final = """
struct timeval { long tv_sec; long tv_usec; };
struct pollfd { int fd; short events; short revents; };
struct packetdrill_interface {
    void *userdata;
    void (*free)(void *user);
    int (*socket)(void *user, int domain, int type, int protocol);
    int (*listen)(void *user, int fd, int backlog);
    ssize_t (*read)(void *user, int fd, void *buffer, size_t count);
    ssize_t (*recv)(void *user, int fd, void *buffer, size_t length, int flags);
    ssize_t (*write)(void *user, int fd, const void *buffer, size_t count);
    ssize_t (*send)(void *user, int fd, const void *buffer, size_t length, int flags);
    int (*close)(void *user, int fd);
    int (*shutdown)(void *user, int fd, int how);
    int (*poll)(void *user, struct pollfd *fds, unsigned long count, int timeout);
    int (*netdev_send)(void *user, const void *buffer, size_t count);
    int (*netdev_receive)(void *user, void *buffer, size_t *count, long long *time_us);
    int (*epoll_create)(void *user, int size);
    ...;
};
void packetdrill_interface_init(const char *flags, struct packetdrill_interface *interface);
int call_bind(void *user, int fd, const char *address, int length);
int call_connect(void *user, int fd, const char *address, int length);
int call_accept(void *user, int fd);
int call_usleep(void *user, unsigned us);
int call_fcntl(void *user, int fd, int command, long argument);
int call_ioctl(void *user, int fd, unsigned long request, int *value);
int call_setsockopt(void *user, int fd, int level, int name, const char *value, int length);
int call_getsockopt(void *user, int fd, int level, int name, char *value, unsigned *length);
int watch(void *user, int epoll, int fd, unsigned events);
int watched(void *user, int epoll, int timeout, unsigned *events, int *fd);
long long call_now(void *user);
bool pending(void *user);
int last_error(void);
"""
GLUE: Final = """
#include <errno.h>
static int saved;
static int keep(int result) { saved = errno; return result; }
static int last_error(void) { return saved; }
static int call_bind(void *user, int fd, const char *address, int length)
{ return keep(pd_bind(user, fd, (const void *)address, (socklen_t)length)); }
static int call_connect(void *user, int fd, const char *address, int length)
{ return keep(pd_connect(user, fd, (const void *)address, (socklen_t)length)); }
static int call_accept(void *user, int fd) { return keep(pd_accept(user, fd, NULL, NULL)); }
static int call_usleep(void *user, unsigned us) { return pd_usleep(user, us); }
static int call_fcntl(void *user, int fd, int command, long argument) { return pd_fcntl(user, fd, command, argument); }
static int call_ioctl(void *user, int fd, unsigned long request, int *value)
{ return keep(pd_ioctl(user, fd, request, value)); }
static int call_setsockopt(void *user, int fd, int level, int name, const char *value, int length)
{ return keep(pd_setsockopt(user, fd, level, name, value, (socklen_t)length)); }
static int call_getsockopt(void *user, int fd, int level, int name, char *value, unsigned *length)
{ return keep(pd_getsockopt(user, fd, level, name, value, length)); }
static int watch(void *user, int epoll, int fd, unsigned events)
{ return pd_epoll_ctl(user, epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = events, .data.fd = fd}); }
static int watched(void *user, int epoll, int timeout, unsigned *events, int *fd)
{
    struct epoll_event event = {0};
    int count = pd_epoll_wait(user, epoll, &event, 1, timeout);
    *events = event.events;
    *fd = event.data.fd;
    return count;
}
static long long call_now(void *user)
{ struct timeval now; pd_gettimeofday(user, &now, NULL); return now.tv_sec * 1000000ll + now.tv_usec; }
static bool pending(void *user) { return ((struct pd_world *)user)->first != NULL; }
"""


@pytest.fixture(scope="module")
def facade() -> Any:
    """Give the compiled facade."""
    source = ROOT / "fastpath" / "src"
    inside = [
        str(path.relative_to(source))
        for folder in ("base", "wire", "table", "host")
        for path in sorted((source / folder).glob("*.c"))
    ]
    outside = [f"../../tests/packetdrill/{path.name}" for path in sorted(HERE.glob("pd_*.c"))]
    includes = f'#include <stdbool.h>\n#include <sys/time.h>\n#include "{HERE}/pd_so.h"\n'
    return build(
        "_packetdrill_facade",
        (*inside, *outside, "../../tests/wire/offload.c"),
        DECLARATIONS,
        includes + GLUE,
    )


@dataclass(frozen=True)
class Segment:
    """A TCP segment that the stack has sent."""

    at: int
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    payload: bytes


def segment(seq: int, ack: int, flags: int, payload: bytes = b"", *, dport: int, options: bytes = b"") -> bytes:
    """Build a segment of the peer."""
    header = struct.pack(
        "!HHIIBBHHH", PEER_PORT, dport, seq % 2**32, ack % 2**32, (20 + len(options)) << 2, flags, 60000, 0, 0
    )
    data = header + options + payload
    total = packets.checksum(packets.pseudo(REMOTE, LOCAL, 6, len(data)) + data)
    return packets.ip4(REMOTE, LOCAL, data[:16] + total.to_bytes(2) + data[18:], protocol=6)


class Kernel:
    """What packetdrill sees: calls, a device and a clock."""

    def __init__(self, facade: Any, flags: str = "") -> None:
        self.lib, self.ffi = facade.lib, facade.ffi
        self.calls = self.ffi.new("struct packetdrill_interface *")
        self.lib.packetdrill_interface_init(f"local4={LOCAL},local6=fd00::1{flags}".encode(), self.calls)
        self.user = self.calls.userdata

    def now(self) -> int:
        """Give the time in microseconds; it moves by being read."""
        return int(self.lib.call_now(self.user))

    def sleep(self, us: int) -> None:
        self.lib.call_usleep(self.user, us)

    def sent(self) -> list[Segment]:
        """Give the segments that have left, with their checksums verified."""
        found = []
        buffer = self.ffi.new("char[65536]")
        while self.lib.pending(self.user):
            count, at = self.ffi.new("size_t *", 65536), self.ffi.new("long long *")
            assert self.calls.netdev_receive(self.user, buffer, count, at) == 0
            packet = bytes(self.ffi.buffer(buffer, count[0]))
            assert packets.checksum(packet[:20]) == 0
            tcp = packet[20:]
            assert packets.checksum(packets.pseudo(LOCAL, REMOTE, 6, len(tcp)) + tcp) == 0
            sport, dport, seq, ack, offset, flags, window = struct.unpack("!HHIIBBH", tcp[:16])
            end = offset >> 2
            found.append(Segment(at[0], sport, dport, seq, ack, flags, window, tcp[20:end], tcp[end:]))
        return found

    def one(self) -> Segment:
        (only,) = self.sent()
        return only

    def arrive(self, packet: bytes) -> None:
        assert self.calls.netdev_send(self.user, packet, len(packet)) == 0

    def socket(self) -> int:
        fd = int(self.calls.socket(self.user, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        assert fd >= 1000
        return fd

    def nonblocking(self, fd: int) -> None:
        assert self.lib.call_fcntl(self.user, fd, F_GETFL, 0) == os.O_RDWR
        assert self.lib.call_fcntl(self.user, fd, F_SETFL, os.O_RDWR | O_NONBLOCK) == 0
        assert self.lib.call_fcntl(self.user, fd, F_GETFL, 0) == os.O_RDWR | O_NONBLOCK

    def address(self, host: str, port: int) -> bytes:
        return struct.pack("<H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)

    def connect(self, fd: int) -> int:
        return int(self.lib.call_connect(self.user, fd, self.address(REMOTE, PEER_PORT), 16))

    def read(self, fd: int, most: int = 4096) -> bytes | int:
        buffer = self.ffi.new("char[]", most)
        count = self.calls.read(self.user, fd, buffer, most)
        return bytes(self.ffi.buffer(buffer, count)) if count >= 0 else -self.ffi.errno

    def write(self, fd: int, data: bytes) -> int:
        return int(self.calls.write(self.user, fd, data, len(data)))

    def poll(self, fd: int, events: int, timeout: int) -> int:
        item = self.ffi.new("struct pollfd *", {"fd": fd, "events": events})
        self.calls.poll(self.user, item, 1, timeout)
        return int(item.revents)

    def watched(self, epoll: int, timeout: int = 0) -> tuple[int, int] | None:
        """Give events and descriptor of what epoll_wait tells first."""
        events, fd = self.ffi.new("unsigned *"), self.ffi.new("int *")
        count = self.lib.watched(self.user, epoll, timeout, events, fd)
        return (events[0], fd[0]) if count == 1 else None

    def unread(self, fd: int) -> int:
        value = self.ffi.new("int *")
        assert self.lib.call_ioctl(self.user, fd, SIOCINQ, value) == 0
        return int(value[0])

    def established(self) -> tuple[int, Segment]:
        """Connect to the peer; give the descriptor and our SYN."""
        fd = self.socket()
        self.nonblocking(fd)
        assert self.connect(fd) == -1
        assert self.lib.last_error() == errno.EINPROGRESS
        syn = self.one()
        self.sleep(10 * MS)
        self.arrive(segment(9000, syn.seq + 1, SYN | ACK, dport=syn.sport, options=b"\x02\x04\x05\xb4"))
        assert self.one().flags == ACK
        return fd, syn

    def listener(self) -> int:
        fd = self.socket()
        assert self.lib.call_bind(self.user, fd, self.address("0.0.0.0", LISTEN_PORT), 16) == 0
        assert self.calls.listen(self.user, fd, 5) == 0
        return fd


@contextlib.contextmanager
def opened(facade: Any, flags: str = "") -> Iterator[Kernel]:
    """Have a world of its own."""
    kernel = Kernel(facade, flags)
    yield kernel
    kernel.calls.free(kernel.user)


@pytest.fixture
def kernel(facade: Any) -> Iterator[Kernel]:
    with opened(facade) as made:
        yield made


def test_the_clock_moves_by_itself_and_by_sleeping(kernel: Kernel) -> None:
    first = kernel.now()
    assert kernel.now() == first + 1
    kernel.sleep(60 * S)
    assert kernel.now() == first + 60 * S + 2


def test_connect_echo_close(kernel: Kernel) -> None:
    fd, syn = kernel.established()
    assert syn.dport == PEER_PORT
    assert kernel.poll(fd, POLLIN | POLLOUT, 0) == POLLOUT
    assert kernel.write(fd, b"ping") == 4
    data = kernel.one()
    assert (data.payload, data.seq, data.ack) == (b"ping", (syn.seq + 1) % 2**32, 9001)
    kernel.arrive(segment(9001, data.seq + 4, ACK | PSH, b"ping", dport=syn.sport))
    assert kernel.poll(fd, POLLIN, 0) == POLLIN
    assert kernel.unread(fd) == 4
    assert kernel.read(fd) == b"ping"
    assert kernel.read(fd) == -errno.EAGAIN
    kernel.sleep(S)
    kernel.sent()
    assert kernel.calls.close(kernel.user, fd) == 0
    fin = kernel.one()
    assert fin.flags == FIN | ACK
    kernel.arrive(segment(9005, fin.seq + 1, FIN | ACK, dport=syn.sport))
    assert kernel.one().ack == 9006
    assert kernel.calls.close(kernel.user, fd) == -1


def test_a_syn_is_repeated_after_virtual_seconds(facade: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = tmp_path / "knobs"
    knobs.write_text("net.ipv4.tcp_syn_linear_timeouts=0\n")
    monkeypatch.setenv("ANABRANCH_PD_KNOBS", str(knobs))
    with opened(facade) as kernel:
        fd = kernel.socket()
        kernel.nonblocking(fd)
        kernel.connect(fd)
        kernel.sleep(4 * S)
        first, second, third = kernel.sent()
        assert first.seq == second.seq == third.seq
        assert abs(second.at - first.at - 1 * S) < 10 * MS
        assert abs(third.at - second.at - 2 * S) < 10 * MS


def test_a_refused_connect_tells_why(kernel: Kernel) -> None:
    fd = kernel.socket()
    kernel.nonblocking(fd)
    kernel.connect(fd)
    syn = kernel.one()
    kernel.arrive(segment(0, syn.seq + 1, RST | ACK, dport=syn.sport))
    value, length = kernel.ffi.new("char[4]"), kernel.ffi.new("unsigned *", 4)
    assert kernel.lib.call_getsockopt(kernel.user, fd, socket.SOL_SOCKET, socket.SO_ERROR, value, length) == 0
    assert struct.unpack("i", bytes(kernel.ffi.buffer(value, 4)))[0] == errno.ECONNREFUSED


def test_a_blocking_accept_returns_at_the_time_of_the_handshake(kernel: Kernel) -> None:
    listener = kernel.listener()
    found: list[int] = []

    def wait() -> None:
        found.append(int(kernel.lib.call_accept(kernel.user, listener)))
        found.append(kernel.now())

    thread = threading.Thread(target=wait)
    thread.start()
    while Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        pass
    kernel.sleep(50 * MS)
    kernel.arrive(segment(0, 0, SYN, dport=LISTEN_PORT, options=b"\x02\x04\x05\xb4"))
    answer = kernel.one()
    assert answer.flags == SYN | ACK
    kernel.sleep(50 * MS)
    before = kernel.now()
    kernel.arrive(segment(1, answer.seq + 1, ACK, dport=LISTEN_PORT))
    after = kernel.now()
    thread.join(5)
    child, at = found
    assert child > listener
    assert before <= at <= after


def test_poll_and_epoll_time_out_in_virtual_time(kernel: Kernel) -> None:
    fd, _syn = kernel.established()
    start = kernel.now()
    assert kernel.poll(fd, POLLIN, 5000) == 0
    assert abs(kernel.now() - start - 5 * S) < MS
    epoll = kernel.calls.epoll_create(kernel.user, 1)
    assert kernel.lib.watch(kernel.user, epoll, fd, EPOLLIN) == 0
    assert kernel.watched(epoll, 7000) is None
    assert abs(kernel.now() - start - 12 * S) < MS


def test_an_edge_is_told_once(kernel: Kernel) -> None:
    fd, syn = kernel.established()
    epoll = kernel.calls.epoll_create(kernel.user, 1)
    assert kernel.lib.watch(kernel.user, epoll, fd, EPOLLIN | EPOLLOUT | EPOLLET) == 0
    assert kernel.watched(epoll) == (EPOLLOUT, fd)
    assert kernel.watched(epoll) is None
    kernel.arrive(segment(9001, syn.seq + 1, ACK, b"new", dport=syn.sport))
    assert kernel.watched(epoll) == (EPOLLIN | EPOLLOUT, fd)
    assert kernel.watched(epoll) is None


def test_settings_come_from_the_file(facade: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = tmp_path / "knobs"
    knobs.write_text("net.ipv4.tcp_rmem=4096 540000 15728640\nnet.ipv4.tcp_timestamps=1\nnet.ipv4.tcp_sack=1\n")
    monkeypatch.setenv("ANABRANCH_PD_KNOBS", str(knobs))
    with opened(facade) as kernel:
        fd = kernel.socket()
        kernel.nonblocking(fd)
        kernel.connect(fd)
        assert kernel.one().options[:6] == bytes.fromhex("020405b40402")
        with knobs.open("a") as more:
            more.write("net.ipv4.tcp_timestamps=0\nnet.ipv4.tcp_sack=0\n")
        fd = kernel.socket()
        kernel.nonblocking(fd)
        kernel.connect(fd)
        assert kernel.one().options[:8] == bytes.fromhex("020405b401030308")


def test_a_full_queue_lets_nothing_out(facade: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = tmp_path / "knobs"
    knobs.write_text("")
    monkeypatch.setenv("ANABRANCH_PD_KNOBS", str(knobs))
    with opened(facade) as kernel:
        fd, _syn = kernel.established()
        with knobs.open("a") as more:
            more.write("tc.limit=0\n")
        assert kernel.write(fd, b"held") == 4
        assert kernel.sent() == []


def test_an_unknown_descriptor_is_refused(kernel: Kernel) -> None:
    assert kernel.calls.close(kernel.user, 999) == -1
    assert kernel.calls.close(kernel.user, 1000) == -1
    assert kernel.poll(1200, POLLIN, 0) == 0x20
