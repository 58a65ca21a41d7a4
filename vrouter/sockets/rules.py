"""The rules of the socket layer, from configuration to what the forwarder reads.

The broker judges by the same rules, from the configuration; the forwarder is the one that enforces them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vrouter.config.router import Quota, Rule
from vrouter.net.address import Prefix, parse_prefix

# enum rule_identity; a unit test compares.
IDENTITIES: Final = {"uid": 1, "gid": 2, "curve": 3, "any": 4}
RELAY: Final = 5
_Z85: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """One rule in numbers; first match decides."""

    identity: int
    id: int
    operations: int
    curve_key: bytes
    ports: tuple[tuple[int, int], ...]
    prefixes: tuple[Prefix, ...]
    quota: Quota = Quota()  # noqa: RUF009 - frozen


def entries(rules: tuple[Rule, ...], relay_uid: int = 0) -> tuple[RuleEntry, ...]:
    """Turn configured rules into entries, in their order; the uid of the relay stands before them."""
    relay = (RuleEntry(RELAY, relay_uid, 0, b"", (), ()),) if relay_uid else ()
    return relay + tuple(
        RuleEntry(
            IDENTITIES[rule.identity],
            rule.id,
            rule.operations,
            decode_z85(rule.curve_key.decode()),
            rule.ports,
            tuple(parse_prefix(prefix) for prefix in rule.prefixes),
            rule.quota,
        )
        for rule in rules
    )


def decode_z85(text: str) -> bytes:
    """Decode a CURVE key as operators write it (ZeroMQ RFC 32).  Raises ValueError."""
    data = b""
    for start in range(0, len(text), 5):
        number = 0
        for character in text[start : start + 5]:
            number = number * 85 + _Z85.index(character)
        if number >= 1 << 32:
            raise ValueError("not Z85")
        data += number.to_bytes(4, "big")
    return data
