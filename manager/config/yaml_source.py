"""YAML files as a tree of nodes that know where they stand.

Every scalar stays the text that the operator wrote; a plain empty one, `~` and `null` are None.  The
schema gives the types.  Refused, with a place: duplicate keys, a second document, tabs that
indent, NUL and other control characters, a byte order mark, merge keys (`<<`), every tag but `!secret`,
and more nesting, size or alias expansion than a configuration has.

The tree is made from libyaml's events without recursion, so that no input can exhaust a stack.
`!secret NAME` stands for the content of secrets/NAME, a file that nobody but its owner may read.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from manager.config.errors import ConfigError, Mark
from vrouter.config.constraints import clip

MAX_FILE_SIZE: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 1_000_000  # of one file, aliases expanded
MAX_ALIASED: Final = 100_000  # of them, by aliases
MAX_SECRET_SIZE: Final = 4096
MAX_FILE_ERRORS: Final = 50
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS: Final = {"", "~", "null", "Null", "NULL"}
# What YAML calls not printable, and the line breaks that editors do not count as such.
_FORBIDDEN: Final = re.compile(
    r"[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)"
)
_TAB_INDENT: Final = re.compile(r"^ *\t[ \t]*(?=[^ \t#\r\n])", re.MULTILINE)
_SECRET_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

# Words of libyaml that mean little to somebody who does not know its insides.
_WORDING: Final = {
    "mapping values are not allowed in this context": (
        "a ':' does not fit here",
        "check the indentation of this line, and quote a value that holds ': '",
    ),
    "could not find expected ':'": ("a ':' is missing after the key", "write 'key: value'"),
    "did not find expected key": ("this does not fit the lines before it", "keys of one map begin in the same column"),
    "did not find expected '-' indicator": (
        "this does not fit the list before it",
        "items of one list begin with '-' in the same column",
    ),
    "found character that cannot start any token": ("a value cannot begin with this character", "quote it"),
    "did not find expected ',' or ']'": ("a ',' or ']' is missing", ""),
    "did not find expected ',' or '}'": ("a ',' or '}' is missing", ""),
    "found unexpected end of stream": ("the file ends within a value", "close the quote or the bracket"),
    "found undefined alias": ("no anchor of this name stands before it in this file", "anchors do not cross files"),
    "block sequence entries are not allowed in this context": (
        "a list cannot begin here",
        "begin it on a line of its own",
    ),
}


@dataclass(slots=True)
class Node:
    """A value: None or text (scalar), dict of nodes (map), list of nodes (list)."""

    value: str | dict[str, Node] | list[Node] | None
    mark: Mark
    key_mark: Mark | None = None  # of the key it stands under, when it stands in a map
    size: int = 1  # nodes in it, itself included
    secret: bool = False

    def children(self) -> Iterator[tuple[str | int, Node]]:
        """Give keys, or positions, and their nodes."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)


@dataclass
class Source:
    """A file as it was read: its nodes, its lines, what is wrong with it."""

    file: str
    lines: list[str] = field(default_factory=list)
    root: Node | None = None
    errors: list[ConfigError] = field(default_factory=list)

    def error(self, mark: Mark, message: str, help_text: str = "") -> None:
        """Note an error at `mark`."""
        text = self.lines[mark.line - 1] if 0 < mark.line <= len(self.lines) else ""
        self.errors.append(ConfigError(mark.file, mark.line, mark.column, message, help_text, mark.length, text))


def read(path: Path, secrets: Path) -> Source:
    """Read one file.  Never raises for what the file holds."""
    source = Source(str(path))
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "rb") as stream:
            if not _holds_all(os.fstat(stream.fileno())):
                source.errors.append(ConfigError(source.file, 0, 0, "cannot be read: not a file"))
                return source
            data = stream.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        source.errors.append(ConfigError(source.file, 0, 0, f"cannot be read: {error.strerror}"))
        return source
    return parse(data, source, secrets)


def _holds_all(status: os.stat_result) -> bool:
    """Tell whether all that will ever be read is there: a pipe would have the manager wait for its writer."""
    # A link to /dev/null masks a file.
    return stat.S_ISREG(status.st_mode) or (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3))


def parse(data: bytes, source: Source, secrets: Path) -> Source:
    """Turn the bytes of a file into nodes, within `source`."""
    text = _decode(data, source)
    if text is None:
        return source
    builder = _Builder(source, secrets)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if not builder.take(event):
                break
    except yaml.MarkedYAMLError as error:
        _note_yaml_error(source, error)
        return source
    except yaml.YAMLError as error:
        source.error(Mark(source.file, 1, 1), f"not YAML: {clip(str(error))}")
        return source
    source.root = builder.root
    return source


def _decode(data: bytes, source: Source) -> str | None:
    """Give the text if it is text that YAML allows; else note where it is not."""
    start = Mark(source.file, 1, 1)
    if len(data) > MAX_FILE_SIZE:
        source.error(start, f"the file is larger than {MAX_FILE_SIZE >> 20} MiB")
        return None
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        source.error(start, "the file begins with a byte order mark", "save it as UTF-8 without BOM")
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        source.lines = data.decode(errors="replace").split("\n")
        source.error(
            _position(source.file, before, len(before)),
            f"the byte 0x{data[error.start]:02x} is not UTF-8",
            "save the file as UTF-8",
        )
        return None
    source.lines = [line.removesuffix("\r") for line in text.split("\n")]
    bad = _FORBIDDEN.search(text)
    if bad is not None:
        name = "NUL" if bad[0] == "\0" else f"U+{ord(bad[0]):04X}"
        source.error(_position(source.file, text, bad.start()), f"the character {name} is not allowed here")
        return None
    tabs = list(_TAB_INDENT.finditer(text))[:MAX_FILE_ERRORS]
    for tab in tabs:
        at = text.index("\t", tab.start())
        source.error(_position(source.file, text, at), "a tab indents this line", "indent with spaces")
    return None if tabs else text


def _position(file: str, text: str, index: int) -> Mark:
    line_start = text.rfind("\n", 0, index) + 1
    return Mark(file, text.count("\n", 0, index) + 1, index - line_start + 1)


def _note_yaml_error(source: Source, error: yaml.MarkedYAMLError) -> None:
    place = error.problem_mark or error.context_mark
    line, column = (place.line + 1, place.column + 1) if place is not None else (1, 1)
    while line > 1 and (line > len(source.lines) or not source.lines[line - 1].strip()):
        line -= 1  # an end of file is best shown where its last text stands
        column = len(source.lines[line - 1]) + 1 if line <= len(source.lines) else 1
    problem = error.problem or "not YAML"
    message, hint = _WORDING.get(problem, (f"not YAML: {problem}", ""))
    source.error(Mark(source.file, line, column), message, hint)


@dataclass(slots=True)
class _Open:
    """A map or list whose end has not come yet."""

    node: Node
    anchor: str | None
    key: str | None = None
    key_mark: Mark | None = None
    wants_key: bool = True
    skip: bool = False  # the next value belongs to a key that was refused


class _Builder:
    """Builds nodes from events; `take` answers False when reading on is pointless."""

    def __init__(self, source: Source, secrets: Path) -> None:
        self.root: Node | None = None
        self._source = source
        self._secrets = secrets
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}  # None: not complete yet
        self._documents = 0
        self._nodes = 0
        self._aliased = 0

    def take(self, event: Any) -> bool:
        """Take the next event."""
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            return self._begin(event)
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            return self._end()
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._error(self._mark(event), "a second document begins here", "write it to a file of its own")
                return False
        return True

    def _error(self, mark: Mark, message: str, help_text: str = "") -> bool:
        self._source.error(mark, message, help_text)
        return len(self._source.errors) < MAX_FILE_ERRORS

    def _mark(self, event: Any) -> Mark:
        start, end = event.start_mark, event.end_mark
        length = end.column - start.column if end.line == start.line else 1
        return Mark(self._source.file, start.line + 1, start.column + 1, max(1, length))

    def _count(self, mark: Mark) -> bool:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._error(mark, f"the file holds more than {MAX_NODES} values")
            return False
        return True

    def _is_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].node.value, dict) and self._stack[-1].wants_key

    def _scalar(self, event: Any) -> bool:
        mark = self._mark(event)
        if not self._count(mark):
            return False
        plain = event.implicit[0] and not event.style
        if self._is_key():
            return self._key(event, mark, plain)
        node = Node(None if plain and event.value in _NULLS else event.value, mark)
        if event.tag is not None:
            if event.tag != "!secret":
                self._error(mark, f"the tag '{clip(event.tag)}' is not allowed", "quote the value to keep it text")
                return self._place(node, refused=True)
            secret = self._secret(event.value, mark)
            if secret is None:
                return self._place(node, refused=True)
            node = secret
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return self._place(node)

    def _key(self, event: Any, mark: Mark, plain: bool) -> bool:
        top = self._stack[-1]
        top.wants_key, top.key, top.key_mark = False, event.value, mark
        assert isinstance(top.node.value, dict)
        known = top.node.value.get(event.value)
        if event.tag is not None or event.anchor is not None:
            top.skip = True
            return self._error(mark, "a key takes neither tag nor anchor")
        if plain and event.value == "<<":
            top.skip = True
            return self._error(mark, "merge keys ('<<') are not supported", "write the values out, or use 'defaults'")
        if plain and event.value in _NULLS:
            top.skip = True
            return self._error(mark, "a key is empty")
        if known is not None and known.key_mark is not None:
            top.skip = True
            return self._error(mark, f"duplicate key '{clip(event.value)}' (first at line {known.key_mark.line})")
        return True

    def _begin(self, event: Any) -> bool:
        mark = Mark(self._source.file, event.start_mark.line + 1, event.start_mark.column + 1)
        if not self._count(mark):
            return False
        if self._is_key():
            self._error(mark, "a key must be a word", "quote a value that begins with '{' or '['")
            return False
        if len(self._stack) >= MAX_DEPTH:
            self._error(mark, f"nested deeper than {MAX_DEPTH} levels")
            return False
        if event.tag is not None and not self._error(mark, f"the tag '{clip(event.tag)}' is not allowed"):
            return False
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        is_map = isinstance(event, yaml.MappingStartEvent)
        self._stack.append(_Open(Node({} if is_map else [], mark), event.anchor))
        return True

    def _end(self) -> bool:
        done = self._stack.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = done.node
        return self._place(done.node)

    def _alias(self, event: Any) -> bool:
        mark = self._mark(event)
        if self._is_key():
            self._error(mark, "an alias cannot be a key")
            return False
        if event.anchor not in self._anchors:
            self._error(
                mark, f"no anchor '&{clip(event.anchor)}' stands before this alias", "anchors do not cross files"
            )
            return self._place(Node(None, mark), refused=True)
        target = self._anchors[event.anchor]
        if target is None:
            self._error(mark, "an alias cannot stand within what it names")
            return False
        self._aliased += target.size
        self._nodes += target.size
        if self._aliased > MAX_ALIASED or self._nodes > MAX_NODES:
            self._error(mark, f"the aliases of this file expand to more than {MAX_ALIASED} values")
            return False
        return self._place(Node(target.value, target.mark, None, target.size, target.secret))

    def _place(self, node: Node, *, refused: bool = False) -> bool:
        """Put a complete node where it belongs; a refused one nowhere, so that one mistake is one error."""
        if not self._stack:
            self.root = node
            return True
        top = self._stack[-1]
        top.node.size += node.size
        top.skip |= refused
        if isinstance(top.node.value, list):
            if not top.skip:
                top.node.value.append(node)
            top.skip = False
        elif isinstance(top.node.value, dict) and top.key is not None:
            node.key_mark = top.key_mark
            if not top.skip:
                top.node.value[top.key] = node
            top.wants_key, top.skip = True, False
        return True

    def _secret(self, name: str, mark: Mark) -> Node | None:
        """Read the file behind `!secret NAME`."""
        path = self._secrets / name
        problem = ""
        if not _SECRET_NAME.fullmatch(name):
            problem = f"'{clip(name)}' is no name of a secret"
        else:
            try:
                return Node(_read_secret(path), mark, secret=True)
            except OSError as error:
                problem = f"{path}: {error.strerror}"
            except ValueError as error:
                problem = f"{path}: {error}"
        self._error(mark, problem, f"a secret is a file in {self._secrets} with mode 0600")
        return None


def _read_secret(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a file")
        if status.st_mode & 0o177:
            raise ValueError(f"has mode {stat.S_IMODE(status.st_mode):04o}: others can read it")
        data = stream.read(MAX_SECRET_SIZE + 1)
    if len(data) > MAX_SECRET_SIZE:
        raise ValueError(f"larger than {MAX_SECRET_SIZE} bytes")
    text = data.decode().removesuffix("\n")
    if not text.isprintable():
        raise ValueError("holds more than one line of text")
    return text
