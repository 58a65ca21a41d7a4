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

import structlog

VERSION: Final = 2
SHORTEST_BODY: Final = 8  # struct ifaddrmsg
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger()


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
    gro: bool = False  # generic receive offload was on


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
        try:
            with new.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:  # as on a full disk
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._sync_directory()

    def remove(self, key: str) -> None:
        """Forget an entry: all is as it was."""
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()
            self._sync_directory()

    def entries(self) -> list[Entry]:
        """Give all entries of this boot.

        Entries are replaced whole, so one that cannot be read was damaged by the disk or by hand: it is
        put aside for the operator, and nothing is done to any device on its account.
        """
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                data: object = json.loads(path.read_text())
                if isinstance(data, dict) and (data.get("version"), data.get("boot")) != (VERSION, self._boot):
                    path.unlink()
                    continue
                found.append(_parse(data))
            except (OSError, ValueError, RecursionError) as error:
                log.warning("journal entry is damaged: put aside", path=str(path), reason=str(error))
                with contextlib.suppress(OSError):
                    path.replace(path.with_suffix(".damaged"))
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


def _parse(data: object) -> Entry:
    """Read an entry; ValueError where it is not exactly one."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(Entry)}
    if not isinstance(data, dict) or data.keys() != fields.keys() | {"version", "boot"}:
        raise ValueError("other fields than an entry has")
    values: dict[str, Any] = {name: data[name] for name in fields}
    for name, kind in fields.items():
        value = values[name]
        if kind == "tuple[str, ...]" and isinstance(value, list):
            values[name] = tuple(_hexadecimal(text) for text in value)
        elif kind in {"int", "bool"}:
            if type(value).__name__ != kind:
                raise ValueError(f"{name} is no {kind}")
        elif not isinstance(value, str) or "\0" in value:
            raise ValueError(f"{name} is no text")
    if values["kind"] not in {"device", "share"} or "/" in values["target"]:
        raise ValueError("no kind of coupling, or no namespace of ours")
    return Entry(**values)


def _hexadecimal(text: object) -> str:
    if not isinstance(text, str) or len(bytes.fromhex(text)) < SHORTEST_BODY:
        raise ValueError("no netlink message")
    return text
