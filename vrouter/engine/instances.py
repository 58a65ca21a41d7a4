"""Which protocols there are: for each its name, where its configuration stands, and what makes its instance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vrouter.config.router import RouterConfig
from vrouter.proto import static
from vrouter.proto.base import Environment, Instance
from vrouter.proto.bfd.standalone import Standalone
from vrouter.proto.bgp.instance import Bgp
from vrouter.proto.leak.instance import Leak
from vrouter.proto.ospf.instance import Ospf
from vrouter.proto.ra import RouterAdvertisements
from vrouter.proto.rip.instance import ripng, ripv2
from vrouter.rib.route import Protocol


def _accept(_router: RouterConfig) -> None:
    """Refuse nothing."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A protocol that a VR can run, at most one instance of it."""

    name: str
    wanted: Callable[[RouterConfig], object]  # true: the configuration asks for an instance
    make: Callable[[Environment], Instance]
    restarts: tuple[Protocol, ...] = ()  # whose routes of a predecessor stay until the instance says Settled
    check: Callable[[RouterConfig], None] = _accept  # raises ValueError: the whole configuration is refused


# In the order in which they are configured.
KINDS: Final = (
    Kind("static", lambda router: router.static, lambda _environment: static.Static(), check=static.check),
    Kind("bfd", lambda router: router.bfd, lambda _environment: Standalone()),
    Kind("ospf", lambda router: router.ospf, Ospf, restarts=(Protocol.OSPF,)),
    Kind("bgp", lambda router: router.bgp, Bgp, restarts=(Protocol.BGP,)),
    Kind("rip", lambda router: router.rip, ripv2, restarts=(Protocol.RIP,)),
    Kind("ripng", lambda router: router.ripng, ripng, restarts=(Protocol.RIP,)),
    Kind("leak", lambda router: any(each.leak for each in router.interfaces), Leak, restarts=(Protocol.LEAK,)),
    Kind("ra", lambda router: any(each.ra for each in router.interfaces), RouterAdvertisements),
)
