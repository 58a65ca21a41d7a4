"""The neighbors of routing protocols that a configuration names: control-plane policing prefers what they send."""

from __future__ import annotations

from vrouter.config.router import RouterConfig
from vrouter.net.address import Address, parse_address


def named_peers(router: RouterConfig) -> tuple[Address, ...]:
    """Give the addresses of BGP's neighbors and of BFD sessions, ascending, each once."""
    named = set(router.bgp.neighbors) if router.bgp is not None else set()
    if router.bfd is not None:
        named |= {session.remote for session in router.bfd.sessions.values()}
    return tuple(sorted(map(parse_address, named)))
