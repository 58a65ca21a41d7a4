"""Who an app is, and what it may do in a virtual router.

Over ipc the kernel tells: libzmq puts the peer's credentials, taken when it connected, into the
Peer-Address property of each message (`localhost:uid:gid:pid`).  Supplementary groups come from /proc,
and count only while the process is still that user's.

The forwarder checks each call again, with ports and prefixes; here the question is only whether an app
has any right of the wanted kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsock.wire import Right

ALL_RIGHTS = sum(Right)


@dataclass(frozen=True)
class Identity:
    """A local app."""

    uid: int
    gid: int
    pid: int


def parse_address(address: str) -> Identity | None:
    """Read a Peer-Address; None: it is not one of ipc."""
    parts = address.rsplit(":", 3)
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts[1:]):
        return None
    return Identity(*map(int, parts[1:]))


def groups_of(identity: Identity) -> frozenset[int]:
    """Give all groups of an app."""
    own = frozenset({identity.gid})
    try:
        lines = Path(f"/proc/{identity.pid}/status").read_text().splitlines()
        fields = {name: value.split() for name, _colon, value in (line.partition(":") for line in lines)}
        # The pid may have come to mean another process since it connected.
        if int(fields["Uid"][1]) != identity.uid:
            return own
        return own | frozenset(map(int, fields["Groups"]))
    except (OSError, KeyError, ValueError, IndexError):
        return own


def rights_in(rules: list[dict[str, Any]], identity: Identity, groups: frozenset[int]) -> int:
    """Give the `Right` bits that an app has in a VR: those of the first rule that names it; root has all."""
    if identity.uid == 0:
        return ALL_RIGHTS
    for rule in rules:
        kind = rule["identity"]
        mine = (
            kind == "any"
            or (kind == "uid" and rule["id"] == identity.uid)
            or (kind == "gid" and rule["id"] in groups)
        )  # fmt: skip
        if mine:
            return int(rule["operations"])
    return 0
