"""What the broker knows of the virtual routers, and what it answers."""

from __future__ import annotations

import errno
from typing import Any

from rsock.broker.authorize import Identity, groups_of, rights_in
from rsock.wire import Right


class Directory:
    """The VRs, as the manager last told."""

    def __init__(self) -> None:
        self._routers: dict[str, dict[str, Any]] = {}
        # VRs that have gone, so that those who had rights there can be told.
        self._gone: dict[str, dict[str, Any]] = {}

    def replace(self, routers: list[dict[str, Any]]) -> None:
        """Take a new list."""
        new = {router["name"]: router for router in routers}
        self._gone = {name: router for name, router in self._routers.items() if name not in new}
        self._routers = new

    def visible(self, identity: Identity) -> list[dict[str, Any]]:
        """List the VRs where an app has any right: the others' names are none of its business."""
        groups = groups_of(identity)
        return [
            {"name": router["name"], "id": router["id"], "state": router["state"], "rights": rights}
            for router in self._routers.values()
            if (rights := rights_in(router["rules"], identity, groups))
        ]

    def may_hear_of(self, name: str, identity: Identity) -> bool:
        """Tell whether an event of a VR concerns an app."""
        router = self._routers.get(name) or self._gone.get(name)
        return router is not None and bool(rights_in(router["rules"], identity, groups_of(identity)))

    def facts(self, name: str) -> dict[str, Any]:
        """Give what an event carries of its VR."""
        router = self._routers.get(name) or self._gone.get(name) or {}
        return {"id": router.get("id", 0), "state": router.get("state", "down") if name in self._routers else "gone"}

    def introduce(self, name: object, want: object, identity: Identity) -> tuple[int, dict[str, Any]]:
        """Answer a request for a VR: an errno, or 0 and where its forwarder listens."""
        router = self._routers.get(name) if isinstance(name, str) else None
        if router is None:
            return errno.ENODEV, {}
        rights = rights_in(router["rules"], identity, groups_of(identity))
        wanted = want if isinstance(want, int) and want else int(sum(Right))
        if not rights & wanted:
            # One without any right learns no more than that it may not.
            return errno.EACCES, {}
        if router["state"] == "down":
            return errno.ENETDOWN, {}
        told: dict[str, Any] = {key: router[key] for key in ("id", "state", "path", "dns") if key in router}
        return 0, {"vr": name, "rights": rights, **told}
