"""What RIPv2 and RIPng do in different ways: addresses, ports, packets, and whom they believe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from vrouter.config.rip import Rip, RipAuthentication, Ripng
from vrouter.config.router import RouterConfig
from vrouter.net.address import IPV4, IPV6, Address, is_link_local, mask, parse_address
from vrouter.proto.base import InterfaceState, Meta, OwnAddress
from vrouter.wire.rip import ripng, ripv2
from vrouter.wire.rip.authentication import Algorithm, Key, Password
from vrouter.wire.rip.packet import Packet

_NETWORK_CONTROL: Final = 0xC0
_ALGORITHMS: Final[dict[str, Algorithm]] = {
    "md5": "md5",
    "hmac_sha_1": "hmac-sha-1",
    "hmac_sha_256": "hmac-sha-256",
    "hmac_sha_384": "hmac-sha-384",
    "hmac_sha_512": "hmac-sha-512",
}
Secrets = tuple[Key | Password, ...]


@dataclass(frozen=True)
class Dialect:
    """One of the two versions."""

    name: str
    family: int
    port: int
    group: Address
    ttl: int  # of what is sent
    tos: int
    settings: Callable[[RouterConfig], Rip | Ripng | None]
    decode: Callable[[bytes, Secrets], tuple[Packet, int | None]]
    encode: Callable[[Packet, Key | Password | None, int], bytes]
    room: Callable[[int, Key | Password | None], int]  # entries in a packet, by MTU and key
    believes: Callable[[InterfaceState, Meta], bool]

    def addresses(self, state: InterfaceState) -> tuple[OwnAddress, ...]:
        """Give the addresses of an interface whose networks are announced."""
        return tuple(own for own in state.addresses if own.address.family == self.family and not own.link_local)

    def source(self, state: InterfaceState) -> Address | None:
        """Give the address that packets are sent from."""
        for own in state.addresses:
            if own.address.family == self.family and own.link_local == (self.family == IPV6):
                return own.address
        return None


def keys(authentication: RipAuthentication | None) -> Secrets:
    """Give the keys of a configuration; the first signs."""
    if authentication is None:
        return ()
    if authentication.password is not None:
        return (Password(authentication.password.encode()),)
    found = (
        Key(algorithm, configured.key_id, configured.key.encode())
        for name, algorithm in _ALGORITHMS.items()
        for configured in getattr(authentication, name)
    )
    return tuple(sorted(found, key=lambda key: key.id, reverse=True))


def on_link(state: InterfaceState, address: Address) -> bool:
    """Tell whether an IPv4 address is in a prefix of the interface."""
    return any(
        own.address.family == IPV4 and (own.address.value ^ address.value) & mask(IPV4, own.length) == 0
        for own in state.addresses
    )


def _believes_v2(state: InterfaceState, meta: Meta) -> bool:
    # RFC 2453 section 3.9.2: a response comes from the port of RIP, and from a neighbor.
    return meta.source_port == V2.port and on_link(state, meta.source)


def _believes_ng(_state: InterfaceState, meta: Meta) -> bool:
    # RFC 2080 section 2.4.2; a hop limit of 0 is one that nobody could tell.
    return meta.source_port == NG.port and is_link_local(meta.source) and meta.ttl in {0, 255}


def _decode_ng(data: bytes, _keys: Secrets) -> tuple[Packet, int | None]:
    return ripng.decode(data), None


def _settings_v2(router: RouterConfig) -> Any:
    return router.rip


def _settings_ng(router: RouterConfig) -> Any:
    return router.ripng


V2: Final = Dialect(
    name="rip",
    family=IPV4,
    port=520,
    group=parse_address("224.0.0.9"),
    ttl=1,
    tos=_NETWORK_CONTROL,
    settings=_settings_v2,
    decode=ripv2.decode,
    encode=ripv2.encode,
    room=lambda _mtu, key: ripv2.room(key),
    believes=_believes_v2,
)
NG: Final = Dialect(
    name="ripng",
    family=IPV6,
    port=521,
    group=parse_address("ff02::9"),
    ttl=255,
    tos=_NETWORK_CONTROL,
    settings=_settings_ng,
    decode=_decode_ng,
    encode=lambda packet, _key, _sequence: ripng.encode(packet),
    room=lambda mtu, _key: ripng.room(mtu),
    believes=_believes_ng,
)
