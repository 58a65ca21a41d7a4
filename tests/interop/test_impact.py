"""The schema's claims about changes, leaf by leaf in a live lab: what says "live" or "soft" resets no session.

FRR is the judge: it counts its sessions and adjacencies.  The values come from the schema itself: an example, the
other truth value, another word, a neighboring number; so a leaf that is added later is tried as well.  What claims to
reset a session may do less; that is printed.  And the same configuration again, or with defaults spelled out, puts
nothing on the wire but what the clock puts there.

What says that it resets nothing is changed leaf by leaf in a row, and FRR is asked once at the end, as its counters
only grow; only where it has seen a reset is it asked after each leaf.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from hosts import Capture
from peers import Frr, eventually
from routing_lab import RoutingLab

from manager.cli.client import Manager
from manager.cli.errors import CliError
from manager.config.model import Field, Leaf, Map, Sequence, Struct, Words, model
from manager.config.plan import plain
from vrouter.api.messages import ManagerOp
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
bfd
 peer 10.99.1.1 local-address 10.99.1.3 interface wan
"""
NEIGHBOR: Final = "10.99.1.2"
WATCHED: Final = "10.99.1.3"  # by a session of BFD that is nobody else's
Config = dict[str, Any]
BGP: Final[Config] = {
    "asn": 65001,
    "networks": ["10.77.0.0/24"],
    "groups": {"some": {}, "many": {"remote-as": 65003}, "few": {"remote-as": 65003}},
    "listen": {"10.88.0.0/16": {"group": "many", "limit": 5}},
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
            },
            "ranges": {"10.78.0.0/16": {}},
        },
        "0.0.0.1": {"type": "nssa", "nssa-ranges": {"10.79.0.0/16": {}}, "interfaces": {}},
    },
}
RIP: Final[Config] = {
    "interfaces": {"wan": {}, "lo": {"passive": True}},
    "timers": {"update": "10m", "timeout": "30m"},  # no regular update falls into the test of silence
}
OTHERS: Final[Config] = {
    "ripng": {"interfaces": {"wan": {}}, "timers": {"update": "10m", "timeout": "30m"}, "default-information": {}},
    "bfd": {"sessions": {"one": {"remote": WATCHED, "interface": "wan", "multiplier": 20}}},
    "control-plane": {
        name: {} for name in (
            "neighbor", "resolve", "bfd", "bgp", "routing", "echo", "error", "fragment", "options", "syn", "tcp",
            "group", "app",
        )
    },
    "dns": {},
}  # fmt: skip
# Parts of a router that are no protocols: lists and maps whose items come and go as a whole, and what is about devices
# or apps.  Where their changes are tried:
ELSEWHERE: Final = {
    "interfaces": "tests/netns/test_operator_apply.py",
    "static": "tests/unit/test_static.py",
    "rsock": "tests/netns/test_operator_apply.py",
    "acls": "tests/netns/test_filters.py",
    "counters": "tests/netns/test_filters.py",
    "dataplane": "tests/netns/test_workers.py",
    "policy": "tests/unit/test_bgp_changes.py",
    "router-id": "tests/unit/test_ospf_config.py",
}
STEADY: Final = 0.2  # seconds in which a reset would be seen: it follows at once where there is one
RESET: Final = 1.0
BACK: Final = 20.0
Path_ = tuple[str, ...]
# Leaves that are tried under another path (a group's are those of a neighbor), or say nothing to FRR.
PASSED_OVER: Final = {"groups", "lo"}
UNTRIED: Final = {
    "ospf.areas.*.interfaces.*.neighbors": "there are none on a point-to-point link",
}
REFUSED: Final = {
    "bgp.neighbors.*.route-reflector-client": "the neighbor is in another AS",
    "ospf.version": "there is only one",
    "ospf.areas.*.type": "the backbone has only one",
}


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


def every_leaf(struct: Struct, path: Path_ = ()) -> Iterator[Path_]:
    """Give the paths of all leaves of a part of the schema; `*` stands for the keys of a map."""
    for key, field in struct.fields.items():
        if isinstance(field.model, Struct):
            yield from every_leaf(field.model, (*path, key))
        elif isinstance(field.model, Map) and isinstance(field.model.item, Struct):
            yield from every_leaf(field.model.item, (*path, key, "*"))
        else:
            yield (*path, key)


def form(path: Path_) -> Path_:
    """Give the path in the schema of a leaf of the configuration."""
    made: list[str] = []
    described: Any = router_struct()
    for key in path:
        if isinstance(described, Map):
            made.append("*")
            described = described.item
        else:
            made.append(key)
            described = described.fields[key].model
    return tuple(made)


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
    ("bgp", "listen", "10.88.0.0/16", "group"): "few",
    ("ospf", "router-id"): "10.255.0.9",
    ("rip", "interfaces", "wan", "authentication"): {"password": "lab"},
    ("rip", "interfaces", "wan", "import"): "all",
    ("rip", "interfaces", "wan", "export"): "all",
    ("rip", "interfaces", "wan", "neighbors"): ["10.99.1.2"],
    ("rip", "timers", "timeout"): "29m",
    ("ripng", "interfaces", "wan", "import"): "all",
    ("ripng", "interfaces", "wan", "export"): "all",
    ("ripng", "interfaces", "wan", "neighbors"): ["fe80::2"],
    ("ripng", "timers", "timeout"): "29m",
    ("bfd", "sessions", "one", "remote"): "10.99.1.4",
    ("bfd", "sessions", "one", "local"): "10.99.1.1",
    ("bfd", "sessions", "one", "interface"): "lo",
    ("bfd", "sessions", "one", "authentication"): {"type": "sha1", "key-id": 1, "key": "lab"},
}
# Live for all others, but they end this session, or its peer cannot follow: FRR 8.4 authenticates no BFD.
ENDS_IT: Final = {("bfd", "sessions", "one", "enabled"), ("bfd", "sessions", "one", "authentication")}


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

    def bfd_downs(self) -> int:
        """Count how often FRR has lost the session of BFD."""
        return sum(peer["session-down"] for peer in self.frr.json("show bfd peers counters json"))

    def bfd_up(self) -> bool:
        """Tell whether the session of BFD is up."""
        return any(peer["status"] == "up" for peer in self.frr.json("show bfd peers json"))

    def all_resets(self) -> tuple[Any, ...]:
        """Give all three counts."""
        return self.bgp_resets(), self.ospf_changes(), self.bfd_downs()

    def all_up(self) -> bool:
        """Tell whether all sessions are up."""
        return self.bgp_up() and self.ospf_up() and self.bfd_up()

    def wait_rest(self) -> None:
        """Wait until what the last change has stirred up is over.

        Nobody says an LSA again for five seconds after he has; then a second for the acknowledgment, and one more.
        Triggered updates of RIP wait up to five seconds as well.
        """
        seen: list[list[Any]] = []

        def same() -> bool:
            seen.append([(row["router"], row["sequence"]) for row in self.lab.show("ospf", "red", "database")])
            return len(seen) > 7 and all(earlier == seen[-1] for earlier in seen[-8:])

        eventually(same, 60, "no LSA changes", interval=1)

    def apply(self, config: Config) -> dict[str, Any]:
        """Apply a configuration of the router, as `vr apply` does; CliError: it was refused."""
        self.lab.routers["red"] = copy.deepcopy(config)
        self.lab.configure(self.lab.routers, **self.lab.top)
        with Manager(self.lab.run_dir) as manager:
            done: dict[str, Any] = manager.call_long(ManagerOp.APPLY)
        return done


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with RoutingLab() as lab:
        far = lab.link("red", "wan", ["10.99.1.1/24", "2001:db8:1::1/64"], "frr", ["10.99.1.2/24", f"{WATCHED}/24"])
        far.address("lo", "10.255.0.2/32")
        lab.router("red", router_id="10.255.0.1", bgp=BGP, ospf=OSPF, rip=RIP, **OTHERS)
        lab.routers["red"]["interfaces"]["lo"] = {"addresses": ["10.255.0.1/32"]}
        lab.top["policy"] = {"route-policies": {"all": [{"then": "accept"}]}}
        lab.start()
        frr = lab.run(Frr(far, FRR, daemons=("bgpd", "ospfd", "ripd", "bfdd")))
        made = World(lab, frr)
        eventually(made.all_up, 40, "sessions with FRR")
        yield made


class Trial:
    """The leaves of a part of the schema, changed one after the other, and what became of the sessions."""

    def __init__(self, world: World, count: Callable[[], Any], up: Callable[[], bool]) -> None:
        self.world, self._count, self._up = world, count, up
        self.wrong: list[str] = []  # claims
        self.cautious: list[str] = []  # claims of more than happened
        self.refused: dict[Path_, str] = {}

    def part(self, part: str) -> None:
        """Change each leaf of a part, what resets a session last."""
        before = self._count()
        calm, others = tried(self.world.base, part)
        for path, leaf in calm:
            self._change(path, leaf)
        if _changes(self._count, before, STEADY):
            for path, leaf in calm:
                self._settle(path)
                before = self._count()
                self._change(path, leaf)
                if _changes(self._count, before, STEADY):
                    self.wrong.append(f"{'.'.join(path)}: says {leaf.impact}, and the session was reset")
        for path, leaf in others:
            self._settle(path)
            before = self._count()
            if self._change(path, leaf) and not _changes(self._count, before, RESET):
                self.cautious.append(".".join(path))
        self._settle((part,))

    def _change(self, path: Path_, leaf: Field) -> bool:
        """Change a leaf, and hold the plan to what the schema says; tell whether that was not refused."""
        try:
            plan = self.world.apply(changed(self.world.base, path, other_value(self.world.base, path, leaf)))
        except CliError as error:
            self.refused[path] = ", ".join(each["message"] for each in error.details or ()) or str(error)
            return False
        name = ".".join(path)
        claims = [change["impact"] for change in plan["changes"] if change["path"] == f"routers.red.{name}"]
        assert claims == [str(leaf.impact)], (name, plan)
        return True

    def _settle(self, path: Path_) -> None:
        self.world.apply(self.world.base)
        eventually(self._up, BACK, f"the session is back before {'.'.join(path)}")


def tried(base: Config, part: str) -> tuple[list[tuple[Path_, Field]], list[tuple[Path_, Field]]]:
    """Give the leaves of a part that can be tried: those that reset nothing, and the others."""
    field = router_struct().fields[part]
    assert isinstance(field.model, Struct)
    rank = list(Impact).index
    found = [
        (path, leaf)
        for path, leaf in leaves(field.model, base[part], (part,))
        if not PASSED_OVER & set(path) and other_value(base, path, leaf) not in (None, value_at(base, path))
    ]
    found.sort(key=lambda item: rank(item[1].impact))
    calm = [(path, leaf) for path, leaf in found if rank(leaf.impact) < rank(Impact.SESSION) and path not in ENDS_IT]
    return calm, [item for item in found if item not in calm]


def other_value(base: Config, path: Path_, leaf: Field) -> Any:
    """Give the value that a leaf is tried with; None: there is none."""
    return SPECIAL[path] if path in SPECIAL else another(leaf, value_at(base, path))


def _changes(count: Callable[[], Any], before: Any, seconds: float) -> bool:
    """Tell whether what is counted changes within a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if count() != before:
            return True
        time.sleep(0.1)
    return False


def judge(trial: Trial, part: str) -> None:
    """Try a part, and print what is no failure."""
    trial.part(part)
    print("\nclaim more than happened:", ", ".join(trial.cautious) or "none")
    print("refused:", *(f"{'.'.join(path)}: {why}" for path, why in trial.refused.items()), sep="\n  ")
    assert not trial.wrong
    assert {".".join(form(path)) for path in trial.refused} <= set(REFUSED)


def test_bgp(world: World) -> None:
    """Each leaf of BGP."""
    judge(Trial(world, world.bgp_resets, world.bgp_up), "bgp")


def test_ospf(world: World) -> None:
    """Each leaf of OSPF."""
    judge(Trial(world, world.ospf_changes, world.ospf_up), "ospf")


def test_bfd(world: World) -> None:
    """Each leaf of BFD."""
    judge(Trial(world, world.bfd_downs, world.bfd_up), "bfd")


@pytest.mark.parametrize("part", ["rip", "ripng", "control-plane", "dns"])
def test_others_leave_sessions_alone(world: World, part: str) -> None:
    """Each leaf of what has no sessions: nothing is reset elsewhere."""
    judge(Trial(world, world.all_resets, world.all_up), part)


def test_every_leaf_of_a_protocol_is_tried() -> None:
    """What is added to the schema is tried here, or it is said why it is not."""
    struct = router_struct()
    base: Config = {"bgp": BGP, "ospf": OSPF, "rip": RIP, **OTHERS}
    assert set(struct.fields) == set(base) | set(ELSEWHERE)
    missed = set()
    for part in base:
        there = {form(path) for found in tried(base, part) for path, _ in found}
        model = struct.fields[part].model
        assert isinstance(model, Struct)
        missed |= {
            path
            for path in every_leaf(model, (part,))
            if path[:2] != ("bgp", "groups") and not any(path[:length] in there for length in range(1, len(path) + 1))
        }
    assert {".".join(path) for path in missed} == set(UNTRIED)
    bgp = struct.fields["bgp"].model
    assert isinstance(bgp, Struct)
    groups, neighbors = ({path[3:] for path in every_leaf(bgp) if path[0] == part} for part in ("groups", "neighbors"))
    assert groups <= neighbors


def said_by_applying(world: World, path: Path) -> list[list[str]]:
    """Apply the same again, in several ways; give what the router said meanwhile but hellos and the like."""
    world.wait_rest()
    capture = Capture(world.lab, world.lab["frr"], path, "wan")
    for _ in range(2):
        assert world.apply(world.base)["empty"]
    spelled = changed(world.base, ("bgp", "neighbors", NEIGHBOR, "timers", "delay-open"), "0s")
    spelled = changed(spelled, ("ospf", "areas", "0.0.0.0", "interfaces", "wan", "priority"), 1)
    spelled = changed(spelled, ("bfd", "sessions", "one", "passive"), value=False)
    spelled = changed(spelled, ("ripng", "interfaces", "wan", "passive"), value=False)
    assert world.apply(spelled)["empty"]
    time.sleep(2)
    # FRR's RIP asks now and then, and is answered by unicast.
    rip = "(rip && ip.dst == 224.0.0.9)"
    session = " && ".join(f"tcp.port == {port}" for port in world.bgp_ports())
    bfd = "(bfd && (bfd.flags.p == 1 || bfd.flags.f == 1 || bfd.sta != 3) && ip.dst == " + WATCHED + ")"
    noise = f"({session} && bgp.type != 4) || ospf.msg > 1 || {rip} || ripng || tcp.flags.syn == 1 || {bfd}"
    own = f"(ip.src == 10.99.1.1 || eth.src == {world.lab.interface('red', 'wan')['mac']})"
    said = capture.fields("frame.number", "_ws.col.Info", where=f"{own} && ({noise})")
    assert capture.fields("frame.number", where=f"{own} && ospf.msg == 1"), "the capture works: there are hellos"
    return said


def test_the_same_again_is_silent(world: World, tmp_path: Path) -> None:
    """Applied again, also with defaults spelled out: no UPDATE, no LSA, no RIP packet, no new connection, no BFD poll.

    Of connections that have ended before, remains may still be sent again for a minute: to a neighbor whose reset
    GTSM has refused (RFC 5082), for one.  What the clock, or FRR, makes the router say may fall into the time that is
    looked at; what applying makes it say is there each time.
    """
    world.apply(world.base)
    eventually(world.all_up, 20, "all is up")
    told: list[list[list[str]]] = []
    while len(told) < 4 and (not told or told[-1]):
        told.append(said_by_applying(world, tmp_path / f"wire{len(told)}.pcap"))
    assert told[-1] == [], told
