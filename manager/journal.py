"""What the manager must undo, on disk before it is done.

One JSON file for each coupling in run_dir/journal, synced before the device is touched and removed when
the device is back as it was.  A manager that finds entries of a crashed run undoes them first.
Entries of another boot are void: what they describe is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

VERSION: Final = 1
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Entry:
    """A device as it was before it was coupled.

    A `device` was moved whole into the VR's namespace.  A `share` stays, with a filter and a veth for
    one VLAN; `veth` and `vlan` are of such only.
    """

    key: str
    kind: Literal["device", "share"]
    router: str
    device: str
    ifindex: int
    source: str  # path of the namespace it comes from; "" stands for the manager's own
    source_inode: int
    target: str  # name of the VR's namespace
    target_name: str  # of the device there
    mtu: int
    mac: str
    master: str
    flags: int
    clsact: bool = False  # there was one before
    addresses: tuple[str, ...] = ()  # raw netlink bodies, hexadecimal
    routes: tuple[str, ...] = ()
    veth: str = ""
    vlan: int = 0


class Journal:
    """The entries of one run dir."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._boot = _BOOT.read_text().strip()

    def write(self, entry: Entry) -> None:
        """Store an entry for good before returning."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._path(entry.key)
        new = path.with_suffix(".new")
        text = json.dumps({"version": VERSION, "boot": self._boot, **dataclasses.asdict(entry)}, indent=1)
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        self._sync_directory()

    def remove(self, key: str) -> None:
        """Forget an entry: all is as it was."""
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()
            self._sync_directory()

    def entries(self) -> list[Entry]:
        """Give all entries of this boot; what cannot be read was never acted upon."""
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                data: dict[str, Any] = json.loads(path.read_text())
                if data.pop("version") != VERSION or data.pop("boot") != self._boot:
                    path.unlink()
                    continue
                data["addresses"], data["routes"] = tuple(data["addresses"]), tuple(data["routes"])
                found.append(Entry(**data))
            except (ValueError, KeyError, TypeError):
                path.unlink()
        return found

    def close(self) -> None:
        """Remove the directory when nothing is left to undo."""
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    def _path(self, key: str) -> Path:
        return self._directory / f"{key.replace('/', '_')}.json"

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
