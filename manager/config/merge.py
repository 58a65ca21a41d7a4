"""All files of a configuration directory as one tree.

Files are read in the order of their names.  Maps down to the sections of a router are joined, so that
a router may have a file of its own or several; below that, and for every other value, a key may be
defined once over all files.  `secrets/` is apart, and names that begin with a dot are the editors'.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from manager.config.errors import ConfigError, Mark
from manager.config.yaml_source import Node, Source, read
from vrouter.config.constraints import clip

JOINED_DEPTH: Final = 4  # the root, `routers`, a router, its `interfaces` and `static`
Path_ = tuple[str | int, ...]


@dataclass
class Marks:
    """Where each value of a tree stands."""

    root: Node
    sources: dict[str, Source] = field(default_factory=dict)

    @property
    def incomplete(self) -> bool:
        """Tell whether a file could not be read to its end: what seems to be missing may stand there."""
        return any(source.root is None and source.errors for source in self.sources.values())

    def node(self, path: Path_) -> Node:
        """Give the node at `path`, or the nearest one above it.

        A part of the path that the file does not have is passed over: the 0 of a map that stands for
        a list of one, and the tags of the validator.
        """
        node = self.root
        for part in path:
            node = self._child(node, part) or node
        return node

    def has(self, path: Path_) -> bool:
        """Tell whether a file says something at `path`."""
        node: Node | None = self.root
        for part in path:
            node = self._child(node, part) if node is not None else None
        return node is not None

    def keys(self, path: Path_) -> list[str]:
        """Give the keys of the map at `path`."""
        node = self.node(path)
        return list(node.value) if self.has(path) and isinstance(node.value, dict) else []

    def key(self, path: Path_) -> Mark:
        """Give the place of the key at `path`; of the value where there is no key."""
        node = self.node(path)
        return node.key_mark or node.mark

    def value(self, path: Path_) -> Mark:
        """Give the place of the value at `path`; of the key where the value is empty or a map."""
        node = self.node(path)
        whole = node.value is None or isinstance(node.value, dict)
        return node.key_mark if node.key_mark is not None and whole else node.mark

    def source(self, path: Path_) -> str:
        """Give "FILE:LINE" of the key at `path`, or of the nearest one above; "" for none."""
        mark = self.key(path)
        return str(mark) if mark.line else mark.file

    def secret(self, path: Path_) -> bool:
        """Tell whether the value at `path` came from a secret."""
        return self.node(path).secret

    def error(self, mark: Mark, message: str, help_text: str = "") -> ConfigError:
        """Make an error at `mark` with its source line."""
        source = self.sources.get(mark.file)
        text = source.lines[mark.line - 1] if source is not None and 0 < mark.line <= len(source.lines) else ""
        return ConfigError(mark.file, mark.line, mark.column, message, help_text, mark.length, text)

    @staticmethod
    def _child(node: Node, part: str | int) -> Node | None:
        if isinstance(node.value, dict):
            found = node.value.get(str(part))
            if found is None and isinstance(part, str) and "/" in part:
                # A prefix that the file writes in another way than `ipaddress`.
                found = next((child for key, child in node.value.items() if key.lower() == part.lower()), None)
            return found
        if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            return node.value[part]
        return None


def files(conf_dir: Path, errors: list[ConfigError]) -> Iterator[Path]:
    """Give the YAML files of a directory, or the one that is named itself; a folder that cannot be read is an error."""
    if conf_dir.is_file():
        yield conf_dir
        return

    def failed(error: OSError) -> None:
        """What is in there is not gone from the configuration for that."""
        if not isinstance(error, FileNotFoundError):
            errors.append(ConfigError(str(error.filename), 0, 0, f"cannot be read: {error.strerror}"))

    for folder, names, found in os.walk(conf_dir, onerror=failed):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if Path(folder) == conf_dir and "secrets" in names:
            names.remove("secrets")
        yield from (Path(folder, name) for name in sorted(found) if name.endswith(".yaml") and not name.startswith("."))


def merge(conf_dir: Path, *additions: Path) -> tuple[Marks, list[ConfigError]]:
    """Read all files of `conf_dir` and join them; directories in `additions` may be missing or empty."""
    marks = Marks(Node({}, Mark(str(conf_dir), 0, 0)))
    errors: list[ConfigError] = []
    try:
        secrets = (conf_dir.parent if conf_dir.is_file() else conf_dir) / "secrets"
        if not conf_dir.exists():
            return marks, [ConfigError(str(conf_dir), 0, 0, "no such file or directory")]
        named = [path for directory in (conf_dir, *additions) for path in sorted(files(directory, errors))]
    except OSError as error:  # a folder above it
        return marks, [ConfigError(str(conf_dir), 0, 0, f"cannot be read: {error.strerror}")]
    for path in named:
        source = read(path, secrets)
        marks.sources[source.file] = source
        errors += source.errors
        if source.root is None or (source.root.value is None and not source.root.key_mark):
            continue  # an empty file, or one of comments only
        if not isinstance(source.root.value, dict):
            errors.append(marks.error(source.root.mark, "a map is expected here", "begin with a key, as 'routers:'"))
            continue
        _join(marks, marks.root, source.root, 1, errors)
    if not marks.sources:
        errors.append(ConfigError(str(conf_dir), 0, 0, "holds no configuration", "files are named *.yaml"))
    return marks, errors


def _join(marks: Marks, into: Node, new: Node, depth: int, errors: list[ConfigError]) -> None:
    assert isinstance(into.value, dict)
    assert isinstance(new.value, dict)
    for key, node in new.value.items():
        known = into.value.get(key)
        if known is None and depth < JOINED_DEPTH and isinstance(node.value, dict):
            # A map of its own: what other files add must not reach the places that alias this one.
            into.value[key] = own = Node({}, node.mark, node.key_mark)
            _join(marks, own, node, depth + 1, errors)
        elif known is None:
            into.value[key] = node
        elif depth < JOINED_DEPTH and isinstance(known.value, dict | None) and isinstance(node.value, dict | None):
            if known.value is None:
                known.value = {}
            if node.value is not None:
                _join(marks, known, node, depth + 1, errors)
        else:
            first, second = known.key_mark or known.mark, node.key_mark or node.mark
            errors.append(marks.error(second, f"duplicate key '{clip(key)}' (first at {first})"))
