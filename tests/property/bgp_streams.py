"""Random BGP sessions from a seed: neighbors with all kinds of settings, UPDATEs sound, mutated and garbage."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Final

from vrouter.config.policy import Actions, Conditions, Policy, Term
from vrouter.net.address import IPV4, IPV6, Address, Prefix, parse_address, parse_prefix
from vrouter.rib.bgp_table import Afi, FamilySettings, Identity, PeerKind, PeerSettings
from vrouter.rib.policy import PolicySet
from vrouter.wire.bgp.attributes import encode_one
from vrouter.wire.bgp.message import KEEPALIVE, frame
from vrouter.wire.bgp.update import Nlri, end_of_rib, write_nlri

LOCAL_AS: Final = 65000
ASNS: Final = (65001, 65002, 65003, 64999, 23456, 70000, 4200000001, LOCAL_AS, 3356)
PREFIXES: Final = {
    Afi.IPV4: (
        *(parse_prefix(f"10.{high}.{low}.0/24") for high in range(3) for low in range(4)),
        *map(parse_prefix, ("0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "10.0.0.0/9", "0.0.0.0/1")),
        *map(parse_prefix, ("0.0.0.0/8", "127.1.0.0/16", "224.0.0.0/4", "239.1.0.0/16", "224.0.0.0/3", "240.0.0.0/4")),
    ),
    Afi.IPV6: (
        *(parse_prefix(f"2001:db8:{number:x}::/48") for number in range(8)),
        *map(
            parse_prefix,
            ("::/0", "2001:db8::1/128", "2001:db8::/127", "2001:db8::/64", "2001:db8::/65", "2001:c00::/23"),
        ),
        *map(parse_prefix, ("::1/128", "::/128", "::2/128", "fe80::/10", "fe80::/9", "fec0::/10", "ff02::/16")),
    ),
}
HOPS4: Final = tuple(map(parse_address, ("192.0.2.1", "192.0.2.2", "192.0.2.3", "127.0.0.1", "0.0.0.1", "224.0.0.1")))
HOPS6: Final = tuple(map(parse_address, ("2001:db8:f::1", "2001:db8:f::2", "fe80::1", "::1", "::", "ff02::1")))
LINK_LOCAL: Final = parse_address("fe80::99")


def identity(rng: Random) -> Identity:
    """Choose what holds for a table."""
    return Identity(
        local_as=LOCAL_AS,
        router_id=0x0A000001,
        cluster_id=rng.choice((0, 77)),
        multipath=rng.choice((1, 1, 2, 8)),
        multipath_internal=rng.choice((1, 1, 3)),
        multipath_relax=rng.random() < 0.5,
        always_compare_med=rng.random() < 0.3,
        compare_router_id=rng.random() < 0.8,
    )


def family(rng: Random, afi: Afi, *, add_path: bool) -> FamilySettings:
    """Choose the settings of a family."""
    own4, own6 = parse_address("192.0.2.254"), parse_address("2001:db8:f::254")
    extended = afi == Afi.IPV4 and rng.random() < 0.3
    return FamilySettings(
        receive_paths=rng.random() < 0.3,
        send_paths=rng.choice((1, 2, 8)) if add_path else 0,
        extended_next_hop=extended,
        next_hop=(own6 if extended and rng.random() < 0.5 else own4) if afi == Afi.IPV4 else own6,
        next_hop_link_local=LINK_LOCAL if afi == Afi.IPV6 and rng.random() < 0.5 else None,
        max_prefixes=rng.choice((0, 0, 5)),
        import_deny=rng.random() < 0.05,
        export_deny=rng.random() < 0.05,
    )


def settings(rng: Random, number: int) -> PeerSettings:
    """Choose the settings of a session."""
    kind = rng.choice((PeerKind.EXTERNAL, PeerKind.EXTERNAL, PeerKind.INTERNAL, PeerKind.CLIENT))
    add_path = rng.random() < 0.25
    afis = rng.choice(((Afi.IPV4,), (Afi.IPV4, Afi.IPV6), (Afi.IPV4, Afi.IPV6), (Afi.IPV6,)))
    external = kind is PeerKind.EXTERNAL
    return PeerSettings(
        kind=kind,
        address=Address(IPV4, 0xC0000200 + rng.choice((number, number, 7))),
        local_as=LOCAL_AS if not external or rng.random() < 0.8 else 64999,
        remote_as=rng.choice((65001, 65002, 70000)) if external else LOCAL_AS,
        router_id=0x0A000100 + rng.choice((number, number, 7)),
        families={afi: family(rng, afi, add_path=add_path) for afi in afis},
        as4=rng.random() < 0.7,
        extended_messages=rng.random() < 0.2,
        interface=rng.choice(("", "lan")),
        role=rng.choice((-1, -1, 0, 1, 2, 3, 4)) if external else -1,
        next_hop_self=rng.random() < 0.3,
        next_hop_unchanged=rng.random() < 0.1,
        send_communities=rng.random() < 0.8,
        remove_private_as=external and rng.random() < 0.3,
        allow_own_as=rng.choice((0, 0, 0, 1)),
        as_override=external and rng.random() < 0.2,
        weight=rng.choice((0, 0, 0, 10)),
        enforce_first_as=rng.random() < 0.5,
    )


def _path(rng: Random, peer: PeerSettings, *, as4: bool) -> bytes:
    segments = b""
    code = "I" if as4 else "H"
    for position in range(rng.choice((0, 1, 1, 1, 2)) if peer.kind is not PeerKind.EXTERNAL else rng.choice((1, 1, 2))):
        kind = 1 if rng.random() < 0.1 else 2
        asns = [rng.choice(ASNS) for _ in range(rng.randint(1, 3))]
        if position == 0 and peer.kind is PeerKind.EXTERNAL and rng.random() < 0.9:
            asns[0] = peer.remote_as
        if rng.random() < 0.8:
            asns = [asn for asn in asns if asn != LOCAL_AS] or [65003]
        numbers = asns if as4 else [min(asn, 23456) if asn > 0xFFFF else asn for asn in asns]
        segments += struct.pack(f"!BB{len(asns)}{code}", kind, len(asns), *numbers)
    return segments


def _numbers(rng: Random, pool: tuple[int, ...], most: int) -> bytes:
    return b"".join(struct.pack("!I", rng.choice(pool)) for _ in range(rng.randint(1, most)))


def attributes(rng: Random, peer: PeerSettings, next_hop: Address | None) -> list[bytes]:
    """Make path attributes, mostly sound ones."""
    parts = [
        encode_one(0x40, 1, bytes([rng.choice((0, 0, 1, 2))])),
        encode_one(0x40, 2, _path(rng, peer, as4=peer.as4)),
    ]
    if next_hop is not None:
        parts.append(encode_one(0x40, 3, next_hop.value.to_bytes(4, "big")))
    if rng.random() < 0.4:
        parts.append(encode_one(0x80, 4, struct.pack("!I", rng.choice((0, 5, 10)))))
    if peer.kind is not PeerKind.EXTERNAL or rng.random() < 0.1:
        parts.append(encode_one(0x40, 5, struct.pack("!I", rng.choice((100, 100, 200)))))
    optional: list[tuple[float, Callable[[], bytes]]] = [
        (0.1, lambda: encode_one(0x40, 6, b"")),
        (0.2, lambda: encode_one(0xC0, 7, struct.pack("!II" if peer.as4 else "!HI", rng.choice((65001, 23456, 0)), 5))),
        (0.3, lambda: encode_one(0xC0, 8, _numbers(rng, (0x10001, 0x10002, 0xFFFFFF01, 0xFFFFFF02, 0xFFFFFF03), 3))),
        (0.2, lambda: encode_one(0x80, 9, struct.pack("!I", rng.choice((0x0A000001, 0x0A000101, 0x0A000102, 9))))),
        (0.2, lambda: encode_one(0x80, 10, _numbers(rng, (77, 78, 0x0A000001, 79), 2))),
        (0.2, lambda: encode_one(0xC0, 16, rng.choice((b"\0\2\0\1\0\0\0\1", b"\x40\1\0\0\0\0\0\1\0\2\0\1\0\0\0\2")))),
        (0.2, lambda: encode_one(0xC0, 17, _path(rng, peer, as4=True))),
        (0.1, lambda: encode_one(0xC0, 18, struct.pack("!II", rng.choice((70000, 0, 65001)), 6))),
        (0.2, lambda: encode_one(0xC0, 32, _numbers(rng, (1, 2), 1) * 3 * rng.randint(1, 3))),
        (0.1, lambda: encode_one(0xC0, 35, struct.pack("!I", rng.choice((65001, 65002, 70000))))),
        (0.1, lambda: encode_one(0xC0, 99, rng.randbytes(rng.choice((0, 3, 300))))),
        (0.1, lambda: encode_one(0x80, 98, b"xyz")),
    ]
    parts += [_partial(rng, make()) for chance, make in optional if rng.random() < chance]
    if rng.random() < 0.2:
        rng.shuffle(parts)
    return parts


def _partial(rng: Random, part: bytes) -> bytes:
    """Have some routers before us passed an optional transitive attribute on without knowing it."""
    return bytes([part[0] | 0x20]) + part[1:] if part[0] & 0xC0 == 0xC0 and rng.random() < 0.2 else part


def _spoil(rng: Random, parts: list[bytes]) -> list[bytes]:
    """Make something wrong with one attribute."""
    index = rng.randrange(len(parts))
    part = bytearray(parts[index])
    what = rng.randrange(7)
    if what == 0:
        part[0] ^= rng.choice((0x80, 0x40, 0x20, 0x10))
    elif what == 1:
        part[rng.randrange(len(part))] = rng.randrange(256)
    elif what == 2:
        del part[rng.randrange(1, len(part)) :]
    elif what == 3:
        parts.append(bytes(part))
    elif what == 4:
        parts.pop(index)
        return parts
    elif what == 5:
        part[2] = min(255, part[2] + rng.choice((1, 3, 200)))
    else:
        parts.append(
            encode_one(rng.choice((0x40, 0x80, 0xC0, 0x00)), rng.randrange(256), rng.randbytes(rng.randrange(9)))
        )
    parts[index] = bytes(part)
    return parts


def _routes(rng: Random, afi: Afi, settings_: PeerSettings, least: int = 1) -> bytes:
    add_path = afi in settings_.families and settings_.families[afi].receive_paths
    chosen = rng.sample(PREFIXES[afi], rng.randint(least, 4))
    return b"".join(write_nlri(Nlri(prefix, rng.choice((1, 1, 2, 7))), add_path=add_path) for prefix in chosen)


def _reach(rng: Random, afi: Afi, peer: PeerSettings) -> bytes:
    hop = rng.choice(HOPS6 if afi == Afi.IPV6 or rng.random() < 0.6 else HOPS4)
    hops = hop.value.to_bytes(16 if hop.family == IPV6 else 4, "big")
    if hop.family == IPV6 and rng.random() < 0.3:
        hops += LINK_LOCAL.value.to_bytes(16, "big")
    return encode_one(0x80, 14, struct.pack("!HBB", afi, 1, len(hops)) + hops + b"\0" + _routes(rng, afi, peer, 0))


def update(rng: Random, peer: PeerSettings) -> bytes:
    """Make one UPDATE."""
    withdrawn = announced = b""
    parts: list[bytes] = []
    kind = rng.random()
    if kind < 0.25:
        if rng.random() < 0.5:
            withdrawn = _routes(rng, Afi.IPV4, peer)
        else:
            parts = [encode_one(0x80, 15, struct.pack("!HB", 2, 1) + _routes(rng, Afi.IPV6, peer, 0))]
    elif kind < 0.3:
        return end_of_rib(rng.choice((1, 2)))
    elif kind < 0.65:
        announced = _routes(rng, Afi.IPV4, peer)
        parts = attributes(rng, peer, rng.choice(HOPS4[:3] + HOPS4[:3] + HOPS4))
    else:
        parts = attributes(rng, peer, None)
        parts.insert(0, _reach(rng, Afi.IPV6 if rng.random() < 0.8 else Afi.IPV4, peer))
    if rng.random() < 0.12 and parts:
        parts = _spoil(rng, parts)
    body = b"".join(parts)
    message = bytearray(
        frame(2, struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(body)) + body + announced)
    )
    if rng.random() < 0.02:
        message[rng.randrange(16, len(message))] ^= 1 << rng.randrange(8)
    return bytes(message)


def stream(rng: Random, peer: PeerSettings) -> bytes:
    """Make what a neighbor sends in one go."""
    messages = [update(rng, peer) for _ in range(rng.randint(1, 6))]
    if rng.random() < 0.2:
        messages.insert(rng.randrange(len(messages) + 1), KEEPALIVE)
    if rng.random() < 0.03:
        messages.append(rng.randbytes(rng.randrange(60)))
    data = b"".join(messages)
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data


def prefix(rng: Random) -> Prefix:
    """Choose a prefix."""
    return rng.choice(PREFIXES[rng.choice((Afi.IPV4, Afi.IPV6))])


CONDITIONS: Final = (
    Conditions(),
    Conditions(),
    Conditions(prefix=("10.0.0.0/8 le 24",)),
    Conditions(prefix_length=((24, 48),)),
    Conditions(as_path=("_65003_",)),
    Conditions(as_path=("^$",)),
    Conditions(community=("1:1", "no-export")),
    Conditions(neighbor=("192.0.2.1", "192.0.2.2")),
    Conditions(interface=("lan",)),
    Conditions(origin=("igp",)),
    Conditions(protocol=("static",)),
    Conditions(next_hop=("192.0.2.1",)),
    Conditions(med=((0, 5),)),
    Conditions(tag=((7, 7),)),
)
ACTIONS: Final = (
    Actions(accept=True),
    Actions(accept=True),
    Actions(accept=False),
    Actions(accept=True, local_pref="150", med="+3"),
    Actions(med="9", tag=7),
    Actions(local_pref="-10"),
    Actions(accept=True, prepend=(65001, 65001)),
    Actions(add_community=("1:9",), remove_community=("1:*",)),
    Actions(accept=True, set_communities=(), set_large_communities=(), set_extended_communities=()),
    Actions(add_large_community=("1:2:3",)),
    Actions(accept=True, weight=20, preference=30, origin="egp"),
    Actions(accept=True, next_hop="self"),
    Actions(accept=True, next_hop="peer"),
    Actions(accept=True, next_hop="discard"),
    Actions(accept=True, next_hop="192.0.2.77"),
)


def policies(seed: int, previous: PolicySet | None = None) -> PolicySet:
    """Choose some route policies, in the place of others."""
    rng = Random(seed)
    return PolicySet(
        Policy(
            route_policies={
                name: tuple(
                    Term(if_=rng.choice(CONDITIONS), then=rng.choice(ACTIONS)) for _ in range(rng.randint(1, 4))
                )
                for name in ("a", "b", "c")
            }
        ),
        previous,
    )
