"""How protocols ask for BFD: from the configuration of a neighbor to base.BfdOpen (RFC 5882)."""

from __future__ import annotations

from vrouter.config.bfd import Bfd
from vrouter.net.address import Address
from vrouter.proto.base import BfdOpen


def bfd_open(
    bfd: Bfd,
    session: str,
    remote: Address,
    *,
    local: Address | None = None,
    interface: str = "",
    multihop: bool = False,
) -> BfdOpen:
    """Give the request for a session; ask only where `bfd.enabled`."""
    filled = bfd.over(None)
    key = filled.authentication
    return BfdOpen(
        session=session,
        remote=remote,
        local=local,
        interface=interface,
        multihop=multihop,
        transmit_interval=filled.interval or 0,
        receive_interval=filled.receive_interval or 0,
        multiplier=filled.multiplier or 0,
        echo_interval=0 if multihop else filled.echo_interval or 0,
        authentication=None if key is None else (key.type, key.key_id, key.key.encode()),
        passive=filled.passive,
        min_ttl=filled.min_ttl or 0 if multihop else 0,
    )
