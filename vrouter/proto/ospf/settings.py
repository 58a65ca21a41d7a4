"""What the protocol works with, made of the configuration: keys, numbers, the router id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vrouter.config import ospf as config
from vrouter.net.address import Prefix, parse_address, parse_prefix
from vrouter.proto.base import InterfaceState, OwnAddress
from vrouter.wire.ospf.authentication import NO_KEY, Algorithm, Key

_DEFAULT_COST: Final = 10
BACKBONE: Final = 0


def number(text: str) -> int:
    """Give an id or an address in dotted form as a number."""
    return parse_address(text).value


def keys(authentication: config.Authentication | None) -> dict[int, Key]:
    """Give the keys of an interface by their numbers; a password has 0, and stands alone."""
    if authentication is None:
        return {}
    if authentication.simple is not None:
        return {0: Key(Algorithm.SIMPLE, 0, authentication.simple.encode())}
    found = {key.key_id: Key(Algorithm.MD5, key.key_id, key.key.encode()) for key in authentication.md5}
    for algorithm, held in (
        (Algorithm.SHA1, authentication.hmac_sha_1),
        (Algorithm.SHA256, authentication.hmac_sha_256),
        (Algorithm.SHA384, authentication.hmac_sha_384),
        (Algorithm.SHA512, authentication.hmac_sha_512),
    ):
        for key in held:
            found[key.key_id] = Key(algorithm, key.key_id, key.key.encode(), key.extended_sequence)
    return found


def signing_key(known: Mapping[int, Key]) -> Key:
    """Give the key that packets are sent with."""
    return known[max(known)] if known else NO_KEY


def dead_interval(interface: config.OspfInterface) -> int:
    """Give the RouterDeadInterval."""
    return int(interface.dead_interval if interface.dead_interval is not None else 4 * interface.hello_interval)


def cost(interface: config.OspfInterface, loopback: bool) -> int:
    """Give the output cost."""
    if interface.cost is not None:
        return interface.cost
    return 0 if loopback else _DEFAULT_COST


def ipv4_addresses(state: InterfaceState | None) -> list[OwnAddress]:
    """Give the IPv4 addresses of an interface in their order; the first is the one that speaks."""
    return [own for own in state.addresses if own.address.family == 4] if state else []


def ranges(configured: Mapping[str, config.Range]) -> dict[Prefix, config.Range]:
    """Give ranges of IPv4, the longest prefix first."""
    parsed = ((parse_prefix(text), value) for text, value in configured.items())
    return dict(sorted(((p, v) for p, v in parsed if p.family == 4), key=lambda item: -item[0].length))
