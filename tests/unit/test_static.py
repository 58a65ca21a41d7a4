"""Static routes whose next hops BFD watches."""

from __future__ import annotations

import dataclasses

from tests.unit.engine_world import CONFIG, World
from vrouter.config.bfd import Bfd
from vrouter.config.router import RouterConfig, StaticHop, StaticRoute
from vrouter.engine import inputs, outputs
from vrouter.proto.base import BfdClose, BfdOpen

WATCHED = StaticHop("192.0.2.2", "wan", bfd=Bfd(interval=0.1, multiplier=5))
OTHER = StaticHop("10.0.0.9", bfd=Bfd())
PREFIX = "198.51.100.0/24"


def config(*hops: StaticHop) -> RouterConfig:
    return dataclasses.replace(CONFIG, static=(StaticRoute(PREFIX, hops),))


def opened(world: World) -> list[BfdOpen]:
    return [it.request for it in world.find(outputs.Watch) if isinstance(it.request, BfdOpen)]


def ways(world: World) -> list[str]:
    route = world.fib.get(PREFIX)
    return [f"{hop.via}%{hop.interface}" for hop in route.hops] if route is not None else []


def test_a_next_hop_that_is_down_is_left_out() -> None:
    world = World()
    world.configure(config(WATCHED, OTHER))
    first, second = opened(world)
    assert (str(first.remote), first.interface, first.transmit_interval, first.multiplier) == (
        "192.0.2.2",
        "wan",
        0.1,
        5,
    )
    assert ways(world) == ["192.0.2.2%wan", "10.0.0.9%lan"], "a session that was never up is no failure"
    world.give(inputs.Bfd(first.session, up=True))
    assert world.find(outputs.Tables) == []
    world.give(inputs.Bfd(first.session, up=False))
    assert ways(world) == ["10.0.0.9%lan"]
    world.give(inputs.Bfd(second.session, up=False))
    assert ways(world) == []
    world.give(inputs.Bfd(first.session, up=False, admin_down=True))
    assert ways(world) == ["192.0.2.2%wan"], "what the neighbor has put down is no failure"
    world.give(inputs.Bfd(second.session, up=True))
    assert ways(world) == ["192.0.2.2%wan", "10.0.0.9%lan"]


def test_sessions_follow_the_configuration() -> None:
    world = World()
    world.configure(config(WATCHED))
    (first,) = opened(world)
    world.give(inputs.Bfd(first.session, up=False))
    assert ways(world) == []
    faster = dataclasses.replace(WATCHED, bfd=Bfd(interval=0.05, multiplier=5))
    world.configure(config(faster))
    (again,) = opened(world)
    assert (again.session, again.transmit_interval) == (first.session, 0.05)
    assert ways(world) == []
    assert world.configure(config(faster)) == []
    world.configure(config(StaticHop("192.0.2.2", "wan")))
    assert [it.request for it in world.find(outputs.Watch)] == [BfdClose(first.session)]
    assert ways(world) == ["192.0.2.2%wan"]


def test_bfd_that_is_switched_off_asks_for_nothing() -> None:
    world = World()
    world.configure(config(dataclasses.replace(WATCHED, bfd=Bfd(enabled=False))))
    assert world.find(outputs.Watch) == []
