"""What holds for one neighbor: its own words, its group's, then what is built in; and what a change of it disturbs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from vrouter.config.bfd import Bfd
from vrouter.config.bgp import AddPath, Bgp, GracefulRestart, MaxPrefixes, Neighbor, Session, Timers
from vrouter.net.address import Address, parse_address
from vrouter.rib.bgp_table import Afi
from vrouter.wire.bgp.capabilities import Role

ROLES: Final = {
    "provider": Role.PROVIDER,
    "customer": Role.CUSTOMER,
    "peer": Role.PEER,
    "route-server": Role.ROUTE_SERVER,
    "route-server-client": Role.ROUTE_SERVER_CLIENT,
}
FAMILIES: Final = {"ipv4": Afi.IPV4, "ipv6": Afi.IPV6}


@dataclass(frozen=True, slots=True)
class Settings:
    """All that is configured of a neighbor, without gaps."""

    address: Address
    group: str
    remote_as: int
    local_as: int
    description: str = ""
    shutdown: bool = False
    shutdown_message: str = ""
    password: bytes = dataclasses.field(default=b"", repr=False)
    bfd: Bfd | None = None
    gtsm: int = 0
    multihop: int = 0
    local_address: Address | None = None
    interface: str = ""
    passive: bool = False
    import_policy: str = ""
    export_policy: str = ""
    require_policy: bool = True
    families: tuple[Afi, ...] = ()
    max_prefixes: MaxPrefixes = MaxPrefixes()  # noqa: RUF009 - frozen
    graceful_restart: GracefulRestart = GracefulRestart()  # noqa: RUF009 - frozen
    role: int = -1
    role_strict: bool = False
    add_path: AddPath = AddPath()  # noqa: RUF009 - frozen
    extended_next_hop: bool = False
    extended_messages: bool = True
    route_reflector_client: bool = False
    next_hop_self: bool = False
    next_hop_unchanged: bool = False
    send_communities: bool = True
    remove_private_as: bool = False
    allow_own_as: int = 0
    as_override: bool = False
    enforce_first_as: bool = True
    weight: int = 0
    timers: Timers = Timers()  # noqa: RUF009 - frozen

    @property
    def external(self) -> bool:
        """Tell whether the neighbor is in another AS."""
        return self.remote_as != self.local_as

    @property
    def ttl(self) -> int:
        """Give the TTL of what is sent; 0: the stack's."""
        if self.gtsm:
            return 255
        return (self.multihop or 1) if self.external else 0

    @property
    def min_ttl(self) -> int:
        """Give the smallest TTL that is taken; RFC 5082 section 3."""
        return 256 - self.gtsm if self.gtsm else 0

    @property
    def send_hold(self) -> float:
        """Give the time of RFC 9687 section 3.2; 0: without end."""
        timers = self.timers
        return max(timers.send_hold, 2 * timers.hold) if timers.send_hold else 0.0


# Fields whose change needs no new session; the others' do.
LIVE: Final = frozenset({"description", "shutdown_message", "passive", "bfd", "max_prefixes"})
SOFT_IN: Final = frozenset({"import_policy", "require_policy", "allow_own_as", "enforce_first_as", "weight"})
SOFT_OUT: Final = frozenset(
    {
        "export_policy",
        "require_policy",
        "next_hop_self",
        "next_hop_unchanged",
        "send_communities",
        "remove_private_as",
        "as_override",
    }
)
_LIVE_TIMERS: Final = frozenset({"connect_retry", "delay_open", "send_hold"})
_LIVE_RESTART: Final = frozenset({"stale_time", "deferral"})


def changed(old: Any, new: Any) -> set[str]:
    """Name the fields that differ."""
    names = (field.name for field in dataclasses.fields(old))
    return {name for name in names if getattr(old, name) != getattr(new, name)}


def needs_session(old: Settings, new: Settings) -> bool:
    """Tell whether a session must begin anew with other settings."""
    hard = changed(old, new) - LIVE - SOFT_IN - SOFT_OUT
    if "timers" in hard and changed(old.timers, new.timers) <= _LIVE_TIMERS:
        hard.discard("timers")
    if "graceful_restart" in hard and changed(old.graceful_restart, new.graceful_restart) <= _LIVE_RESTART:
        hard.discard("graceful_restart")
    return bool(hard - {"group"})


def neighbor_settings(bgp: Bgp, text: str, neighbor: Neighbor) -> Settings | None:
    """Put a configured neighbor together; None: nobody says its AS."""
    group = bgp.groups.get(neighbor.group or "")
    return _settings(bgp, parse_address(text), neighbor.group or "", neighbor, group)


def group_settings(bgp: Bgp, address: Address, name: str) -> Settings | None:
    """Put a neighbor together that came of itself."""
    group = bgp.groups.get(name)
    return None if group is None else _settings(bgp, address, name, group, None)


def _settings(bgp: Bgp, address: Address, group_name: str, own: Session, group: Session | None) -> Settings | None:
    said: dict[str, Any] = {}
    for field in dataclasses.fields(Session):
        value = getattr(own, field.name)
        if value is None and group is not None:
            value = getattr(group, field.name)
        if value is not None:
            said[field.name] = value
    if "remote_as" not in said:
        return None
    said.setdefault("local_as", bgp.asn)
    families = said.get("families") or (f"ipv{address.family}",)
    said["families"] = tuple(sorted({FAMILIES[family] for family in families}))
    said["import_policy"] = said.pop("import_", "")
    said["export_policy"] = said.pop("export", "")
    if "role" in said:
        said["role"] = int(ROLES[said["role"]])
    if "local_address" in said:
        said["local_address"] = parse_address(said["local_address"])
    if "password" in said:
        said["password"] = said["password"].encode()
    if "bfd" in said and not said["bfd"].enabled:
        del said["bfd"]
    return Settings(address=address, group=group_name, **said)


def family_name(afi: int) -> str:
    """Give the name that operators write."""
    return "ipv4" if afi == Afi.IPV4 else "ipv6"
