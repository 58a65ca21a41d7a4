"""What routes cost on their way: a policy in C and in Python, and the routing table at 20,000 routes.

CPU time of one thread, the median of several runs; nothing here needs root.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from tests.property.policy_harness import Interpreter
from vrouter.config.policy import Actions, Conditions, Policy, Term
from vrouter.net.address import Address, Prefix, parse_address, parse_prefix
from vrouter.rib.policy import PolicySet
from vrouter.rib.rib import Rib
from vrouter.rib.route import Hop, HopKind, Protocol, Route
from vrouter.rib.route_view import RouteView

ROUTES: Final = 20_000
TRACKED: Final = 1000
RUNS: Final = 5
GOAL_FACTOR: Final = 10  # by which C is faster, a call out of Python for each route included
GOAL_SECONDS: Final = 1.0  # of CPU for any one change of all routes
MARTIANS: Final = (
    "0.0.0.0/0 le 7", "0.0.0.0/0 ge 25", "10.0.0.0/8 le 32", "100.64.0.0/10 le 32", "127.0.0.0/8 le 32",
    "169.254.0.0/16 le 32", "172.16.0.0/12 le 32", "192.168.0.0/16 le 32", "198.18.0.0/15 le 32", "224.0.0.0/3 le 32",
)  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """Give the CPU time that something takes."""
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def each(ask: Callable[[], object], count: int) -> float:
    """Give the time of one call."""
    return statistics.median(seconds(lambda: [ask() for _ in range(count)]) / count for _ in range(RUNS))


def test_a_policy_for_each_route() -> None:
    many = tuple(f"{a}.{b}.{c}.0/24" for a in range(11, 16) for b in range(50) for c in range(200))
    policies = {
        "transit": (
            Term(if_=Conditions(prefix_list=("martians",)), then=Actions(accept=False)),
            Term(if_=Conditions(community=("65535:666",)), then=Actions(next_hop="discard", accept=True)),
            Term(then=Actions(local_pref="120", add_community=("65000:100",), accept=True)),
        ),
        "paths": (
            Term(if_=Conditions(as_path=("_(64512|65535)_", "^65010_65020_")), then=Actions(accept=False)),
            Term(then=Actions(accept=True)),
        ),
        "prefixes": (Term(if_=Conditions(prefix_list=("many",)), then=Actions(accept=True)),),
    }
    made = PolicySet(Policy(prefix_lists={"martians": MARTIANS, "many": many}, route_policies=policies))
    path = ((2, (65010, 3356, 1299, 2914, 65001)),)
    view = RouteView(parse_prefix("13.40.77.0/24"), as_path=path, communities=(1, 2, 3))
    print()
    for name in policies:
        in_c = each(Interpreter(made.program(made.number(name))).prepared(view), 20_000)
        in_python = each(partial(made.evaluate, name, view), 500)
        print(
            f"policy {name}: {in_c * 1e9:.0f} ns a route in C, called from Python; {in_python * 1e6:.1f} us in Python"
        )
        assert in_c * GOAL_FACTOR < in_python


def test_the_rib_at_twenty_thousand_routes() -> None:
    rib = Rib()
    lan = Route(parse_prefix("10.0.0.0/24"), Protocol.CONNECTED, (Hop(HopKind.CONNECTED, "lan"),), 0)
    via = (Hop(HopKind.FORWARD, "lan", parse_address("10.0.0.2")),)
    routes = [Route(Prefix(4, (20 << 24) + (n << 8), 24), Protocol.OSPF, via, 110, 10) for n in range(ROUTES)]
    for n in range(TRACKED):
        rib.track(Address(4, (20 << 24) + (n * (ROUTES // TRACKED) << 8) + 5))
    rib.update([lan])
    rib.flush()
    took: dict[str, list[float]] = {}

    def step(name: str, prepare: Callable[[], None]) -> int:
        def work() -> None:
            prepare()
            changes.extend(rib.flush())
            rib.reached()
            rib.events()

        changes: list[object] = []
        took.setdefault(name, []).append(seconds(work))
        return len(changes)

    changed = Route(routes[7].prefix, Protocol.OSPF, via, 110, 11)
    for _ in range(RUNS):
        assert step("all come", lambda: rib.update(routes)) == ROUTES
        assert step("one changes", lambda: rib.update([changed])) == 1
        assert step("their link fails", lambda: rib.link("lan", up=False)) == ROUTES + 1
        assert step("it comes back", lambda: rib.link("lan", up=True)) == ROUTES + 1
        assert step("all go", lambda: rib.withdraw_all(Protocol.OSPF)) == ROUTES
    print(f"\nRIB, {ROUTES} routes, {TRACKED} tracked addresses, CPU:")
    for name, times in took.items():
        print(f"  {name}: {statistics.median(times) * 1000:.2f} ms")
        assert statistics.median(times) < GOAL_SECONDS
