"""A neighbor that BFD finds dead is left out of groups by the forwarder itself: nobody plays control here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastpath._layout import CONSTANTS
from tests.unit import packets as p
from tests.unit.filter_world import Filters
from tests.unit.harness import HOST_A, HOST_B, OTHER, ROUTER_A, ROUTER_B, Hop, Router, two_sided
from tests.unit.test_bfd_core import PEER, entry, frame, publish, sent
from vrouter.config.acl import Rpf
from vrouter.wire.bfd import Control, State

DEAD, LIVING = "10.0.0.2", "10.0.1.2"
BACKED = [Hop(DEAD, "a"), Hop(LIVING, "b", backup=True)]
SHARED = [Hop(DEAD, "a"), Hop(LIVING, "b")]
PACKET = p.ip4("10.0.1.9", "172.16.1.1", p.udp("10.0.1.9", "172.16.1.1"))


class Pair:
    """A router, a neighbor on `a` that speaks BFD, and another one on `b`."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.discriminator = 0
        router.settle()
        self.meet()

    def meet(self) -> None:
        self.router.meet("a", DEAD, HOST_A)
        self.router.meet("b", LIVING, HOST_B)

    def up(self, flags: int = 0) -> None:
        publish(self.router, entry(DEAD, "10.0.0.1", flags=flags))
        self.router.advance(1.1)
        self.discriminator = sent(self.router)[-1][4].my_discriminator
        for state in (State.DOWN, State.INIT):
            self.say(state)

    def say(self, state: State) -> None:
        self.router.send(1, frame(DEAD, "10.0.0.1", Control(state, PEER, self.discriminator).encode()))
        self.router.receive(1)

    def silence(self) -> None:
        """Let the detection time pass."""
        self.router.advance(3.1)
        self.router.receive(1)
        self.meet()

    def out(self) -> list[int]:
        """Send a packet in by `b`; give the ports by which it leaves, as it should look there."""
        self.router.send(2, p.ethernet(ROUTER_B, OTHER, p.IP4, PACKET))
        looks = {1: p.ethernet(HOST_A, ROUTER_A, p.IP4, p.forwarded4(PACKET))}
        looks[2] = p.ethernet(HOST_B, ROUTER_B, p.IP4, p.forwarded4(PACKET))
        return [port for port, frame_out in looks.items() if frame_out in self.router.receive(port)]


@pytest.fixture(params=["backup", "several"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    hops = BACKED if request.param == "backup" else SHARED
    with Router(two_sided(), {"172.16.0.0/12": hops}) as router:
        yield Pair(router)


def test_packets_go_elsewhere_until_it_answers_again(pair: Pair) -> None:
    pair.up()
    first = pair.out()
    assert first in ([1], [2])
    pair.silence()
    assert [pair.out() for _ in range(3)] == [[2]] * 3
    pair.up()
    assert pair.out() == first


def test_it_is_tried_again_once_nobody_asks_for_the_session(pair: Pair) -> None:
    pair.up()
    first = pair.out()
    pair.silence()
    assert pair.out() == [2]
    publish(pair.router)
    assert pair.out() == first


def test_it_is_tried_again_once_its_operator_has_put_it_down(pair: Pair) -> None:
    pair.up()
    first = pair.out()
    pair.silence()
    assert pair.out() == [2]
    pair.say(State.ADMIN_DOWN)
    assert pair.out() == first


def test_it_is_tried_again_once_no_route_depends_on_the_session(pair: Pair) -> None:
    pair.up()
    first = pair.out()
    pair.silence()
    assert pair.out() == [2]
    publish(pair.router, entry(DEAD, "10.0.0.1", flags=CONSTANTS["BFD_LONE"]))
    assert pair.out() == first


def test_the_reverse_path_goes_by_the_backup_meanwhile() -> None:
    """What comes back comes by the way that packets take now (RFC 3704 section 2.2)."""
    packet = p.ip4("172.16.1.1", "10.0.1.2", p.udp("172.16.1.1", "10.0.1.2"))
    with Router(two_sided(), {"172.16.0.0/12": BACKED}) as router:
        pair = Pair(router)
        Filters(router).set(b={"rpf": Rpf(mode="strict")})

        def refused() -> int:
            router.exchange(2, p.ethernet(ROUTER_B, OTHER, p.IP4, packet))
            return router.drops("b").get("rpf", 0)

        pair.up()
        assert refused() == 1
        pair.silence()
        assert refused() == 1
        pair.up()
        assert refused() == 2


@pytest.mark.parametrize("backed", [True, False])
def test_without_anything_else_it_gets_the_packets(backed: bool) -> None:
    hops = [Hop(DEAD, "a"), *([Hop("10.0.0.2", "a", backup=True)] if backed else [])]
    with Router(two_sided(), {"172.16.0.0/12": hops}) as router:
        pair = Pair(router)
        pair.up()
        pair.silence()
        assert pair.out() == [1]


def test_what_was_put_down_has_not_failed() -> None:
    with Router(two_sided(), {"172.16.0.0/12": BACKED}) as router:
        pair = Pair(router)
        pair.up()
        pair.say(State.ADMIN_DOWN)
        assert pair.out() == [1]
        pair.silence()
        assert pair.out() == [1]


def test_a_session_on_which_no_route_depends_moves_nothing() -> None:
    with Router(two_sided(), {"172.16.0.0/12": BACKED}) as router:
        pair = Pair(router)
        pair.up(CONSTANTS["BFD_LONE"])
        pair.silence()
        assert pair.out() == [1]
