"""From the operator's configuration to what a control is sent: what protocols need travels as it was written."""

from __future__ import annotations

import dataclasses

from manager.resolve import PortFacts, resolve, router_config
from vrouter.config.bfd import Bfd
from vrouter.config.codec import from_plain, to_plain
from vrouter.config.policy import Policy
from vrouter.config.ra import Ra
from vrouter.config.rip import Rip, RipInterface
from vrouter.config.router import RouterConfig
from vrouter.config.schema import Config, Defaults, Hop, Interface, Router

RIP = Rip(interfaces={"lan": RipInterface()})
ROUTER = Router(
    interfaces={
        "lan": Interface(device="eth1", addresses=("10.0.0.1/24", "2001:db8::1/64"), ra=Ra()),
        "lo": Interface(addresses=("10.255.0.1/32",)),
    },
    static={"0.0.0.0/0": (Hop(via="10.0.0.2", bfd=Bfd(multiplier=7)),)},
    rip=RIP,
)


def resolved(config: Config) -> RouterConfig:
    (plan,) = resolve(config).values()
    return router_config(plan, 7, lambda _key: PortFacts(1, "02:00:00:00:00:01", 1500))


def test_protocols_travel_as_they_are_written() -> None:
    found = resolved(Config(routers={"red": ROUTER}))
    assert (found.name, found.id, found.rip, found.ripng) == ("red", 7, RIP, None)
    lan, lo = found.interfaces
    assert (lan.ra, lo.ra) == (Ra(), None)
    assert from_plain(to_plain(found)) == found


def test_what_is_not_said_of_bfd_comes_from_the_defaults() -> None:
    defaults = Defaults(bfd=Bfd(interval=0.05))
    (route,) = resolved(Config(defaults=defaults, routers={"red": ROUTER})).static
    bfd = route.hops[0].bfd
    assert bfd is not None
    assert (bfd.interval, bfd.receive_interval, bfd.multiplier) == (0.05, 0.05, 7)
    assert resolved(Config(defaults=defaults, routers={"red": ROUTER})).bfd is None, "no sessions of its own"


def test_shared_policies_are_seen_by_each_router_behind_its_own() -> None:
    shared = Policy(prefix_lists={"a": ("10.0.0.0/8",), "b": ("10.1.0.0/16",)})
    own = Policy(prefix_lists={"a": ("192.0.2.0/24",)})
    router = dataclasses.replace(ROUTER, policy=own)
    found = resolved(Config(policy=shared, routers={"red": router})).policy
    assert found.prefix_lists == {"a": ("192.0.2.0/24",), "b": ("10.1.0.0/16",)}
