"""The simulated network itself: what instances ask of sockets happens as on real ones, and a seed says it all."""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING, Any, Final

import pytest
from network import Network
from walk import judge

from vrouter.config.router import StaticHop, StaticRoute
from vrouter.engine.instances import KINDS, Kind
from vrouter.net.address import parse_address, parse_prefix
from vrouter.proto import base
from vrouter.proto.base import OpenSocket, Reconfigured, Silent, SocketKind

if TYPE_CHECKING:
    from sim_router import SimRouter

    from vrouter.net.address import Address
    from vrouter.proto.base import Environment, Meta, Output, Setting

GROUP: Final = parse_address("224.0.0.9")
PORT: Final = 520


class Speaker(Silent):
    """Does what a test tells it to do, and keeps what it is told."""

    made: Final[dict[str, Speaker]] = {}

    def __init__(self, environment: Environment) -> None:
        """Take nothing from the environment."""
        self.environment = environment
        self.heard: list[tuple[Any, ...]] = []
        self.moments: list[float] = []
        self.wanted: list[Output] = []
        self.due: float | None = None

    @property
    def deadline(self) -> float | None:
        """Give what `ask` has set."""
        return self.due

    def ask(self, network: Network, *outputs: Output) -> None:
        """Let it ask for something at its next turn, which is soon."""
        self.wanted += outputs
        self.due = network.now
        network.after(0, network.routers[self.name].tell_timeout)

    def configure(self, new: Setting, now: float) -> Reconfigured:
        """Take the name."""
        del now
        self.name = new.router.name
        self.made[self.name] = self
        return Reconfigured(live=True)

    def handle_timeout(self, now: float) -> list[Output]:
        """Ask."""
        del now
        wanted, self.wanted, self.due = self.wanted, [], None
        return wanted

    def opened(self, socket: str, now: float) -> list[Output]:
        """Keep it."""
        return self._keep("opened", socket, now)

    def connected(self, socket: str, local: Address, remote: Address, now: float) -> list[Output]:
        """Keep it."""
        return self._keep("connected", socket, str(local), str(remote), now)

    def accepted(self, listener: str, socket: str, local: Address, remote: Address, now: float) -> list[Output]:
        """Keep it."""
        return self._keep("accepted", listener, socket, str(local), str(remote), now)

    def received(self, socket: str, packet: bytes, meta: Meta, now: float) -> list[Output]:
        """Keep it."""
        return self._keep("received", socket, packet, str(meta.source), meta.interface, meta.ttl, now)

    def stream(self, socket: str, data: bytes, now: float) -> list[Output]:
        """Keep it."""
        return self._keep("stream", socket, data, now)

    def writable(self, socket: str, now: float) -> list[Output]:
        """Keep it."""
        return self._keep("writable", socket, now)

    def closed(self, socket: str, error: int, now: float) -> list[Output]:
        """Keep it."""
        return self._keep("closed", socket, error, now)

    def bfd_changed(self, state: base.BfdState, now: float) -> list[Output]:
        """Keep it."""
        return self._keep("bfd", state.session, state.up, now)

    def _keep(self, *event: Any) -> list[Output]:
        self.heard.append(event[:-1])
        self.moments.append(event[-1])
        return []

    def told(self, kind: str) -> list[tuple[Any, ...]]:
        """Give what it was told of one kind."""
        return [event[1:] for event in self.heard if event[0] == kind]


TOY: Final = (*(kind for kind in KINDS if kind.name == "static"), Kind("toy", lambda _router: True, Speaker))


def chain(count: int, seed: int = 1, **link: Any) -> tuple[Network, list[SimRouter]]:
    """Make routers in a row, with static routes to all their loopbacks."""
    network = Network(seed, TOY)
    routers = [network.router(f"r{number}") for number in range(count)]
    for one, other in itertools.pairwise(routers):
        network.link(one, other, **link)
    for place, router in enumerate(routers):
        static = tuple(
            StaticRoute(
                f"{other.loopback}/32", (StaticHop(routers[place + (1 if there > place else -1)].address(router)),)
            )
            for there, other in enumerate(routers)
            if other is not router
        )
        router.configure(static=static)
    network.run(1)
    return network, routers


def toy(router: SimRouter) -> Speaker:
    """Give the toy instance of a router."""
    return Speaker.made[router.name]


def test_static_forwarding_and_loops() -> None:
    """Forwarding is judged by all next hops: what arrives, what is lost, what turns in a circle."""
    network, routers = chain(4)
    assert judge(network, routers)
    network.links[1].cut()
    verdict = judge(network, routers)
    assert not verdict.loops
    assert ("r0", "r3") in verdict.lost
    network.links[1].mend()
    back = StaticRoute(f"{routers[3].loopback}/32", (StaticHop(routers[0].address(routers[1])),))
    routers[1].configure(static=(back,))
    network.run(1)
    assert ("r1", "r3") in judge(network, [routers[3]]).loops


def test_datagrams() -> None:
    """Multicast reaches those who joined, unicast one; TTL and interface are told."""
    network, (a, b, c) = chain(3)
    udp = OpenSocket("u", SocketKind.UDP, 4, local_port=PORT, groups=(("to1", GROUP),))
    raw = OpenSocket("ospf", SocketKind.RAW, 4, protocol=89)
    toy(a).ask(network, udp)
    toy(b).ask(network, udp)
    toy(c).ask(network, raw)
    network.run(1)
    assert toy(a).told("opened") == [("u",)]
    toy(a).ask(network, base.Transmit("u", GROUP, b"all", PORT, "to1"))
    toy(a).ask(network, base.Transmit("u", parse_address(c.loopback), b"far", PORT))
    network.run(1)
    assert toy(b).told("received") == [("u", b"all", a.address(b), "to1", 1)]
    assert not toy(c).told("received"), "a RAW socket of another protocol"
    toy(b).ask(network, base.LeaveGroup("u", "to1", GROUP))
    network.run(1)
    toy(a).ask(network, base.Transmit("u", GROUP, b"none", PORT, "to1"))
    network.run(1)
    assert len(toy(b).told("received")) == 1


def test_stream_survives_loss() -> None:
    """What is written comes out complete and in order over links that lose a third, two hops away."""
    network, (a, _, c) = chain(3, loss=0.3)
    toy(c).ask(network, OpenSocket("l", SocketKind.LISTEN, 4, local_port=179))
    local, remote = parse_address(a.loopback), parse_address(c.loopback)
    toy(a).ask(network, OpenSocket("s", SocketKind.CONNECT, 4, local=local, remote=remote, remote_port=179))
    network.run_until(lambda: toy(a).told("connected"), 60)
    pieces = [bytes((number,)) * number for number in range(1, 60)]
    for piece in pieces:
        toy(a).ask(network, base.Write("s", piece))
    network.run_until(lambda: b"".join(data for _, data in toy(c).told("stream")) == b"".join(pieces), 300)
    assert toy(a).told("writable")
    toy(a).ask(network, base.CloseSocket("s"))
    network.run_until(lambda: toy(c).told("stream")[-1][1] == b"", 60)


def test_stream_refusals() -> None:
    """Nobody listens: ECONNREFUSED.  No way: ENETUNREACH, and over a cut link ETIMEDOUT.  A crash: a reset."""
    network, (a, b) = chain(2)

    def dial(name: str, remote: str) -> None:
        toy(a).ask(network, OpenSocket(name, SocketKind.CONNECT, 4, remote=parse_address(remote), remote_port=179))

    dial("nobody", b.loopback)
    dial("nowhere", "198.51.100.1")
    network.run(5)
    assert toy(a).told("closed") == [("nowhere", errno.ENETUNREACH), ("nobody", errno.ECONNREFUSED)]
    toy(b).ask(network, OpenSocket("l", SocketKind.LISTEN, 4, local_port=179))
    dial("good", b.loopback)
    network.run(1)
    assert toy(a).told("connected")
    network.links[0].cut()
    dial("cut", b.loopback)
    network.run(120)
    assert toy(a).told("closed")[2:] == [("cut", errno.ETIMEDOUT)]
    network.links[0].mend()
    b.crash()
    b.start()
    network.run(1)
    toy(a).ask(network, base.Write("good", b"x"))
    network.run(1)
    assert toy(a).told("closed")[3:] == [("good", errno.ECONNRESET)]


@pytest.mark.parametrize(("key", "min_ttl", "good"), [(b"k", 0, True), (b"other", 0, False), (b"k", 255, False)])
def test_stream_keys_and_ttl(key: bytes, min_ttl: int, good: bool) -> None:
    """A wrong key (RFC 2385) and a TTL below what is asked for (RFC 5082) are silence."""
    network, (a, b) = chain(2)
    mine = (base.Md5Key(parse_prefix("0.0.0.0/0"), key),)
    theirs = (base.Md5Key(parse_prefix("192.0.2.0/24"), b"k"), base.Md5Key(parse_prefix("0.0.0.0/0"), b"k"))
    toy(b).ask(network, OpenSocket("l", SocketKind.LISTEN, 4, local_port=179, md5=theirs, min_ttl=min_ttl))
    remote = parse_address(b.loopback)
    toy(a).ask(network, OpenSocket("s", SocketKind.CONNECT, 4, remote=remote, remote_port=179, md5=mine, ttl=64))
    network.run(10)
    assert bool(toy(a).told("connected")) is good
    assert not toy(a).told("closed")


def test_bfd() -> None:
    """A session comes up, outlives some loss, and finds a cut within its detection time."""
    network, (a, b) = chain(2, loss=0.05)
    for here, there in ((a, b), (b, a)):
        remote = parse_address(there.address(here))
        toy(here).ask(network, base.BfdOpen("x", remote, None, "to1", transmit_interval=0.1, receive_interval=0.1))
    network.run(5)
    assert toy(a).told("bfd") == [("x", True)]
    network.links[0].cut()
    network.run(0.5)
    assert toy(a).told("bfd")[-1] == toy(b).told("bfd")[-1] == ("x", False)


def story(seed: int) -> str:
    """Run something of everything; give the digest."""
    network, routers = chain(4, seed, loss=0.1, jitter=0.02)
    toy(routers[3]).ask(network, OpenSocket("l", SocketKind.LISTEN, 4, local_port=179))
    local, remote = parse_address(routers[0].loopback), parse_address(routers[3].loopback)
    toy(routers[0]).ask(network, OpenSocket("s", SocketKind.CONNECT, 4, local=local, remote=remote, remote_port=179))
    network.run(5)
    routers[1].crash()
    toy(routers[0]).ask(network, base.Write("s", b"x" * 1000))
    network.run(2)
    routers[1].start()
    network.run(30)
    return network.digest() + repr([(toy(router).heard, toy(router).moments) for router in routers])


def test_a_seed_says_it_all() -> None:
    """The same seed gives the same story, another one another."""
    first = story(3)
    assert first == story(3)
    assert first != story(4)
