"""Filters beside the kernel's (rp_filter, nftables' reverse-path check, its rules), and between real hosts."""

from __future__ import annotations

import ipaddress
import random
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from differential import IN_MAC, KERNEL_ROUTER, OUT_MAC, SYSCTLS, Comparison
from frames import checksum, ethernet, ip4, ip6, upper
from hosts import check_laws, drops, transfer
from lab import Lab, Namespace, run, wait_until
from router_side import RouterSide
from traffic import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

ROUTES: Final = {
    "10.128.0.0/9": [{"via": "10.0.1.2"}],
    "172.16.0.0/12": [{"via": "10.0.0.2"}],
    "198.18.0.0/15": [{"via": "10.0.0.2"}, {"via": "10.0.1.2"}],
    "192.0.2.0/24": [{"discard": True}],
    "0.0.0.0/0": [{"via": "10.0.0.2"}],
    "2001:db8:c::/48": [{"via": "2001:db8:b::2"}],
    "2001:db8:d::/48": [{"via": "2001:db8:a::2"}],
    "2001:db8:e::/48": [{"discard": True}],
}
KERNEL: Final = f"""{KERNEL_ROUTER}route add 198.18.0.0/15 nexthop via 10.0.0.2 dev k-in nexthop via 10.0.1.2 dev k-out
route add default via 10.0.0.2
-6 route add blackhole 2001:db8:e::/48
"""
SOURCES4: Final = (
    "10.0.0.2", "10.0.0.77", "10.0.0.255", "10.0.0.1", "10.0.1.1", "10.0.1.9", "10.0.1.255", "10.128.3.4",
    "172.16.9.9", "198.18.0.1", "198.19.1.1", "192.0.2.7", "8.8.8.8", "240.0.0.1", "169.254.1.1",
)  # fmt: skip
SOURCES6: Final = (
    "2001:db8:a::2", "2001:db8:a::77", "2001:db8:b::9", "2001:db8:c::1", "2001:db8:d::1", "2001:db8:e::1",
    "2620:fe::fe", "fd00::1",
)  # fmt: skip
TARGETS4: Final = ("10.0.1.2", "10.0.1.2", "10.128.1.1", "10.0.0.1")
TARGETS6: Final = ("2001:db8:b::2", "2001:db8:b::2", "2001:db8:c::1")
HOSTS4: Final = ("10.0.0.2", "10.0.0.77", "10.0.0.140", "172.16.9.9", "172.24.1.1")
HOSTS6: Final = ("2001:db8:a::2", "2001:db8:d::1", "2001:db8:d:8000::1")
ENTRIES: Final[list[dict[str, Any]]] = [
    {"action": "deny", "protocol": "udp", "destination-port": "100-199", "source": "10.0.0.0/25"},
    {"action": "permit", "protocol": "udp", "destination-port": [53, "100-150", 4000], "destination": "10.0.1.0/24"},
    {"action": "reject", "protocol": "udp", "source-port": 7},
    {"action": "permit", "protocol": "tcp", "tcp-flags": ["syn", "!ack"], "destination-port": "0-1023"},
    {"action": "permit", "protocol": "tcp", "tcp-flags": "established"},
    {"action": "deny", "protocol": "icmp", "icmp-type": ["redirect", "13"]},
    {"action": "permit", "protocol": ["icmp", "icmpv6"], "dscp": [0, "af11", "cs5"]},
    {"action": "permit", "source": ["172.16.0.0/13", "2001:db8:d::/49"], "dscp": "ef", "set-dscp": "af41"},
    {"action": "permit", "fragments": True, "source": "10.0.0.64/26"},
    {
        "action": "permit",
        "protocol": "udp",
        "family": "ipv6",
        "destination-port": "0-32767",
        "source-port": "512-65535",
    },
]
RULES: Final = """
add table inet t
add chain inet t f { type filter hook prerouting priority 0; policy accept; }
add rule inet t f iif != "k-in" accept
add rule inet t f icmpv6 type { 135, 136 } ip6 hoplimit 255 accept
add rule inet t f ip saddr 10.0.0.0/25 udp dport 100-199 drop
add rule inet t f ip daddr 10.0.1.0/24 udp dport { 53, 100-150, 4000 } accept
add rule inet t f udp sport 7 reject with icmpx type admin-prohibited
add rule inet t f tcp dport 0-1023 tcp flags & (syn | ack) == syn accept
add rule inet t f tcp flags & (ack | rst) != 0 accept
add rule inet t f icmp type { 5, 13 } drop
add rule inet t f meta l4proto { 1, 58 } ip dscp { 0, 10, 40 } accept
add rule inet t f meta l4proto { 1, 58 } ip6 dscp { 0, 10, 40 } accept
add rule inet t f ip saddr 172.16.0.0/13 ip dscp 46 ip dscp set 34 accept
add rule inet t f ip6 saddr 2001:db8:d::/49 ip6 dscp 46 ip6 dscp set 34 accept
add rule inet t f ip saddr 10.0.0.64/26 ip frag-off & 0x1fff != 0 accept
add rule inet t f meta nfproto ipv6 udp dport 0-32767 udp sport 512-65535 accept
add rule inet t f drop
"""


def silent(namespace: Namespace) -> Namespace:
    """Keep a namespace's own IPv6 stack off the links, so that only our packet sockets speak there."""
    namespace.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    return namespace


def packet(
    source: str, target: str, protocol: int, body: bytes, tos: int = 0, flags: int = 0, offset: int = 0
) -> bytes:
    """A frame with an IP packet of either family."""
    first, second = ipaddress.ip_address(source), ipaddress.ip_address(target)
    at = {6: 16, 17: 6, 58: 2}.get(protocol)
    if protocol == 1:
        body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    elif at is not None:
        body = upper(first.packed + second.packed, protocol, body, at)
    if first.version == 6:
        return ethernet(ip6(first.packed, second.packed, body, following=protocol, label=tos << 20), 0x86DD)
    return ethernet(ip4(int(first), int(second), body, protocol=protocol, tos=tos, flags=flags, offset=offset), 0x0800)


def udp(source: str, target: str, sport: int = 4000, dport: int = 4001, tos: int = 0) -> bytes:
    return packet(source, target, 17, struct.pack(">HHHH", sport, dport, 16, 0) + bytes(8), tos)


class Twins:
    """A kernel router and a VR with the same routes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.kernel = lab.namespace("kernel")
        peers = silent(lab.namespace("peers"))
        self.kernel.run("sysctl", "-qw", *SYSCTLS)
        for link in ("in", "out"):
            lab.veth(f"k-{link}", self.kernel, peers, f"kp-{link}")
            lab.veth(f"vr-{link}", None, peers, f"vp-{link}")
        for line in KERNEL.strip().splitlines():
            self.kernel.ip(*line.split())
        self._write({})
        lab.start()
        self.sides = (RouterSide((peers, "kp-in"), (peers, "kp-out")), RouterSide((peers, "vp-in"), (peers, "vp-out")))
        wait_until(self._ready, "both routers forward and answer", timeout=20, interval=0.2)

    def _ready(self) -> bool:
        """Are addresses past detection, and neighbors known on both sides?"""
        for side in self.sides:
            for frame in (
                udp("10.0.0.2", "10.0.1.2"),
                udp("10.0.0.2", "10.0.0.1"),
                udp("2001:db8:a::2", "2001:db8:b::2"),
                udp("2001:db8:a::2", "2001:db8:a::1"),
            ):
                side.send(frame)
        return all(sorted(name for name, _ in side.receive(0.1)) == ["in", "in", "out", "out"] for side in self.sides)

    def _write(self, inner: dict[str, Any], **top: Any) -> None:
        interfaces = {
            "in": {"device": "vr-in", "mac": IN_MAC, "addresses": ["10.0.0.1/24", "2001:db8:a::1/64"], **inner},
            "out": {"device": "vr-out", "mac": OUT_MAC, "addresses": ["10.0.1.1/24", "2001:db8:b::1/64"]},
        }
        self.lab.configure({"twin": {"interfaces": interfaces, "static": ROUTES}}, **top)

    def apply(self, inner: dict[str, Any], nft: str = "", rp_filter: int = 0, **top: Any) -> None:
        """Give both routers a filter on what comes in from the inner side."""
        self._write(inner, **top)
        self.lab.vr("apply")
        self.kernel.run("sysctl", "-qw", f"net.ipv4.conf.k-in.rp_filter={rp_filter}")
        run(*self.kernel.command("nft", "-f", "-"), input_text="flush ruleset\n" + nft)

    def compare(self, frames: list[bytes], most: int = 10) -> list[Any]:
        """Give what the two do not do alike."""
        comparison = Comparison(*self.sides)
        found = comparison.run(frames, most)
        self.outputs = comparison.outputs
        return found

    def close(self) -> None:
        for side in self.sides:
            side.close()


@pytest.fixture(name="twins", scope="module")
def _twins() -> Iterator[Twins]:
    with Lab() as lab:
        twins = Twins(lab)
        yield twins
        twins.close()
        check_laws(lab, "twin")


@pytest.mark.parametrize(("mode", "number"), [("strict", 1), ("loose", 2)])
def test_reverse_path_as_the_kernel(twins: Twins, mode: str, number: int) -> None:
    """Linux's rp_filter for IPv4, nftables' `fib` expression for IPv6."""
    ways = "saddr . iif oif" if number == 1 else "saddr oif"
    rule = f'add rule inet t f iif "k-in" meta nfproto ipv6 fib {ways} missing drop\n'
    nft = "add table inet t\nadd chain inet t f { type filter hook prerouting priority 0; }\n" + rule
    before = drops(twins.lab, "twin").get("rpf", 0)
    twins.apply({"rpf": {"mode": mode, "allow-default": True}}, nft, number)
    rng = random.Random(number)
    frames = []
    for _ in range(3):
        frames += [
            udp(source, target, rng.randrange(9000, 60000))
            for source in SOURCES4
            for target in TARGETS4
            # Each router has a hash of its own, by which it answers along one of several paths.
            if target != "10.0.0.1" or not source.startswith("198.")
        ]
        frames += [udp(source, target, rng.randrange(9000, 60000)) for source in SOURCES6 for target in TARGETS6]
    rng.shuffle(frames)
    found = twins.compare(frames, most=3)
    assert not found, "\n".join(map(str, found))
    assert twins.outputs["forwarded"] > len(frames) // 8
    assert drops(twins.lab, "twin")["rpf"] - before > len(frames) // 20


def _random_frame(rng: random.Random) -> bytes:
    six = rng.random() < 0.4
    source = rng.choice(HOSTS6 if six else HOSTS4)
    target = rng.choice(TARGETS6 if six else TARGETS4[:3])
    tos = rng.choice((0, 10, 40, 46, 46, 5)) << 2 | rng.randrange(4)
    kind = rng.choice(("udp", "udp", "tcp", "icmp", "other"))
    if kind == "udp":
        sport, dport = rng.choice((7, 511, 512, 40000)), rng.choice((53, 99, 100, 150, 151, 199, 4000, 32767, 32768))
        return udp(source, target, sport, dport, tos)
    if kind == "tcp":
        flags = rng.choice((2, 18, 16, 4, 20, 1, 0, 8))
        body = struct.pack(">HHIIBBHHH", 4000, rng.choice((22, 1023, 1024)), 1, 1, 0x50, flags, 1000, 0, 0)
        return packet(source, target, 6, body, tos)
    if kind == "icmp":
        body = struct.pack(">BBHI", rng.choice((128, 129, 1) if six else (8, 0, 3, 5, 13)), 0, 0, 7) + bytes(28)
        return packet(source, target, 58 if six else 1, body, tos)
    # Not of UDP: nftables reads ports out of the middle of a packet.
    pieces = {} if six else {"flags": rng.choice((0, 1)), "offset": rng.choice((0, 2, 185))}
    return packet(source, target, 47, rng.randbytes(16), tos, **pieces)


def test_lists_as_nftables(twins: Twins) -> None:
    """The same list written for nftables: the same packets pass, marked alike, and the same are rejected."""
    twins.apply({"acl": {"in": "test"}}, RULES, acls={"test": ENTRIES})
    rng = random.Random(1)
    frames = [_random_frame(rng) for _ in range(600)]
    found = twins.compare(frames, most=3)
    assert not found, "\n".join(map(str, found))
    (shown,) = twins.lab.vr("show", "acl", "twin")
    assert shown["bound"] == [{"interface": "in", "direction": "in"}]
    counts = [entry["packets"] for entry in shown["entries"]]
    assert all(counts), counts
    # Each frame was decided once; the comparison may have repeated some.
    assert sum(counts) + shown["end"]["packets"] >= len(frames)
    assert twins.outputs["forwarded"] > 120
    assert twins.outputs["returned"] > 10


def _hits(lab: Lab) -> list[int]:
    """Give the packets of each entry of the list "test"."""
    return [entry["packets"] for entry in lab.vr("show", "acl", "twin", "test")[0]["entries"]]


def test_what_operators_see(twins: Twins) -> None:
    """`explain acl`, `show filters`, `show counters`, `clear acl`."""
    lab = twins.lab
    twins.apply({"acl": {"in": "test"}, "rpf": "loose", "dscp": {"in": ["ef=ef", "cs0"]}}, acls={"test": ENTRIES})
    words = ("explain", "acl", "twin", "test", "10.0.0.200", "10.0.1.9", "-p", "udp", "--destination-port", "130")
    answer = lab.vr(*words)
    assert (answer["action"], answer["entry"]) == ("permit", 2)
    assert [step["failed"] for step in answer["steps"]] == ["source", None]
    assert lab.vr(*words[:-1], "131", "--source-port", "7", "--fragment")["entry"] is None
    (shown,) = lab.vr("show", "filters", "twin")
    assert (shown["interface"], shown["acl"], shown["rpf"], shown["allow_default"]) == (
        "in", {"in": "test", "out": None}, "loose", False,
    )  # fmt: skip
    assert shown["dscp"]["in"]["af11"] == "cs0"
    assert "ef" not in shown["dscp"]["in"]
    before = _hits(lab)
    for number in range(20):
        twins.sides[1].send(udp("10.0.0.200", "10.0.1.2", number, 130))
    came: list[Any] = []
    wait_until(lambda: came.extend(twins.sides[1].receive(0.1)) or len(came) >= 20, "all twenty")  # type: ignore[func-returns-value]
    assert len(came) == 20
    hits = [packets + 20 * (place == 1) for place, packets in enumerate(before)]
    wait_until(lambda: _hits(lab) == hits, "the second entry has met all, and no other any")
    twins.apply({"acl": {"in": "test"}}, acls={"test": [{"action": "deny", "source": "192.0.2.9/32"}, *ENTRIES]})
    wait_until(lambda: _hits(lab) == [0, *hits], "the old entries count on behind a new one")
    lab.vr("clear", "acl", "twin", "test")
    assert not any(entry["packets"] for entry in lab.vr("show", "acl", "twin", "test")[0]["entries"])
    assert "end of the list: deny" in lab.vr_run("show", "acl", "twin", json_output=False).stdout
    wrong = lab.vr_run("show", "acl", "twin", "tset")
    assert wrong.returncode != 0
    assert "did you mean 'test'" in wrong.stderr + wrong.stdout


# --- between hosts ---


@pytest.fixture(name="hosts")
def _hosts() -> Iterator[tuple[Lab, Namespace, Namespace]]:
    with Lab() as lab:
        left = lab.host("left", "red-in", "10.0.0.2/24", gateway="10.0.0.1")
        right = lab.host("right", "red-out", "10.0.1.2/24", gateway="10.0.1.1")
        lab.configure({"red": _red({})}, acls=_lists(0))
        lab.start()
        wait_until(partial(left.ping, "10.0.1.2"), "the path is there")
        yield lab, left, right
        check_laws(lab, "red")


def _red(inner: dict[str, Any], outer: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    interfaces = {
        "in": {"device": "red-in", "addresses": ["10.0.0.1/24"], **inner},
        "out": {"device": "red-out", "addresses": ["10.0.1.1/24"], **(outer or {})},
    }
    return {"interfaces": interfaces, **more}


def _lists(turn: int) -> dict[str, Any]:
    """A list that permits UDP from the left, and TCP; at each turn with other entries before it."""
    noise = [
        {"action": "permit" if place % 2 else "deny", "source": f"172.16.{place % 256}.{turn % 256}/32"}
        for place in range(turn % 7 * 40)
    ]
    rest = [
        {"name": "udp", "action": "permit", "protocol": "udp", "source": "10.0.0.0/24"},
        {"name": "tcp", "action": "permit", "protocol": "tcp"},
        {"name": "no-ping", "action": "deny", "protocol": "icmp"},
    ]
    return {"edge": noise + rest}


def test_super_frames_and_counted_prefixes(hosts: tuple[Lab, Namespace, Namespace]) -> None:
    """TCP in frames of 64 KiB through lists in both directions; what is denied stays out."""
    lab, left, right = hosts
    red = _red(
        {"acl": {"in": "edge"}, "rpf": "strict"}, {"acl": {"out": "edge", "in": "back"}}, counters=["10.0.1.0/24"]
    )
    back = [{"action": "permit", "protocol": "tcp", "tcp-flags": "established"}]
    lab.configure({"red": red}, acls=_lists(3) | {"back": back})
    lab.vr("apply")
    assert not left.ping("10.0.1.2", wait=0.3)
    assert not right.ping("10.0.1.1", wait=0.3)
    transfer(left, right, "10.0.1.2", 8 << 20)
    assert drops(lab, "red")["acl_in"] >= 2

    def agree() -> bool:
        """What says good-bye may still pass between the two questions."""
        (counted,) = lab.vr("show", "counters", "red")
        assert counted["prefix"] == "10.0.1.0/24"
        assert counted["bytes"] > 8 << 20
        shown = {each["acl"]: each for each in lab.vr("show", "acl", "red")}
        assert shown["back"]["end"]["packets"] >= 1
        tcp = next(entry for entry in shown["edge"]["entries"] if entry["text"].startswith("tcp:"))
        return bool(tcp["packets"] == 2 * counted["packets"])

    wait_until(agree, "the lists have met each packet of the prefix twice")


def test_a_list_changes_under_traffic(hosts: tuple[Lab, Namespace, Namespace]) -> None:
    """No packet sees half a list: what every version permits is not lost, and the count of that entry goes on."""
    lab, left, right = hosts
    lab.configure({"red": _red({"acl": {"in": "edge"}})}, acls=_lists(0))
    lab.vr("apply")
    stream = Stream(lab, (left, "eth0"), (right, "eth0"), 7, 3000, 12000)
    mac = next(it["mac"] for it in lab.vr("show", "interfaces", "red") if it["name"] == "in")
    stream.start(mac, "10.0.0.2", "10.0.1.2")
    turn = 0
    while stream.sending:
        turn += 1
        lab.configure({"red": _red({"acl": {"in": "edge"}})}, acls=_lists(turn))
        lab.vr("apply")
        time.sleep(0.05)
    result = stream.result(20)
    assert turn
    assert (result["received"], result["lost"]) == (12000, 0)
    (shown,) = lab.vr("show", "acl", "red")
    assert next(entry for entry in shown["entries"] if entry["text"].startswith("udp:"))["packets"] == 12000
