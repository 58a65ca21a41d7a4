"""BFD inside the forwarder: real packets, the tables that control publishes, sockets beside it, and its successors."""

from __future__ import annotations

import ipaddress
import os
import time
from typing import Any

import pytest

from fastpath import bfd
from fastpath._layout import CONSTANTS
from fastpath.binding import check, ffi, lib
from fastpath.segment import KIND_TABLES, Segment
from fastpath.tables import BfdEntry, TableWriter, pack_bfd
from tests.unit import packets
from tests.unit.harness import HOST_A, ROUTER_A, Router, two_sided
from vrouter.wire.bfd import Control, State, decode

PEER = 77


def entry(remote: str, local: str, **keys: Any) -> BfdEntry:
    address = ipaddress.ip_address(remote)
    return BfdEntry(address.version, int(address), int(ipaddress.ip_address(local)), **({"interface": 1} | keys))


def publish(router: Router, *entries: BfdEntry) -> None:
    """Publish sessions as control does."""
    data = b"".join(map(pack_bfd, entries))
    check(lib.table_writer_bfd(router._writer, ffi.from_buffer("struct bfd_entry[]", data), len(entries)))
    router.poll()


def frame(source: str, destination: str, payload: bytes, *, ttl: int = 255, port: int = 3784) -> bytes:
    """A datagram from the host on interface a."""
    body = packets.udp(source, destination, payload, sport=50000, dport=port)
    if ":" in source:
        return packets.ethernet(ROUTER_A, HOST_A, packets.IP6, packets.ip6(source, destination, body, hop_limit=ttl))
    return packets.ethernet(ROUTER_A, HOST_A, packets.IP4, packets.ip4(source, destination, body, ttl=ttl))


def sent(router: Router, port: int = 1) -> list[tuple[str, str, int, int, Control]]:
    """Give what BFD sent: source, destination, TTL, UDP port, packet."""
    found = []
    for data in router.receive(port):
        ip = data[14:]
        version = ip[0] >> 4
        header, protocol, ttl = (20, ip[9], ip[8]) if version == 4 else (40, ip[6], ip[7])
        if protocol != 17:
            continue
        addresses = (ip[12:16], ip[16:20]) if version == 4 else (ip[8:24], ip[24:40])
        source, destination = (str(ipaddress.ip_address(address)) for address in addresses)
        udp = ip[header:]
        found.append((source, destination, ttl, int.from_bytes(udp[2:4], "big"), decode(udp[8:])))
    return found


@pytest.fixture
def router():
    with Router(two_sided()) as made:
        made.settle()
        made.meet("a", "10.0.0.2", HOST_A)
        made.meet("a", "2001:db8:a::2", HOST_A)
        yield made


@pytest.mark.parametrize(("remote", "local"), [("10.0.0.2", "10.0.0.1"), ("2001:db8:a::2", "2001:db8:a::1")])
def test_a_session_comes_up_and_down(router: Router, remote: str, local: str) -> None:
    publish(router, entry(remote, local))
    router.advance(0.1)
    ((source, destination, ttl, port, packet),) = sent(router)
    assert (source, destination, ttl, port, packet.state) == (local, remote, 255, 3784, State.DOWN)
    router.send(1, frame(remote, local, Control(State.DOWN, PEER, packet.my_discriminator).encode()))
    router.send(1, frame(remote, local, Control(State.INIT, PEER, packet.my_discriminator).encode()))
    assert [told[4].state for told in sent(router)] == [State.INIT, State.UP]
    (shown,) = bfd.shown(router.state, {1: "a"}, router.now)
    assert (shown["state"], shown["interface"], shown["remote"], shown["local"]) == ("up", "a", remote, local)
    assert shown["received"] == 2
    router.advance(3.1)
    (shown,) = bfd.shown(router.state, {1: "a"}, router.now)
    assert (shown["state"], shown["diagnostic"], shown["downs"]) == ("down", "time-expired", 1)
    assert shown["detection_time"] == 0  # of whom nothing is known
    assert router.state.integer("bfd_events") == 3


def test_packets_are_counted_where_they_end(router: Router) -> None:
    publish(router, entry("10.0.0.2", "10.0.0.1"))
    before = router.count("a", "punt_packets")
    down = Control(State.DOWN, PEER).encode()
    router.send(1, frame("10.0.0.2", "10.0.0.1", down))
    assert router.count("a", "punt_packets") == before + 1
    router.send(1, frame("10.0.0.2", "10.0.0.1", down, ttl=254))
    router.send(1, frame("10.0.0.3", "10.0.0.1", down))
    router.send(1, frame("10.0.0.2", "10.0.0.1", down[:20]))
    broken = bytearray(frame("10.0.0.2", "10.0.0.1", down))
    broken[-1] ^= 1
    router.send(1, bytes(broken))
    drops = router.drops("a")
    wanted = {"bfd_ttl": 1, "bfd_no_session": 1, "bfd_malformed": 1, "udp_checksum": 1}
    assert {reason: drops.get(reason) for reason in wanted} == wanted


def test_without_sessions_the_ports_are_those_of_apps(router: Router) -> None:
    router.send(1, frame("10.0.0.2", "10.0.0.1", Control(State.DOWN, PEER).encode()))
    assert router.drops("a")["no_socket"] == 1
    publish(router, entry("10.0.0.2", "10.0.0.1"))
    router.send(1, frame("10.0.0.2", "10.0.0.1", Control(State.DOWN, PEER).encode()))
    assert router.drops("a")["no_socket"] == 1
    publish(router)
    router.send(1, frame("10.0.0.2", "10.0.0.1", Control(State.DOWN, PEER).encode()))
    assert router.drops("a")["no_socket"] == 2


def test_multihop_takes_its_own_way(router: Router) -> None:
    publish(router, entry("10.0.0.2", "192.0.2.1", interface=0, flags=CONSTANTS["BFD_MULTIHOP"]))
    router.advance(0.1)
    ((source, _destination, ttl, port, _packet),) = sent(router)
    assert (source, ttl, port) == ("192.0.2.1", 255, 4784)


def test_echo_packets_leave_and_come_back(router: Router) -> None:
    publish(router, entry("10.0.0.2", "10.0.0.1", echo=50_000))
    router.advance(0.1)
    discriminator = sent(router)[0][4].my_discriminator
    for state in (State.DOWN, State.INIT):
        up = Control(state, PEER, discriminator, echo=50_000, desired=5_000_000).encode()
        router.send(1, frame("10.0.0.2", "10.0.0.1", up))
    router.receive(1)
    for _ in range(20):
        router.advance(0.05)
        for out in router.receive(1):
            if out[36:38] == (3785).to_bytes(2, "big"):
                # The neighbor forwards it: other MAC addresses, one less of TTL.
                body = bytearray(out[14:])
                body[8] -= 1
                body[10:12] = bytes(2)
                total = sum(int.from_bytes(body[at : at + 2], "big") for at in range(0, 20, 2))
                total = (total & 0xFFFF) + (total >> 16)
                body[10:12] = (0xFFFF - total).to_bytes(2, "big")
                router.send(1, ROUTER_A + HOST_A + b"\x08\x00" + bytes(body))
    (shown,) = bfd.shown(router.state, {}, router.now)
    assert shown["echoes_sent"] > 15
    assert shown["echoes_sent"] - shown["echoes_received"] <= 1
    assert "ip4_source" not in router.drops("a")
    # What only pretends to be one is a packet with our own address as its source, as ever.
    publish(router)
    router.send(1, frame("10.0.0.1", "10.0.0.1", bytes(28), port=3785))
    assert router.drops("a")["ip4_source"] == 1


def test_a_successor_keeps_the_session(router: Router) -> None:
    publish(router, entry("10.0.0.2", "10.0.0.1"))
    router.advance(0.1)
    discriminator = sent(router)[0][4].my_discriminator
    for state in (State.DOWN, State.INIT):
        router.send(1, frame("10.0.0.2", "10.0.0.1", Control(state, PEER, discriminator).encode()))
    router.receive(1)
    router.crash()
    router.advance(0.31)
    told = sent(router)
    assert {(packet[4].state, packet[4].my_discriminator) for packet in told} == {(State.UP, discriminator)}
    router.advance(2.5)
    assert bfd.shown(router.state, {}, router.now)[0]["state"] == "up"


def bring_up(router: Router) -> bytes:
    """Let a session come up whose detection time is 150 ms, and give what its neighbor then sends."""
    publish(router, entry("10.0.0.2", "10.0.0.1", transmit=50_000, receive=50_000))
    router.advance(0.1)
    discriminator = sent(router)[0][4].my_discriminator
    for state in (State.DOWN, State.INIT, State.UP):
        packet = Control(state, PEER, discriminator, desired=50_000, required=50_000, multiplier=3)
        data = frame("10.0.0.2", "10.0.0.1", packet.encode())
        router.send(1, data)
    assert state_of(router) == "up"
    return data


def state_of(router: Router) -> str:
    return str(bfd.shown(router.state, {}, router.now)[0]["state"])


def late(router: Router, milliseconds: int, *frames: bytes) -> None:
    """Let the core be away for some time in which frames arrive, and come back for one iteration."""
    for data in frames:
        router.ports[1].send(data)
    router.now += milliseconds * 1_000_000
    lib.core_poll(router.core, router.now)


def test_a_frame_that_waited_while_we_were_late_counts(router: Router) -> None:
    data = bring_up(router)
    late(router, 700, data)
    assert state_of(router) == "up"
    router.advance(0.14)
    assert state_of(router) == "up"
    router.advance(0.02)
    assert state_of(router) == "down"


def test_who_was_late_waits_as_much_longer_for_the_neighbor(router: Router) -> None:
    data = bring_up(router)
    late(router, 190)  # 40 ms behind the end of the detection time
    assert state_of(router) == "up"
    router.advance(0.03)
    assert state_of(router) == "up"
    router.send(1, data)
    router.advance(0.14)
    assert state_of(router) == "up"


def test_lateness_does_not_hide_a_failure(router: Router) -> None:
    bring_up(router)
    late(router, 190)
    for _ in range(10):
        late(router, 10)
    assert state_of(router) == "down"


def test_a_writer_that_comes_back_keeps_the_sessions(router: Router) -> None:
    publish(router, entry("10.0.0.2", "10.0.0.1"), entry("10.0.0.9", "10.0.0.1"))
    with TableWriter(router.tables_fd, router.state_fd) as writer, Segment(router.tables_fd, KIND_TABLES) as tables:
        found = bfd.published(tables)
        assert found == [pack_bfd(entry("10.0.0.2", "10.0.0.1")), pack_bfd(entry("10.0.0.9", "10.0.0.1"))]
        writer.bfd(found[:1])
        assert bfd.published(tables) == found[:1]
        writer.bfd([])
        assert bfd.published(tables) == []
    router.poll()
    assert not list(bfd.sessions(router.state))


def test_a_writer_drops_a_damaged_table(router: Router) -> None:
    publish(router, entry("10.0.0.2", "10.0.0.1"))
    with Segment(router.tables_fd, KIND_TABLES) as tables:
        at = tables.integer("bfd_root") + 20
        os.pwrite(router.tables_fd, bytes((tables.buffer[at] ^ 1,)), at)
        with TableWriter(router.tables_fd, router.state_fd) as writer:
            assert tables.integer("bfd_root") == 0
            writer.bfd([pack_bfd(entry("10.0.0.9", "10.0.0.1"))])
            assert len(bfd.published(tables)) == 1


def test_many_sessions_cost_little(router: Router) -> None:
    publish(router, *(entry(f"10.0.0.{n + 2}", "10.0.0.1", transmit=50_000) for n in range(200)))
    router.advance(0.2)
    router.receive(1)
    began = time.process_time()
    router.advance(2)
    assert time.process_time() - began < 2
