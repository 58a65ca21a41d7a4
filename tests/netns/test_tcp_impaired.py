"""A VR's TCP against the kernel's on links that lose, delay, reorder, double and damage: all bytes arrive, in time.

red --lan-- relay --eth0-- host     frames, or super-segments that the relay cuts
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from hosts import check_laws, drops
from lab import Lab, wait_until
from tcp_ends import MIB, Ends, Info, Path, Pouring, closed, crosswise, in_order, reachable, together, transfer
from wire import Link, Relay, strict, wired

if TYPE_CHECKING:
    from collections.abc import Iterator

    import rsock

pytestmark = pytest.mark.root

PATHS: Final = [Path("10.0.0.1", "10.0.0.2"), Path("2001:db8::1", "2001:db8::2")]
FAMILIES: Final = ["ipv4", "ipv6"]
DELAY: Final = 0.002
ESTABLISHED, TIME_WAIT, CLOSED, CLOSING = 1, 6, 7, 11
TCP_USER_TIMEOUT: Final = 18
FRAMES: Final = pytest.mark.parametrize("world", [False], ids=["frames"], indirect=True)

# What is done to the link, how many bytes pass, and how long that may take at most.
IMPAIRMENTS: Final = {
    "loss1": (Link(delay=DELAY, loss=0.01), MIB, 10.0),
    "loss5": (Link(delay=DELAY, loss=0.05), MIB // 2, 15.0),
    "reorder": (Link(delay=DELAY, reorder=0.05), 2 * MIB, 8.0),
    "duplicate": (Link(delay=DELAY, duplicate=0.1), 2 * MIB, 8.0),
    "corrupt": (Link(delay=DELAY, corrupt=0.02), MIB, 10.0),
    "delay": (Link(delay=0.04, jitter=0.005), 2 * MIB, 8.0),
    "rate": (Link(delay=DELAY, rate=50e6, queue=60_000), 2 * MIB, 8.0),
    "everything": (
        Link(delay=DELAY, jitter=0.001, loss=0.01, corrupt=0.005, reorder=0.02, duplicate=0.02, rate=100e6),
        MIB, 15.0,
    ),
}  # fmt: skip


class World:
    """Red, the host, and the relay between them."""

    def __init__(self, ends: Ends, relay: Relay) -> None:
        self.ends, self.relay = ends, relay


@pytest.fixture(scope="module", params=[True, False], ids=["offloads", "frames"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Give both ends of a link, with super-segments or without."""
    with Lab() as lab:
        host = lab.namespace("host")
        with wired(lab, (lab.box, "lan"), (host, "eth0"), Link(), split=request.param) as relay:
            in_order((lab.box, "lan"), (host, "eth0"))
            if not request.param:
                strict(host, "eth0")
                strict(lab.box, "lan")
            host.address("eth0", "10.0.0.2/24")
            host.address("eth0", "2001:db8::2/64")
            # The host does not remember from one test to the next how slow the link was.
            for knob in ("tcp_mtu_probing", "tcp_no_metrics_save"):
                host.run("sysctl", "-q", "-w", f"net.ipv4.{knob}=1")
            addresses = ["10.0.0.1/24", "2001:db8::1/64"]
            lab.configure({"red": {"interfaces": {"lan": {"device": "lan", "addresses": addresses}}}})
            lab.start()
            reachable(host, *(path.ours for path in PATHS))
            with Ends(lab, "red", host, *PATHS) as ends:
                yield World(ends, relay)


@pytest.fixture(autouse=True)
def laws(world: World) -> Iterator[None]:
    """The link is whole again after each test, and all counters are as they should be."""
    yield
    world.relay.change(Link())
    world.ends.close_all()
    for path in PATHS:
        reachable(world.ends.host, path.ours)
    check_laws(world.ends.lab, "red")


def all_ways(world: World) -> list[tuple[rsock.socket, socket.socket, bool]]:
    """Connect in both families, for transfers in both directions: (ours, the kernel's, to us)."""
    return [(*world.ends.connect(path, by_us=to_us), to_us) for path in PATHS for to_us in (True, False)]


def everywhere(world: World, link: Link, size: int, limit: float) -> list[tuple[Info, float]]:
    """Transfer in all ways at once while the link is like that; give what the senders know, and how long they took."""
    seen = []

    def one(ours: socket.socket, theirs: socket.socket, to_us: bool) -> None:
        source, sink = (theirs, ours) if to_us else (ours, theirs)
        took = transfer(source, sink, size, timeout=limit, end=False)
        seen.append((Info.of(source), took))

    ways = all_ways(world)
    world.relay.change(link)
    together(*(partial(one, *way) for way in ways))
    return seen


@pytest.mark.parametrize("kind", IMPAIRMENTS)
def test_the_same_bytes_arrive(world: World, kind: str) -> None:
    before = drops(world.ends.lab, "red")
    for info, took in everywhere(world, *IMPAIRMENTS[kind]):
        print(f"{kind}: {took:.2f} s, {info.bytes_acked * 8 / took / 1e6:.1f} Mbit/s, {info.total_retrans} again")
    after = drops(world.ends.lab, "red")
    grown = {name: count - before.get(name, 0) for name, count in after.items() if name.startswith("tcp_")}
    assert (grown.get("tcp_checksum", 0) > 0) == (kind in {"corrupt", "everything"}), grown
    assert not {name for name in grown if grown[name]} & {"tcp_no_memory", "tcp_no_connection"}, grown


@pytest.mark.parametrize("family", FAMILIES)
def test_both_directions_at_once(world: World, family: str) -> None:
    for by_us in (True, False):
        ours, theirs = world.ends.connect(PATHS[FAMILIES.index(family)], by_us=by_us)
        world.relay.change(Link(delay=DELAY, loss=0.02, reorder=0.02, duplicate=0.02))
        crosswise(ours, theirs, MIB // 2, timeout=12)
        world.relay.change(Link())
        closed(ours, theirs)


@FRAMES
def test_handshakes_and_ends_get_through(world: World) -> None:
    """Each connection begins, says its word and ends, whatever is lost of that."""
    world.relay.change(Link(loss=0.1))

    def speak(number: int) -> None:
        ours, theirs = world.ends.connect(PATHS[number % 2], by_us=number % 4 < 2, timeout=40)
        for source, sink in ((ours, theirs), (theirs, ours)):
            transfer(source, sink, 100, timeout=40)
        closed(ours, theirs)

    together(*(partial(speak, number) for number in range(24)))


@FRAMES
def test_a_black_hole(world: World) -> None:
    """RFC 4821: long packets vanish and nobody says so; some timeouts later both sides have found out."""
    for info, took in everywhere(world, Link(delay=DELAY, mtu=1400), MIB // 2, 15):
        print(f"black hole: {took:.2f} s, {info.snd_mss} bytes")
        assert 512 <= info.snd_mss <= 1400 - 40 - 12, info


@FRAMES
def test_an_outage(world: World) -> None:
    """Silence in the middle; it goes on within one more timeout."""
    ways = all_ways(world)
    world.relay.change(Link(delay=DELAY, rate=20e6))
    begun = threading.Barrier(len(ways) + 1)
    back: list[float] = []

    def one(ours: socket.socket, theirs: socket.socket, to_us: bool) -> None:
        source, sink = (theirs, ours) if to_us else (ours, theirs)
        pouring = Pouring(source, 2 * MIB)
        sink.settimeout(20)
        digest = hashlib.sha256(first := sink.recv(MIB // 8, socket.MSG_WAITALL))
        begun.wait()
        begun.wait()
        sink.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while part := sink.recv(MIB):  # what the fd still has
                digest.update(part)
                first += part
        sink.settimeout(20)
        info = Info.of(source)
        assert info.retransmits >= 2, info
        first += (part := sink.recv(1))
        digest.update(part)
        # It may just have been sent, in vain; yet another timeout would be twice as long.
        assert time.monotonic() - back[0] < 2 * info.rto / 1e6 + 2
        while part := sink.recv(MIB):
            digest.update(part)
            first += part
        assert (len(first), digest.hexdigest()) == pouring.result()

    def cut() -> None:
        begun.wait()
        world.relay.change(Link(loss=1.0))
        time.sleep(2)
        begun.wait()
        time.sleep(0.5)
        world.relay.change(Link(delay=DELAY, rate=100e6))
        back.append(time.monotonic())

    together(cut, *(partial(one, *way) for way in ways))


@pytest.mark.parametrize("family", FAMILIES)
def test_opened_from_both_sides(world: World, family: str) -> None:
    """RFC 9293 section 3.5, figure 8: the SYNs cross."""
    path = PATHS[FAMILIES.index(family)]
    for number in range(3):
        ours, theirs = world.ends.open(path.family), world.ends.kernel(path.family)
        ours.bind((path.ours, 30000 + number))
        theirs.bind((path.theirs, 31000 + number))
        world.relay.change(Link(delay=0.1))
        for sock in (ours, theirs):
            sock.setblocking(False)
        pair = [(ours, (path.theirs, 31000 + number)), (theirs, (path.ours, 30000 + number))]
        for sock, peer in pair[:: 1 if number % 2 else -1]:
            sock.connect_ex(peer)
        wait_until(lambda: Info.of(ours).state == ESTABLISHED == Info.of(theirs).state, "it is open")  # noqa: B023
        world.relay.change(Link())
        crosswise(ours, theirs, 100_000)
        closed(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_from_both_sides(world: World, family: str) -> None:
    """RFC 9293 section 3.6, figure 13: the FINs cross, so both wait."""
    path = PATHS[FAMILIES.index(family)]
    ours, theirs = world.ends.connect(path, by_us=True)
    world.relay.change(Link(delay=0.15))
    name = f"{path.ours}" if path.family == socket.AF_INET else f"[{path.ours}]"
    local = f"{name}:{ours.getsockname()[1]}"
    seen = []

    def states() -> bool:
        shown = world.ends.lab.vr("show", "sockets", "red")
        state = next((entry["state"] for entry in shown if entry.get("local") == local), "gone")
        seen.append((state, Info.of(theirs).state))
        return state == "gone"

    ours.shutdown(socket.SHUT_WR)
    theirs.shutdown(socket.SHUT_WR)
    assert ours.recv(1) == theirs.recv(1) == b""
    wait_until(states, "both have closed")
    assert Info.of(theirs).state in {CLOSING, TIME_WAIT, CLOSED}
    shown = world.ends.lab.vr("show", "sockets", "red")
    assert sum(entry.get("count", 0) for entry in shown if entry["state"] == "time-wait") >= 1, shown
    closed(ours, theirs)


def gives_up(sock: socket.socket, ours: bool, least: float, most: float) -> None:
    """The peer is gone: reading fails, and SO_ERROR says why, if the error itself does not."""
    begin = time.monotonic()
    sock.settimeout(most + 1)
    with pytest.raises(OSError, match=r"timed out|reset") as failure:
        sock.recv(1)
    assert least < time.monotonic() - begin < most
    if ours and failure.value.errno == errno.ECONNRESET:  # all that the kernel can tell of an AF_UNIX socket
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT
    else:
        assert failure.value.errno == errno.ETIMEDOUT


@FRAMES
def test_keepalive(world: World) -> None:
    """Both sides ask after an idle peer; it answers, until it is gone.  So it is with TCP_USER_TIMEOUT (RFC 5482)."""
    ways = all_ways(world)
    keepers = [ours if by_us else theirs for ours, theirs, by_us in ways]
    for keeper in keepers:
        for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2)):
            keeper.setsockopt(socket.IPPROTO_TCP, option, value)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    before = [Info.of(keeper) for keeper in keepers]

    def asked() -> bool:
        """Tell whether all have asked, and been answered."""
        now = [Info.of(keeper) for keeper in keepers]
        return all(
            later.segs_out > earlier.segs_out and later.segs_in > earlier.segs_in
            for later, earlier in zip(now, before, strict=True)
        )

    wait_until(asked, "the peers are asked, and answer", interval=0.1)
    impatient, _theirs = world.ends.connect(PATHS[0], by_us=True)
    impatient.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1000)
    world.relay.change(Link(loss=1.0))
    impatient.sendall(b"into the void")
    together(
        *(partial(gives_up, keeper, keeper is way[0], 1.0, 15.0) for keeper, way in zip(keepers, ways, strict=True)),
        partial(gives_up, impatient, True, 0.8, 10.0),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_other_seeds(world: World, seed: int) -> None:
    for link, size, limit in IMPAIRMENTS.values():
        everywhere(world, replace(link, seed=seed), size, limit)
        world.relay.change(Link())
        world.ends.close_all()
