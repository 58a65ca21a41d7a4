"""UDP, ICMP echo and raw sockets of apps in a VR, over the whole core and the real client library."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.unit import packets
from tests.unit.apps import HOST, HOST6, World, world

US, US6 = "10.0.0.1", "2001:db8:a::1"
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


@pytest.fixture(scope="module")
def red() -> Iterator[World]:
    with world() as made:
        yield made


def udp_fields(packet: bytes) -> tuple[str, str, int, int, bytes]:
    """Source, destination, ports, payload of an IPv4 UDP packet; its checksum is checked."""
    assert packet[9] == packets.UDP
    segment = packet[20 : int.from_bytes(packet[2:4])]
    pseudo = packet[12:20] + struct.pack(">BBH", 0, packets.UDP, len(segment))
    assert packets.checksum(pseudo + segment) == 0
    source, destination = struct.unpack_from(">HH", segment)
    return socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), source, destination, segment[8:]


def udp_packet(payload: bytes, port: int, source: int = 7777, *, ttl: int = 64, checksum: int = 0) -> bytes:
    return packets.ip4(HOST, US, struct.pack(">HHHH", source, port, 8 + len(payload), checksum) + payload, ttl=ttl)


def test_unconnected_talk(red: World) -> None:
    with red.socket() as sock:
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)
        assert sock.sendto(b"hello", (HOST, 7777)) == 5
        source, destination, port, remote, payload = udp_fields(red.sent()[0])
        assert (source, destination, remote, payload) == (US, HOST, 7777, b"hello")
        assert 32768 <= port <= 60999
        assert sock.getsockname() == ("0.0.0.0", port)
        red.arrive(udp_packet(b"answer", port))
        assert sock.recvfrom(100) == (b"answer", (HOST, 7777))


def test_connected_talk_is_bare(red: World) -> None:
    with red.socket() as sock:
        sock.connect((HOST, 7777))
        assert sock.getpeername() == (HOST, 7777)
        host, port = sock.getsockname()
        assert host == US
        sock.send(b"x" * 100)
        assert udp_fields(red.sent()[0])[4] == b"x" * 100
        os.write(sock.fileno(), b"by write(2)")
        assert udp_fields(red.sent()[0])[4] == b"by write(2)"
        red.arrive(udp_packet(b"back", port))
        red.arrive(udp_packet(b"stranger", port, source=7778))
        assert red.sent()[0][20:22] == b"\x03\x03"  # to the stranger: nobody is there for him
        assert sock.recv(100) == b"back"
        red.arrive(udp_packet(b"", port))
        assert sock.recv(100) == b""
        sock.send(b"")
        assert udp_fields(red.sent()[0])[4] == b""
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)


def test_port_unreachable_refuses_once(red: World) -> None:
    with red.socket() as sock:
        sock.connect((HOST, 9))
        sock.send(b"anybody?")
        sent = red.sent()[0]
        red.arrive(packets.ip4(HOST, US, icmp(3, 3, 0, sent[:28]), protocol=packets.ICMP))
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def icmp(kind: int, code: int, info: int, body: bytes) -> bytes:
    message = struct.pack(">BBHI", kind, code, 0, info) + body
    return message[:2] + struct.pack(">H", packets.checksum(message)) + message[4:]


def test_error_queue(red: World) -> None:
    with red.socket() as sock:
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        sock.sendto(b"probe", (HOST, 33434))
        sent = red.sent()[0]
        assert sent[8] == 1
        red.arrive(packets.ip4("10.0.0.77", US, icmp(11, 0, 0, sent[:33]), protocol=packets.ICMP))
        with pytest.raises(OSError, match="host"):
            sock.recv(10)
        data, items, flags, address = sock.recvmsg(100, 200, socket.MSG_ERRQUEUE)
        assert (data, address) == (b"probe", (HOST, 33434))
        assert flags & socket.MSG_ERRQUEUE
        level, kind, value = items[0]
        number, origin, icmp_type, icmp_code = struct.unpack_from("=IBBB", value)
        assert (level, kind, number, origin, icmp_type, icmp_code) == (0, 11, errno.EHOSTUNREACH, 2, 11, 0)
        assert socket.inet_ntoa(value[20:24]) == "10.0.0.77"
        with pytest.raises(BlockingIOError):
            sock.recvmsg(100, 200, socket.MSG_ERRQUEUE)


def test_ancillary_data(red: World) -> None:
    with red.socket() as sock:
        sock.bind(("", 5001))
        sock.setsockopt(socket.IPPROTO_IP, 8, 1)
        sock.setsockopt(socket.IPPROTO_IP, 12, 1)
        red.arrive(udp_packet(b"x", 5001, ttl=33))
        data, items, _flags, address = sock.recvmsg(100, 200)
        assert (data, address) == (b"x", (HOST, 7777))
        found = {(level, kind): value for level, kind, value in items}
        assert struct.unpack("=i", found[0, socket.IP_TTL]) == (33,)
        index, local, _ = struct.unpack("=i4s4s", found[0, 8])
        assert (index, socket.inet_ntoa(local)) == (1, US)
        from_loopback = struct.pack("=i4s4s", 0, socket.inet_aton("192.0.2.1"), bytes(4))
        sock.sendmsg([b"a", b"b"], [(0, 8, from_loopback)], 0, (HOST, 7))
        assert udp_fields(red.sent()[0])[0] == "192.0.2.1"


def test_ports_conflict_as_in_linux(red: World) -> None:
    with red.socket() as first, red.socket() as second:
        first.bind((US, 5002))
        with pytest.raises(OSError, match="in use") as taken:
            second.bind(("", 5002))
        assert taken.value.errno == errno.EADDRINUSE
        second.bind(("192.0.2.1", 5002))
        with pytest.raises(OSError, match="Invalid"):
            second.bind(("192.0.2.1", 5002))
    with red.socket() as first, red.socket() as second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("", 5003))
        for number in range(64):
            red.arrive(udp_packet(b"x", 5003, source=1024 + number))
        assert all(select.select([sock], [], [], 2)[0] for sock in (first, second))
    with red.socket() as sock, pytest.raises(OSError, match="assign"):
        sock.bind((HOST, 1))


def test_sharers_of_a_port_each_get_their_flows(red: World) -> None:
    """SO_REUSEPORT: a flow stays with its socket, and all have about as many."""
    sharers = [red.socket() for _ in range(4)]
    for sock in sharers:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("", 5010))
    takers: list[dict[int, int]] = []
    for _ in range(2):
        for number in range(400):
            red.arrive(udp_packet(number.to_bytes(2), 5010, source=1024 + number))
        taken: dict[int, int] = {}
        while ready := select.select(sharers, [], [], 0.2)[0]:
            for sock in ready:
                taken[int.from_bytes(sock.recv(10))] = sharers.index(sock)
        takers.append(taken)
    assert takers[0] == takers[1]
    shares = [list(takers[0].values()).count(number) for number in range(4)]
    assert sum(shares) == 400
    assert min(shares) > 60, shares
    for sock in sharers:
        sock.close()


def test_the_latest_of_sockets_that_reuse_an_address(red: World) -> None:
    """SO_REUSEADDR without SO_REUSEPORT: a unicast goes to the socket that was bound last, as in Linux."""
    with red.socket() as first, red.socket() as second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", 5011))
        red.arrive(udp_packet(b"x", 5011))
        assert second.recv(10) == b"x"
        assert not select.select([first], [], [], 0.02)[0]


def test_groups_of_the_link_are_bound_to_an_interface(red: World) -> None:
    with red.socket(socket.AF_INET6) as sock:
        with pytest.raises(OSError, match="Invalid"):
            sock.bind(("ff02::1234", 5012))
        sock.bind(("ff02::1234", 5012, 0, 1))
        assert sock.getsockname() == ("ff02::1234", 5012, 0, 1)
    with red.socket(socket.AF_INET6) as sock:
        sock.bind(("ff15::1234", 5012))


def test_errors_of_ipv6(red: World) -> None:
    """IPV6_RECVERR tells of a closed port; a connected socket is refused."""
    with red.socket(socket.AF_INET6) as sock, red.socket(socket.AF_INET6) as connected:
        sock.setsockopt(socket.IPPROTO_IPV6, 25, 1)
        connected.connect((HOST6, 9))
        sock.sendto(b"probe", (HOST6, 9))
        connected.send(b"probe")
        for packet in red.sent(2):
            body = packets.icmp6(HOST6, US6, 1, 4, bytes(4), packet)
            red.arrive(packets.ip6(HOST6, US6, body, protocol=packets.ICMP6))
        with pytest.raises(ConnectionRefusedError):
            connected.recv(10)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)
        data, items, _flags, address = sock.recvmsg(100, 200, socket.MSG_ERRQUEUE)
        assert (data, address[:2]) == (b"probe", (HOST6, 9))
        level, kind, value = items[0]
        number, origin, icmp_type, icmp_code = struct.unpack_from("=IBBB", value)
        assert (level, kind, number, origin, icmp_type, icmp_code) == (41, 25, errno.ECONNREFUSED, 3, 1, 4)


def test_packet_information_of_ipv6(red: World) -> None:
    with red.socket(socket.AF_INET6) as sock:
        sock.bind(("::", 5013))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        red.arrive(udp6(b"x", 5013))
        _data, items, _flags, _address = sock.recvmsg(100, 200)
        assert items == [(41, socket.IPV6_PKTINFO, packets.address(US6) + struct.pack("=I", 1))]
        item = (41, socket.IPV6_PKTINFO, packets.address("2001:db8::1") + struct.pack("=I", 1))
        sock.sendmsg([b"a"], [item], 0, (HOST6, 7))
        assert red.sent()[0][8:24] == packets.address("2001:db8::1")


def test_both_families_on_one_socket(red: World) -> None:
    with red.socket(socket.AF_INET6) as sock:
        sock.bind(("::", 5004))
        red.arrive(udp_packet(b"four", 5004))
        assert sock.recvfrom(100) == (b"four", (f"::ffff:{HOST}", 7777, 0, 0))
        sock.sendto(b"back", (f"::ffff:{HOST}", 7777))
        assert udp_fields(red.sent()[0])[1] == HOST
        red.arrive(udp6(b"six", 5004))
        assert sock.recvfrom(100) == (b"six", (HOST6, 7777, 0, 0))
        sock.sendto(b"back", (HOST6, 7777))
        packet = red.sent()[0]
        pseudo = packet[8:40] + struct.pack(">II", len(packet) - 40, 17)
        assert packets.checksum(pseudo + packet[40:]) == 0


def udp6(payload: bytes, port: int, *, checksum: int | None = None) -> bytes:
    segment = struct.pack(">HHHH", 7777, port, 8 + len(payload), 0) + payload
    pseudo = packets.address(HOST6) + packets.address(US6) + struct.pack(">II", len(segment), 17)
    right = packets.checksum(pseudo + segment) or 0xFFFF
    segment = segment[:6] + struct.pack(">H", right if checksum is None else checksum) + segment[8:]
    return struct.pack(">IHBB", 6 << 28, len(segment), 17, 64) + packets.address(HOST6) + packets.address(US6) + segment


def test_checksums_are_verified(red: World) -> None:
    with red.socket(socket.AF_INET6) as sock:
        sock.bind(("::", 5005))
        before = red.drops("udp_checksum")
        red.arrive(udp_packet(b"wrong", 5005, checksum=0x1234))
        red.arrive(udp6(b"none", 5005, checksum=0))
        assert red.drops("udp_checksum") == before + 2
        red.arrive(udp_packet(b"none", 5005))
        assert sock.recv(100) == b"none"


def test_nobody_listens(red: World) -> None:
    red.arrive(udp_packet(b"x", 5999))
    answer = red.sent()[0]
    assert (answer[9], answer[20:22]) == (packets.ICMP, b"\x03\x03")
    red.arrive(packets.ip4(HOST, US, b"12345678", protocol=99))
    assert red.sent()[0][20:22] == b"\x03\x02"
    assert red.drops("no_socket") >= 1
    assert red.drops("no_protocol") >= 1


def fragments(packet: bytes, size: int, identification: int) -> list[bytes]:
    body = packet[20:]
    pieces = []
    for offset in range(0, len(body), size):
        more = 0x2000 if offset + size < len(body) else 0
        pieces.append(
            packets.ip4(
                HOST, US, body[offset : offset + size],
                identification=identification, fragment=more | offset // 8, protocol=packet[9],
            )
        )  # fmt: skip
    return pieces


def test_reassembly(red: World) -> None:
    payload = os.urandom(20000)
    with red.socket() as sock:
        sock.bind(("", 5006))
        pieces = fragments(udp_packet(payload, 5006), 1480, 77)
        for piece in [*pieces[::-1], pieces[0]][:-1]:
            red.arrive(piece)
        assert sock.recv(65535) == payload
        first, second, *_ = fragments(udp_packet(payload, 5006), 1480, 78)
        red.arrive(first)
        red.arrive(first)
        assert red.drops("reassembly_malformed") == 1
        before = red.drops("reassembly_overlap")
        overlapping = packets.ip4(HOST, US, bytes(1480), identification=78, fragment=0x2000 | 100)
        red.arrive(overlapping)
        red.arrive(second)
        assert red.drops("reassembly_overlap") == before + 2


def test_long_datagrams_leave_in_fragments(red: World) -> None:
    payload = os.urandom(5000)
    with red.socket() as sock:
        sock.sendto(payload, (HOST, 7777))
        pieces = sorted(red.sent(4), key=lambda packet: int.from_bytes(packet[6:8]) & 0x1FFF)
        assert b"".join(piece[20:] for piece in pieces)[8:] == payload
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.sendto(payload, (HOST, 7777))
        with pytest.raises(OSError, match="too long"):
            sock.recv(10)


def test_no_route_raises_from_the_next_receive(red: World) -> None:
    with red.socket() as sock:
        sock.sendto(b"x", ("203.0.113.1", 9))
        with pytest.raises(OSError, match="unreachable") as failure:
            sock.recv(10)
        assert failure.value.errno == errno.ENETUNREACH
        assert sock.connect_ex(("203.0.113.1", 9)) == errno.ENETUNREACH
        assert sock.connect_ex(("255.255.255.255", 9)) == errno.EACCES


def test_ping_socket(red: World) -> None:
    with red.socket(proto=socket.IPPROTO_ICMP) as sock:
        sock.sendto(icmp(8, 0, 0x00000001, b"data"), (HOST, 0))
        request = red.sent()[0]
        identifier = int.from_bytes(request[24:26])
        assert identifier == sock.getsockname()[1]
        assert packets.checksum(request[20:]) == 0
        red.arrive(packets.ip4(HOST, US, icmp(0, 0, identifier << 16 | 1, b"data"), protocol=packets.ICMP))
        data, sender = sock.recvfrom(100)
        assert (data[0], data[8:], sender) == (0, b"data", (HOST, 0))


def test_a_long_echo_request_is_answered(red: World) -> None:
    request = packets.ip4(HOST, US, icmp(8, 0, 5 << 16 | 1, bytes(3000)), protocol=packets.ICMP)
    for piece in fragments(request, 1480, 99):
        red.arrive(piece)
    first = min(red.sent(3), key=lambda packet: int.from_bytes(packet[6:8]) & 0x1FFF)
    assert first[20] == 0


def test_raw_sockets(red: World) -> None:
    with red.socket(kind=socket.SOCK_RAW, proto=253) as sock:
        sock.sendto(b"out", (HOST, 0))
        packet = red.sent()[0]
        assert (packet[9], packet[20:]) == (253, b"out")
        red.arrive(packets.ip4(HOST, US, b"in", protocol=253))
        data, sender = sock.recvfrom(100)
        assert (data[20:], sender[0]) == (b"in", HOST)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        sock.sendto(packets.ip4(US, HOST, b"own header", protocol=254, ttl=7), (HOST, 0))
        packet = red.sent()[0]
        assert (packet[8], packet[9], packet[20:]) == (7, 254, b"own header")


def test_raw_ipv6_with_its_header(red: World) -> None:
    """IPV6_HDRINCL: what the app wrote leaves as it is; IPPROTO_RAW means it."""
    packet = packets.ip6("2001:db8:77::1", HOST6, b"own header", protocol=254, hop_limit=7)
    with (
        red.socket(socket.AF_INET6, socket.SOCK_RAW, 253) as sock,
        red.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        assert sock.getsockopt(socket.IPPROTO_IPV6, 36) == 0
        sock.setsockopt(socket.IPPROTO_IPV6, 36, 1)
        assert (sock.getsockopt(socket.IPPROTO_IPV6, 36), raw.getsockopt(socket.IPPROTO_IPV6, 36)) == (1, 1)
        for sender in (sock, raw):
            sender.sendto(packet, (HOST6, 0))
            assert red.sent()[0] == packet
        for wrong in (packet[:39], packet + b"x", b"\x45" + packet[1:]):
            raw.sendto(wrong, (HOST6, 0))
            with pytest.raises(OSError, match="Invalid"):
                raw.recv(10)


def test_raw_sockets_of_an_interface_see_long_echo_requests(red: World) -> None:
    with (
        red.socket(kind=socket.SOCK_RAW, proto=socket.IPPROTO_ICMP) as here,
        red.socket(kind=socket.SOCK_RAW, proto=socket.IPPROTO_ICMP) as elsewhere,
    ):
        here.setsockopt(socket.SOL_SOCKET, 62, 1)  # SO_BINDTOIFINDEX
        elsewhere.setsockopt(socket.SOL_SOCKET, 62, 2)
        request = packets.ip4(HOST, US, icmp(8, 0, 6 << 16 | 1, bytes(3000)), protocol=packets.ICMP)
        for piece in fragments(request, 1480, 98):
            red.arrive(piece)
        red.sent(3)
        assert here.recv(5000)[20:] == request[20:]
        assert not select.select([elsewhere], [], [], 0.02)[0]


def test_multicast_reaches_members_only(red: World) -> None:
    group = "239.1.2.3"
    packet = packets.ip4(HOST, group, struct.pack(">HHHH", 7777, 5007, 9, 0) + b"m", ttl=1)
    mac = bytes.fromhex("01005e010203")
    with red.socket() as sock, red.socket() as other:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", 5007))
        other.bind(("", 5007))
        other.setsockopt(socket.IPPROTO_IP, 49, 0)  # IP_MULTICAST_ALL: not what others have joined
        request = socket.inet_aton(group) + socket.inet_aton(US)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        red.arrive(packet, mac=mac)
        assert sock.recv(10) == b"m"
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)
        red.arrive(packet, mac=mac)
        assert red.drops("multicast") >= 1
        assert not select.select([sock, other], [], [], 0.05)[0]


def test_asyncio(red: World) -> None:
    class Echo(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.received: asyncio.Future[tuple[bytes, object]] = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.received.set_result((data, addr))

    async def talk() -> tuple[bytes, object]:
        sock = red.socket()
        sock.setblocking(False)
        sock.bind(("", 5008))
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Echo, sock=sock)
        transport.sendto(b"from asyncio", (HOST, 7777))
        await asyncio.to_thread(red.sent)
        red.arrive(udp_packet(b"to asyncio", 5008))
        result = await asyncio.wait_for(protocol.received, 2)
        transport.close()
        return result

    assert asyncio.run(talk()) == (b"to asyncio", (HOST, 7777))


def test_dup_and_fork(red: World) -> None:
    sock = red.socket()
    sock.bind(("", 5009))
    with sock.dup() as other:
        sock.close()
        assert other.getsockname() == ("0.0.0.0", 5009)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                other.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 9)
                other.sendto(b"child", (HOST, 1))
                code = 0
            finally:
                os._exit(code)
        packet = red.sent()[0]
        assert (packet[8], udp_fields(packet)[2], udp_fields(packet)[4]) == (9, 5009, b"child")
        assert os.waitpid(child, 0)[1] == 0
    with red.socket() as again:
        again.bind(("", 5009))
