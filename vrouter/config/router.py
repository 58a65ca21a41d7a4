"""The resolved configuration of one VR, as its control receives it.

Plain frozen dataclasses without any dependence.  The manager makes them from the operator's YAML
(`vrouter/config/schema.py` is that schema), with names turned into numbers: uids, port ids, MACs.
Addresses and prefixes are strings as `ipaddress` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vrouter.config.acl import AclBinding, AclEntry, DscpMarks, Rpf
from vrouter.config.bfd import Bfd, BfdSessions
from vrouter.config.bgp import Bgp
from vrouter.config.leak import Leak
from vrouter.config.ospf import Ospf
from vrouter.config.police import ControlPlane, Police
from vrouter.config.policy import Policy
from vrouter.config.ra import Ra
from vrouter.config.rip import Rip, Ripng


@dataclass(frozen=True)
class Interface:
    """One interface of a VR."""

    name: str
    kind: Literal["ethernet", "vlan", "loopback"]
    port: int = 0  # port id; 0 for a loopback
    vlan: int = 0  # tag on that port; 0: untagged
    mtu: int = 1500
    mac: str = "00:00:00:00:00:00"
    addresses: tuple[str, ...] = ()  # "10.0.0.1/24"
    police: Police | None = None
    acl: AclBinding | None = None
    rpf: Rpf | None = None
    dscp: DscpMarks | None = None
    ra: Ra | None = None
    leak: Leak | None = None


@dataclass(frozen=True)
class StaticHop:
    """One next hop of a static route: via, or interface, or both; or discard."""

    via: str | None = None
    interface: str | None = None
    weight: int = 1
    discard: bool = False
    bfd: Bfd | None = None
    preference: int = 1


@dataclass(frozen=True)
class StaticRoute:
    """A static route; several hops are an ECMP group for each preference that occurs."""

    prefix: str
    hops: tuple[StaticHop, ...]


@dataclass(frozen=True)
class Quota:
    """What each identity that a rule lets in may have and do; 0: as much as there is."""

    sockets: int = 0
    opens: int = 0  # a second
    accepts: int = 0  # a second
    bytes: int = 0  # a second, sent
    memory: int = 0


@dataclass(frozen=True)
class Rule:
    """One rule of the socket layer; `identity` is uid, gid, curve or any."""

    identity: Literal["uid", "gid", "curve", "any"]
    id: int = 0
    curve_key: bytes = b""
    operations: int = 0  # rsock.wire.Right bits
    ports: tuple[tuple[int, int], ...] = ()  # local ports; empty: all
    prefixes: tuple[str, ...] = ()  # remote addresses; empty: all
    quota: Quota = Quota()


@dataclass(frozen=True)
class RouterConfig:
    """All that a control needs to know."""

    name: str
    id: int
    interfaces: tuple[Interface, ...] = ()
    static: tuple[StaticRoute, ...] = ()
    rules: tuple[Rule, ...] = field(default=())
    relay_uid: int = 0  # who may open sockets for remote apps; 0: nobody
    acls: dict[str, tuple[AclEntry, ...]] = field(default_factory=dict)  # shared and own, those that are bound
    counters: tuple[str, ...] = ()
    control_plane: ControlPlane = ControlPlane()  # noqa: RUF009 - frozen
    policy: Policy = Policy()  # noqa: RUF009 - frozen; shared and own
    bfd: BfdSessions | None = None
    router_id: str | None = None
    bgp: Bgp | None = None
    ospf: Ospf | None = None
    rip: Rip | None = None
    ripng: Ripng | None = None
