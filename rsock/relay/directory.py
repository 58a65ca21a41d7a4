"""What an app may see: the VRs where a rule names its key.

The forwarder judges each call again, with ports and prefixes.  A key that no rule names learns nothing at all: it is
refused before it can ask.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any


class Directory:
    """The VRs, as the manager last told."""

    def __init__(self) -> None:
        self._routers: dict[str, dict[str, Any]] = {}
        self._gone: dict[str, dict[str, Any]] = {}
        self.keys: frozenset[bytes] = frozenset()

    def replace(self, routers: list[dict[str, Any]]) -> None:
        """Take a new list."""
        new = {router["name"]: router for router in routers}
        self._gone = {name: router for name, router in self._routers.items() if name not in new}
        self._routers = new
        self.keys = frozenset(
            bytes(rule["curve_key"]) for router in routers for rule in router["rules"] if rule["identity"] == "curve"
        )

    def _known(self, name: object) -> dict[str, Any] | None:
        return (self._routers.get(name) or self._gone.get(name)) if isinstance(name, str) else None

    def visible(self, key: bytes) -> list[dict[str, Any]]:
        """List the VRs where a key has any right."""
        return [
            {"name": router["name"], "id": router["id"], "state": router["state"], "rights": rights}
            for router in self._routers.values()
            if (rights := rights_in(router, key))
        ]

    def may_hear_of(self, name: str, key: bytes) -> bool:
        """Tell whether an event of a VR concerns a key."""
        router = self._known(name)
        return router is not None and bool(rights_in(router, key))

    def facts(self, name: str) -> dict[str, Any]:
        """Give what an event carries of its VR."""
        router = self._known(name) or {}
        return {"id": router.get("id", 0), "state": router.get("state", "down") if name in self._routers else "gone"}

    def introduce(self, name: object, want: object, key: bytes) -> tuple[int, dict[str, Any]]:
        """Answer a request for a VR: an errno, or 0 and what is known of it, with the forwarder's path."""
        router = self._routers.get(name) if isinstance(name, str) else None
        # That there is such a VR is nothing for those without any right there.
        if router is None or not (rights := rights_in(router, key)):
            return errno.ENODEV, {}
        if isinstance(want, int) and want and not rights & want:
            return errno.EACCES, {}
        if router["state"] == "down":
            return errno.ENETDOWN, {}
        about = {name: router[name] for name in ("name", "id", "state", "path")}
        return 0, about | {"rights": rights, "dns": _name_servers(router["path"])}


def _name_servers(path: str) -> dict[str, list[str]]:
    """Tell whom apps in a VR ask for names: it stands beside the forwarder's socket, as resolv.conf(5)."""
    found: dict[str, list[str]] = {"servers": [], "search": []}
    try:
        lines = Path(path).with_suffix(".resolv.conf").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for words in map(str.split, lines):
        if len(words) > 1 and words[0] in {"nameserver", "search"}:
            found["servers" if words[0] == "nameserver" else "search"] += words[1:]
    return found


def rights_in(router: dict[str, Any], key: bytes) -> int:
    """Give the `Right` bits of the first rule that names a key."""
    for rule in router["rules"]:
        if rule["identity"] == "any" or (rule["identity"] == "curve" and bytes(rule["curve_key"]) == key):
            return int(rule["operations"])
    return 0
