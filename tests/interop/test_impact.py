"""The schema's claims about changes, leaf by leaf in a live lab: what says "live" or "soft" resets no session.

FRR is the judge: it counts its sessions and adjacencies.  The values come from the schema itself: an example, the
other truth value, another word, a neighboring number; so a leaf that is added later is tried as well.  What claims to
reset a session may do less; that is printed.  And the same configuration again, or with defaults spelled out, puts
nothing on the wire but what the clock puts there.
"""

from __future__ import annotations

import copy
import re
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from hosts import Capture
from lab import LabError
from peers import Frr, eventually
from routing_lab import RoutingLab

from manager.config.model import Field, Leaf, Map, Sequence, Struct, Words, model
from manager.config.plan import plain
from vrouter.config.constraints import Boolean, Duration, Integer
from vrouter.config.option import Impact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.timeout(300)]

FRR: Final = """
interface wan
 ip ospf area 0
 ip ospf hello-interval 1
 ip ospf dead-interval 4
 ip ospf network point-to-point
router ospf
 ospf router-id 10.255.0.2
 redistribute connected
router rip
 network wan
 redistribute connected
router bgp 65002
 bgp router-id 10.255.0.2
 no bgp ebgp-requires-policy
 neighbor 10.99.1.1 remote-as 65001
 neighbor 10.99.1.1 timers connect 1
 address-family ipv4 unicast
  network 10.255.0.2/32
 exit-address-family
"""
NEIGHBOR: Final = "10.99.1.2"
Config = dict[str, Any]
BGP: Final[Config] = {
    "asn": 65001,
    "networks": ["10.77.0.0/24"],
    "groups": {"some": {}},
    "multipath": {},
    "preference": {},
    "neighbors": {
        NEIGHBOR: {
            "remote-as": 65002, "require-policy": False, "graceful-restart": {"time": "100s"},
            "max-prefixes": {"ipv4": 1000}, "add-path": {"receive": True},
            "timers": {"connect-retry": "1s", "hold": "60s"},
        }
    },
}  # fmt: skip
OSPF: Final[Config] = {
    "spf": {},
    "graceful-restart": {},
    "areas": {
        "0.0.0.0": {
            "interfaces": {
                "wan": {"network": "point-to-point", "hello-interval": "1s", "dead-interval": "4s"},
                "lo": {"passive": True},
            }
        }
    },
}
RIP: Final[Config] = {
    "interfaces": {"wan": {}, "lo": {"passive": True}},
    "timers": {"update": "10m", "timeout": "30m"},  # no regular update falls into the test of silence
}
STEADY: Final = 0.2  # seconds in which a reset would be seen: it follows at once where there is one
RESET: Final = 1.0
BACK: Final = 20.0
Path_ = tuple[str, ...]
# Leaves that are tried elsewhere under another path (a group's are those of a neighbor), or say nothing to FRR.
PASSED_OVER: Final = {"groups", "lo"}


# --- what is tried ---


def leaves(struct: Struct, base: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Field]]:
    """Give the leaves of a part of the schema, as far as it is there in the base configuration."""
    for key, field in struct.fields.items():
        here = (*path, key)
        present = base.get(key) if isinstance(base, dict) else None
        if isinstance(field.model, Struct) and isinstance(present, dict):
            yield from leaves(field.model, present, here)
        elif isinstance(field.model, Map):
            for name, item in (present or {}).items():
                if isinstance(field.model.item, Struct) and isinstance(item, dict):
                    yield from leaves(field.model.item, item, (*here, name))
        else:
            yield here, field


def another(field: Field, present: Any) -> Any:
    """Give another value for a leaf than the present one; None: there is no way to make one up."""
    described = field.model
    now = plain(described, field.default) if present is None and not field.required else present
    if isinstance(described, Words):
        return next((word for word in described.words if word != now), None)
    if isinstance(described, Leaf) and isinstance(described.constraint, Boolean):
        return not now
    if isinstance(described, Leaf) and isinstance(described.constraint, Duration):
        return next(time for time in ("7s", "8s") if time != now)
    if isinstance(described, Leaf) and isinstance(described.constraint, Integer):
        number = int(now or field.example or 0)
        return number + 1 if number < described.constraint.high else number - 1
    value = yaml.safe_load(field.example) if isinstance(described, (Sequence, Struct)) else field.example
    return value if value and value != now else None


def changed(config: Config, path: Path_, value: Any) -> Config:
    """Give a copy with a value changed."""
    made = copy.deepcopy(config)
    here = made
    for key in path[:-1]:
        here = here.setdefault(key, {})
    here[path[-1]] = value
    return made


def value_at(config: Config, path: Path_) -> Any:
    """Give the value of a leaf; None: not said."""
    here: Any = config
    for key in path:
        here = here.get(key) if isinstance(here, dict) else None
    return here


def router_struct() -> Struct:
    """Give the schema of a router."""
    routers = model().fields["routers"].model
    assert isinstance(routers, Map)
    assert isinstance(routers.item, Struct)
    return routers.item


# What an example cannot say in this lab.
SPECIAL: Final[dict[Path_, Any]] = {
    ("bgp", "asn"): 65009,
    ("bgp", "router-id"): "10.255.0.9",
    ("bgp", "neighbors", NEIGHBOR, "shutdown-message"): "see you",
    ("bgp", "neighbors", NEIGHBOR, "import"): "all",
    ("bgp", "neighbors", NEIGHBOR, "export"): "all",
    ("bgp", "neighbors", NEIGHBOR, "group"): "some",
    ("bgp", "neighbors", NEIGHBOR, "local-address"): "10.99.1.1",
    ("bgp", "neighbors", NEIGHBOR, "password"): "secret",
    ("bgp", "neighbors", NEIGHBOR, "interface"): "wan",
    ("bgp", "neighbors", NEIGHBOR, "bfd"): {"interval": "300ms"},
    ("ospf", "areas", "0.0.0.0", "interfaces", "wan", "authentication"): {"simple": "lab"},
    ("ospf", "areas", "0.0.0.0", "interfaces", "wan", "neighbors"): None,
    ("ospf", "areas", "0.0.0.0", "interfaces", "wan", "hello-interval"): "2s",
    ("ospf", "areas", "0.0.0.0", "interfaces", "wan", "dead-interval"): "5s",
    ("ospf", "router-id"): "10.255.0.9",
    ("rip", "interfaces", "wan", "authentication"): {"password": "lab"},
    ("rip", "interfaces", "wan", "import"): "all",
    ("rip", "interfaces", "wan", "export"): "all",
    ("rip", "interfaces", "wan", "neighbors"): ["10.99.1.2"],
}


class World:
    """The lab, and what FRR has seen."""

    def __init__(self, lab: RoutingLab, frr: Frr) -> None:
        self.lab, self.frr = lab, frr
        self.base = copy.deepcopy(lab.routers["red"])

    def bgp_resets(self) -> int:
        """Count the sessions that FRR has lost."""
        found = self.frr.json("show bgp neighbors 10.99.1.1 json")["10.99.1.1"]
        return int(found["connectionsDropped"])

    def bgp_ports(self) -> tuple[int, int]:
        """Give the ports of the session's connection."""
        found = self.frr.json("show bgp neighbors 10.99.1.1 json")["10.99.1.1"]
        return int(found["portLocal"]), int(found["portForeign"])

    def ospf_changes(self) -> Any:
        """Tell FRR's adjacency by the moment of its last change."""
        text = self.frr.show("show ip ospf neighbor 10.99.1.1 detail") + self.frr.show("show ip ospf neighbor detail")
        return [line.strip() for line in text.splitlines() if "state changes" in line][:1]

    def bgp_up(self) -> bool:
        """Tell whether the session is up."""
        return self.frr.established("10.99.1.1")

    def ospf_up(self) -> bool:
        """Tell whether the adjacency is full."""
        neighbors = self.frr.json("show ip ospf neighbor json").get("neighbors", {})
        return any(entry["nbrState"].startswith("Full") for entries in neighbors.values() for entry in entries)

    def apply(self, config: Config) -> dict[str, Any]:
        """Apply a configuration of the router."""
        self.lab.routers["red"] = copy.deepcopy(config)
        return self.lab.apply()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with RoutingLab() as lab:
        far = lab.link("red", "wan", ["10.99.1.1/24"], "frr", ["10.99.1.2/24"])
        far.address("lo", "10.255.0.2/32")
        lab.router("red", router_id="10.255.0.1", bgp=BGP, ospf=OSPF, rip=RIP)
        lab.routers["red"]["interfaces"]["lo"] = {"addresses": ["10.255.0.1/32"]}
        lab.top["policy"] = {"route-policies": {"all": [{"then": "accept"}]}}
        lab.start()
        frr = lab.run(Frr(far, FRR, daemons=("bgpd", "ospfd", "ripd")))
        made = World(lab, frr)
        eventually(lambda: made.bgp_up() and made.ospf_up(), 40, "sessions with FRR")
        yield made


def try_leaves(
    world: World, protocol: str, count: Callable[[], Any], up: Callable[[], bool]
) -> tuple[list[str], list[str], list[str]]:
    """Change each leaf of a protocol: gives wrong claims, claims of more than happened, and leaves not tried."""
    field = router_struct().fields[protocol]
    assert isinstance(field.model, Struct)
    wrong, cautious, untried = [], [], []
    found = leaves(field.model, world.base[protocol], (protocol,))
    tried = [(path, leaf) for path, leaf in found if not PASSED_OVER & set(path)]
    rank = list(Impact).index
    for path, leaf in sorted(tried, key=lambda item: rank(item[1].impact)):  # what resets a session comes last
        name = ".".join(path)
        value = SPECIAL[path] if path in SPECIAL else another(leaf, value_at(world.base, path))
        if value is None or value == value_at(world.base, path):
            untried.append(name)
            continue
        before = count()
        try:
            plan = world.apply(changed(world.base, path, value))
        except LabError as error:
            untried.append(f"{name} = {value!r}: {reason(error)}")
            continue
        claims = [change["impact"] for change in plan["changes"] if change["path"] == f"routers.red.{name}"]
        assert claims == [str(leaf.impact)], (name, plan)
        session = rank(leaf.impact) >= rank(Impact.SESSION)
        reset = _changes(count, before, RESET if session else STEADY)
        if reset and not session:
            wrong.append(f"{name} = {value!r}: says {leaf.impact}, and the session was reset")
            eventually(up, BACK, f"the session is back after {name}")
        if session:
            if not reset:
                cautious.append(name)
            world.apply(world.base)
            eventually(up, BACK, f"the session is back after {name}")
    world.apply(world.base)
    eventually(up, BACK, "the session is there at the end")
    return wrong, cautious, untried


def reason(error: LabError) -> str:
    """Give why a configuration was refused."""
    return ", ".join(re.findall(r'"message": "([^"]+)", "help"', str(error))) or str(error)


def _changes(count: Callable[[], Any], before: Any, seconds: float) -> bool:
    """Tell whether what is counted changes within a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if count() != before:
            return True
        time.sleep(0.1)
    return False


def told(results: tuple[list[str], list[str], list[str]]) -> list[str]:
    """Print what was found; give the wrong claims."""
    wrong, cautious, untried = results
    print("\nclaim more than happened:", ", ".join(cautious) or "none", "\nnot tried:", *untried, sep="\n  ")
    return wrong


def test_bgp(world: World) -> None:
    """Each leaf of BGP."""
    assert not told(try_leaves(world, "bgp", world.bgp_resets, world.bgp_up))


def test_ospf(world: World) -> None:
    """Each leaf of OSPF."""
    assert not told(try_leaves(world, "ospf", world.ospf_changes, world.ospf_up))


def test_rip_leaves_other_sessions_alone(world: World) -> None:
    """Each leaf of RIP: nothing is reset, here or elsewhere."""
    assert not told(try_leaves(world, "rip", lambda: (world.bgp_resets(), world.ospf_changes()), world.bgp_up))


def test_the_same_again_is_silent(world: World, tmp_path: Path) -> None:
    """Applied again, also with defaults spelled out: no UPDATE, no LSA, no RIP packet, no new connection.

    Of connections that have ended before, remains may still be sent again for a minute: to a neighbor whose reset
    GTSM has refused (RFC 5082), for one.
    """
    world.apply(world.base)
    eventually(lambda: world.bgp_up() and world.ospf_up(), 20, "all is up")
    time.sleep(6)  # what the last change has stirred up; triggered updates of RIP wait up to 5 s
    capture = Capture(world.lab, world.lab["frr"], tmp_path / "wire.pcap", "wan")
    for _ in range(2):
        assert world.apply(world.base)["empty"]
    spelled = changed(world.base, ("bgp", "neighbors", NEIGHBOR, "timers", "delay-open"), "0s")
    spelled = changed(spelled, ("ospf", "areas", "0.0.0.0", "interfaces", "wan", "priority"), 1)
    assert world.apply(spelled)["empty"]
    time.sleep(2)
    # FRR's RIP asks now and then, and is answered by unicast.
    rip = "(rip && ip.dst == 224.0.0.9)"
    session = " && ".join(f"tcp.port == {port}" for port in world.bgp_ports())
    noise = f"({session} && bgp.type != 4) || ospf.msg > 1 || {rip} || tcp.flags.syn == 1"
    own = "ip.src == 10.99.1.1"
    assert capture.fields("frame.number", "_ws.col.Info", where=f"{own} && ({noise})") == []
    assert capture.fields("frame.number", where=f"{own} && ospf.msg == 1"), "the capture works: there are hellos"
