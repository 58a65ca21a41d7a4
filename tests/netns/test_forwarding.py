"""Forwarding between kernel hosts that leave everything to their network cards: TCP, UDP, ICMP, both families.

alice --in-- red ==wide (9000)==== blue --out-- carol
 bob --bob--     ==narrow (1300)==
"""

from __future__ import annotations

import re
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from hosts import (
    MIB,
    Capture,
    Trace,
    answered,
    check_laws,
    drops,
    numbered,
    ping,
    super_datagrams,
    transfer,
)
from lab import Lab, Namespace, wait_until

import rsock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.quiet, pytest.mark.root]

ALICE: Final = ("10.0.0.2", "2001:db8:a::2")
BOB: Final = ("10.0.1.2", "2001:db8:b::2")
CAROL: Final = ("10.0.2.2", "2001:db8:c::2")
NARROW: Final = ("10.0.3.2", "2001:db8:d::2")  # carol too, but over the link with the small MTU
NARROW_MTU: Final = 1300
RED: Final = ("10.0.0.1", "2001:db8:a::1")
BLUE: Final = ("10.0.2.1", "2001:db8:c::1")

CONFIG: Final = {
    "red": {
        "interfaces": {
            "in": {"device": "in", "addresses": ["10.0.0.1/24", "2001:db8:a::1/64"]},
            "bob": {"device": "bob", "addresses": ["10.0.1.1/24", "2001:db8:b::1/64"]},
            "wide": {"patch": "blue/wide", "addresses": ["10.1.0.1/31", "2001:db8:1::/127"]},
            "narrow": {"patch": "blue/narrow", "mtu": NARROW_MTU, "addresses": ["10.1.1.1/31", "2001:db8:2::/127"]},
            "lo": {"addresses": ["192.0.2.1/32", "2001:db8:ffff::1/128"]},
        },
        "static": {
            "10.0.2.0/24": {"via": "10.1.0.0"},
            "2001:db8:c::/64": {"via": "2001:db8:1::1"},
            "10.0.3.0/24": {"via": "10.1.1.0"},
            "2001:db8:d::/64": {"via": "2001:db8:2::1"},
            "203.0.113.0/24": {"discard": True},
        },
    },
    "blue": {
        "interfaces": {
            "out": {
                "device": "out",
                "addresses": ["10.0.2.1/24", "2001:db8:c::1/64", "10.0.3.1/24", "2001:db8:d::1/64"],
            },
            "wide": {"patch": "red/wide", "addresses": ["10.1.0.0/31", "2001:db8:1::1/127"]},
            "narrow": {"patch": "red/narrow", "mtu": NARROW_MTU, "addresses": ["10.1.1.0/31", "2001:db8:2::1/127"]},
        },
        "static": {
            "10.0.0.0/23": {"via": "10.1.0.1"},
            "2001:db8:a::/64": {"via": "2001:db8:1::"},
            "2001:db8:b::/64": {"via": "2001:db8:1::"},
        },
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        for name, device, (address, address6), (gateway, gateway6) in (
            ("alice", "in", ALICE, RED),
            ("bob", "bob", BOB, ("10.0.1.1", "2001:db8:b::1")),
            ("carol", "out", CAROL, BLUE),
        ):
            host = made.host(name, device, f"{address}/24", gateway=gateway)
            host.address("eth0", f"{address6}/64")
            host.ip("route", "add", "default", "via", gateway6)
        for address in (f"{NARROW[0]}/24", f"{NARROW[1]}/64"):
            made.namespaces["carol"].address("eth0", address)
        made.configure(CONFIG)
        made.start()
        alice = made.namespaces["alice"]
        for address in (*BOB, *CAROL, *NARROW):
            wait_until(partial(alice.ping, address, wait=0.2), f"the path to {address} is there")
        yield made


@pytest.fixture
def alice(lab: Lab) -> Namespace:
    """Give the host behind red; what it has learnt of path MTUs is forgotten."""
    host = lab.namespaces["alice"]
    host.ip("route", "flush", "cache")
    host.ip("-6", "route", "flush", "cache")
    return host


@pytest.fixture
def bob(lab: Lab) -> Namespace:
    return lab.namespaces["bob"]


@pytest.fixture
def carol(lab: Lab) -> Namespace:
    return lab.namespaces["carol"]


@pytest.fixture(autouse=True)
def laws(lab: Lab) -> Iterator[None]:
    """Both counter laws hold after each test."""
    yield
    check_laws(lab, "red", "blue")


def path_mtu(host: Namespace, address: str) -> int:
    """Give the path MTU that a host has learnt; 0: none."""
    found = re.search(r" mtu (\d+)", host.ip("route", "get", address).stdout)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("address", BOB)
def test_tcp_in_bulk_through_one_router(alice: Namespace, bob: Namespace, address: str) -> None:
    begin = time.monotonic()
    transfer(alice, bob, address, 400 * MIB)
    print(f"\n{address}: {400 * 8.4 / 1000 / (time.monotonic() - begin):.1f} Gbit/s")


def test_tcp_in_both_directions_at_once(lab: Lab, alice: Namespace, bob: Namespace) -> None:
    server = lab.helper(bob.command("iperf3", "-s", "-1", "-D", "--forceflush"))
    assert server.wait(5) == 0
    wait_until(lambda: "5201" in bob.run("ss", "-Htln").stdout, "iperf3 listens")
    done = alice.run("iperf3", "-c", BOB[0], "-t", "2", "--bidir", "-P", "4", "-J")
    assert '"error"' not in done.stdout


@pytest.mark.parametrize("address", CAROL)
def test_super_frames_pass_a_patch_link_whole(lab: Lab, alice: Namespace, carol: Namespace, address: str) -> None:
    before = lab.interface("blue", "wide")["counters"]
    transfer(alice, carol, address, 200 * MIB)
    after = lab.interface("blue", "wide")["counters"]
    count, size = (after[key] - before[key] for key in ("rx_packets", "rx_bytes"))
    assert size / count > 3000, "they came in pieces"


@pytest.mark.parametrize("address", NARROW)
def test_tcp_finds_the_path_mtu(alice: Namespace, carol: Namespace, address: str) -> None:
    transfer(alice, carol, address, 200 * MIB)
    assert path_mtu(alice, address) == NARROW_MTU


def test_super_frames_that_may_be_fragmented_are(lab: Lab, alice: Namespace, carol: Namespace, tmp_path: Path) -> None:
    alice.run("sysctl", "-qw", "net.ipv4.ip_no_pmtu_disc=1")
    capture = Capture(lab, carol, tmp_path / "frames.pcap")
    try:
        transfer(alice, carol, NARROW[0], 8 * MIB)
    finally:
        alice.run("sysctl", "-qw", "net.ipv4.ip_no_pmtu_disc=0")
    assert lab.interface("red", "narrow")["counters"]["fragments_created"] > 5000
    assert path_mtu(alice, NARROW[0]) == 0
    mac = lab.interface("blue", "out")["mac"]
    capture.assert_clean(mac, at_least=5000, uncut=NARROW_MTU)
    sizes = [int(size) for (size,) in capture.fields("ip.len", where=f"eth.src == {mac} && tcp")]
    assert max(sizes) <= NARROW_MTU


@pytest.mark.parametrize("address", [*BOB, *CAROL])
def test_udp_super_packets(alice: Namespace, lab: Lab, address: str) -> None:
    sink = lab.namespaces["bob" if address in BOB else "carol"]
    assert super_datagrams(alice, sink, address, 1400, 4000) == numbered(1400, 4000)


def test_udp_super_packets_are_split_and_cut_for_a_small_mtu(
    lab: Lab, alice: Namespace, carol: Namespace, tmp_path: Path
) -> None:
    capture = Capture(lab, carol, tmp_path / "frames.pcap")
    came = super_datagrams(alice, carol, NARROW[0], 1400, 800, fragment=True)
    assert came == numbered(1400, 800)
    mac = lab.interface("blue", "out")["mac"]
    capture.assert_clean(mac, at_least=1600)


@pytest.mark.parametrize("address", NARROW)
def test_udp_super_packets_that_may_not_be_cut_make_an_error(alice: Namespace, carol: Namespace, address: str) -> None:
    came = super_datagrams(alice, carol, address, 1400, 800)
    assert path_mtu(alice, address) == NARROW_MTU
    assert len(came) < 800
    # The host knows by now, and the kernel refuses or cuts itself what is too long.
    assert super_datagrams(alice, carol, address, 1200, 800) == numbered(1200, 800)


@pytest.mark.parametrize("address", [*RED, *BLUE, *BOB, *CAROL, NARROW[0]])
def test_large_pings(lab: Lab, alice: Namespace, address: str) -> None:
    before = drops(lab, "red")
    ping(alice, "-M", "dont", "-c", "1", "-s", "8000", address)  # blue learns that the path narrows behind red
    assert answered(ping(alice, "-M", "dont", "-c", "10", "-s", "8000", address), 10)
    assert answered(ping(alice, "-M", "dont", "-c", "3", "-s", "60000", address), 3)
    assert {k: v for k, v in drops(lab, "red").items() if "reassembly" in k} == {
        k: v for k, v in before.items() if "reassembly" in k
    }


def test_fragments_and_errors_are_well_formed(lab: Lab, alice: Namespace, carol: Namespace, tmp_path: Path) -> None:
    here = Capture(lab, alice, tmp_path / "alice.pcap")
    there = Capture(lab, carol, tmp_path / "carol.pcap")
    for address in (NARROW[0], *RED, *BLUE):
        ping(alice, "-M", "dont", "-c", "1", "-s", "9000", address)
        assert answered(ping(alice, "-M", "dont", "-c", "3", "-s", "9000", address), 3)
    for address in NARROW:
        ping(alice, "-M", "do", "-c", "1", "-s", "1400", address)
        ping(alice, "-c", "1", "-t", "1", address)
        ping(alice, "-c", "1", "-t", "2", address)
        ping(alice, "-c", "1", f"{address[:-1]}99")  # nobody there
    ping(alice, "-c", "1", "198.51.100.1")
    here.assert_clean(lab.interface("red", "in")["mac"], at_least=20)
    there.assert_clean(lab.interface("blue", "out")["mac"], at_least=20)
    found = here.fields("icmp.type", "icmp.code", where="icmp.type in {3,11}")
    errors = {(int(kind), int(code)) for kind, code in found}
    assert {(3, 4), (3, 0), (11, 0)} <= errors
    mtus = here.fields("icmp.mtu", where="icmp.type == 3 && icmp.code == 4")
    assert {mtu for (mtu,) in mtus} == {str(NARROW_MTU)}
    assert here.fields("icmpv6.mtu", where="icmpv6.type == 2")[0] == [str(NARROW_MTU)]
    assert here.fields("icmpv6.type", where="icmpv6.type == 3")


def test_df_is_obeyed(alice: Namespace) -> None:
    fits, beyond = str(NARROW_MTU - 28), str(NARROW_MTU - 27)
    assert answered(ping(alice, "-M", "do", "-c", "2", "-s", fits, NARROW[0]), 2)
    assert f"mtu = {NARROW_MTU}" in ping(alice, "-M", "do", "-c", "1", "-s", beyond, NARROW[0])
    fits, beyond = str(NARROW_MTU - 48), str(NARROW_MTU - 47)
    assert answered(ping(alice, "-M", "do", "-c", "2", "-s", fits, NARROW[1]), 2)
    refused = ping(alice, "-M", "do", "-c", "1", "-s", beyond, NARROW[1])
    assert f"mtu = {NARROW_MTU}" in refused.replace("mtu=", "mtu = ")


@pytest.mark.parametrize(
    ("address", "hops"),
    [(CAROL[0], ["10.0.0.1", "10.1.0.0"]), (CAROL[1], ["2001:db8:a::1", "2001:db8:1::1"])],
)
def test_traceroute_through_two_routers(alice: Namespace, address: str, hops: list[str]) -> None:
    def found() -> list[str]:
        done = alice.run("traceroute", "-n", "-q", "1", "-w", "1", "-N", "1", address)
        return re.findall(r"^ *\d+ +(\S+)", done.stdout, re.MULTILINE)

    # Another test may just have used up the errors that alice is due: one a second, six at once.
    wait_until(lambda: found() == [*hops, address], f"traceroute shows {hops}")


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8:ffff::1"])
def test_a_loopback_address_answers(alice: Namespace, address: str) -> None:
    assert alice.ping(address, count=3)


@pytest.mark.parametrize("address", [*BOB, *CAROL, *ALICE])
def test_vr_ping(lab: Lab, address: str) -> None:
    result = lab.vr("ping", "red", address, "-c", "2", "-i", "0.05")
    assert (result["transmitted"], result["received"]) == (2, 2)


def test_a_directed_broadcast_is_not_forwarded(lab: Lab, alice: Namespace, bob: Namespace) -> None:
    with (
        bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("", 5001))
        receiver.settimeout(0.3)
        before = drops(lab, "red").get("directed_broadcast", 0)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(5):
            sender.sendto(b"hello", ("10.0.1.255", 5001))
        with pytest.raises(TimeoutError):
            receiver.recv(64)
    assert drops(lab, "red")["directed_broadcast"] - before == 5


def test_icmp_errors_are_limited(lab: Lab, alice: Namespace) -> None:
    # From an address of its own, so that what the others are due stays theirs.
    alice.address("eth0", "10.0.0.99/24")
    before = drops(lab, "red").get("icmp_rate_limited", 0)
    with alice.wire("eth0") as wire, alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("10.0.0.99", 0))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        for _ in range(500):
            sender.sendto(b"x", (BOB[0], 33434))
        errors = sum(frame[23] == 1 and frame[34] == 11 for frame in wire.frames(0.3) if frame[12:14] == b"\x08\x00")
    assert 1 <= errors <= 8
    assert drops(lab, "red")["icmp_rate_limited"] - before == 500 - errors


def test_trace_tells_the_entry_and_the_reason(lab: Lab, alice: Namespace) -> None:
    trace = Trace(lab, "red", "--drops")

    def provoke(address: str, *words: str) -> None:
        alice.ip("route", "flush", "cache")  # or the host knows the path MTU
        ping(alice, "-c", "1", "-W", "0.01", *words, address)

    def dropped(life: dict[str, Any], reason: str, address: str) -> bool:
        return life["drop"] == reason and f"> {address}," in str(life)

    cases: list[tuple[str, str, str | None, tuple[str, ...]]] = [
        ("blackhole", "203.0.113.7", "203.0.113.0/24", ()),
        ("ttl_expired", BOB[0], "10.0.1.0/24", ("-t", "1")),
        ("ttl_expired", BOB[1], "2001:db8:b::/64", ("-t", "1")),
        ("no_route", "198.51.100.1", None, ()),
        ("fragmentation_needed", NARROW[0], "10.0.3.0/24", ("-M", "do", "-s", "1400")),
    ]
    for reason, address, prefix, words in cases:
        life = trace.expect(partial(provoke, address, *words), partial(dropped, reason=reason, address=address))
        assert life["interface"] == "in"
        assert life["stages"][-1] == {"stage": "drop", "detail": reason}
        entries = [stage.get("prefix") for stage in life["stages"] if stage["stage"] == "fib"]
        assert entries == ([prefix] if prefix else [])


def test_capture_at_the_router_is_what_the_host_sent(lab: Lab, alice: Namespace) -> None:
    from lab import VR, program

    command = program(VR, "--run-dir", str(lab.run_dir), "-j", "capture", "red", "bob", "-n", "2", "-d", "out")
    process = lab.helper(command, stdout=-1, text=True)
    wait_until(lambda: (alice.ping(BOB[0], count=2), process.poll() is not None)[1], "two frames are captured")
    output, _ = process.communicate()
    assert "ICMP echo request" in output


@pytest.mark.parametrize(("family", "protocol", "address"), [
    (socket.AF_INET, socket.IPPROTO_ICMP, RED[0]), (socket.AF_INET6, socket.IPPROTO_ICMPV6, RED[1]),
])  # fmt: skip
def test_a_raw_socket_hears_the_echo_requests_that_are_answered_for_it(
    lab: Lab, alice: Namespace, family: int, protocol: int, address: str
) -> None:
    with (
        rsock.Context(f"ipc://{lab.run_dir}/rsock.sock") as context,
        rsock.socket(family, socket.SOCK_RAW, protocol, vr="red", ctx=context) as raw,
    ):
        raw.settimeout(2)
        assert alice.ping(address)
        data, sender = raw.recvfrom(2048)
    assert sender[0] in ALICE
    at = 20 if family == socket.AF_INET else 0
    assert data[at] == (8 if family == socket.AF_INET else 128)
