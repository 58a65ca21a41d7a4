"""Shared segments for Python, without the C core: create, check, map, read.

    manager --create--> memfd --fds--> forwarder, control (C maps them)
                          |
                          +--reopen_read_only--> Segment (typed access by the generated offsets)

The layout comes from `_layout`, which `build.py` derives from the same headers as the C core.  A
segment of another build is refused by its ABI hash.  Writing to a segment is C's business.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from fastpath._layout import ABI_HASH, CONSTANTS, FIELDS, SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

KIND_TABLES: Final = CONSTANTS["SEGMENT_TABLES"]
KIND_STATE: Final = CONSTANTS["SEGMENT_STATE"]
KIND_LINK: Final = CONSTANTS["SEGMENT_LINK"]
# Virtual: pages exist once they are touched, and the table writer gives back what it frees.
TABLES_SIZE: Final = 256 << 20
STATE_SIZE: Final = SIZES["state_segment"]
LINK_SIZE: Final = SIZES["link_segment"]

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NEEDED_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_ROOT: Final = {KIND_TABLES: "tables_segment", KIND_STATE: "state_segment", KIND_LINK: "link_segment"}
Column = Callable[[], tuple[int, ...]]
_HEADER: Final = struct.Struct("<QQQII32sQ")  # struct segment_header up to created_ns


class SegmentError(OSError):
    """The fd is no segment of this kind, or another build made it."""


def create(kind: int, size: int, router_id: int, name: str) -> int:
    """Make a sealed memfd of `size` bytes with its header filled; the caller owns the fd."""
    encoded = name.encode()
    if len(encoded) >= CONSTANTS["ROUTER_NAME_SIZE"]:
        raise ValueError(f"router name {name!r} is too long")
    if size < SIZES[_ROOT[kind]]:
        raise ValueError(f"{size} bytes cannot hold a {_ROOT[kind]}")
    fd = os.memfd_create(f"anabranch-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.fchmod(fd, 0o600)  # a memfd is born 0777: a reader's process could open it again for writing
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        created = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        os.pwrite(fd, _HEADER.pack(0, ABI_HASH, size, kind, router_id, encoded, created), 0)
        # The magic goes last: a header without it was never finished.
        os.pwrite(fd, struct.pack("<Q", CONSTANTS["SEGMENT_MAGIC"]), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check(fd: int, kind: int) -> int:
    """Compare seals, magic, ABI hash, kind and size; give the size."""
    size = os.fstat(fd).st_size
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise SegmentError(error.errno, "not a sealed memory file") from error
    head = os.pread(fd, _HEADER.size, 0)
    if seals & _NEEDED_SEALS != _NEEDED_SEALS or len(head) < _HEADER.size:
        raise SegmentError(0, "not a sealed segment")
    magic, abi_hash, stated, found, _router_id, _name, _created = _HEADER.unpack(head)
    if magic != CONSTANTS["SEGMENT_MAGIC"]:
        raise SegmentError(0, "not a segment")
    if abi_hash != ABI_HASH:
        raise SegmentError(0, "made by another build")
    if found != kind or stated != size:
        raise SegmentError(0, "another kind or size")
    return size


def reopen_read_only(fd: int) -> int:
    """Open the same memory again without the right to write, to hand to readers."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


class View:
    """A struct inside a segment: fields by name, nested structs as further views.

    Values are read when they are asked for; a single aligned word is never torn.
    """

    __slots__ = ("_buffer", "_fields", "name", "offset")

    def __init__(self, buffer: mmap.mmap | bytes, name: str, offset: int) -> None:
        """Look at the struct called `name` at `offset` bytes from the start."""
        if offset < 0 or offset + SIZES[name] > len(buffer):
            raise ValueError(f"{name} at {offset} lies outside the segment")
        self._buffer = buffer
        self._fields = FIELDS[name]
        self.name = name
        self.offset = offset

    def integer(self, field: str, index: int = 0) -> int:
        """Read an integer field, or one element of an array of integers."""
        start, code, count, _nested = self._fields[field]
        if not code or code == "s" or not 0 <= index < max(count, 1):
            raise KeyError(f"{self.name}.{field}[{index}] is no integer")
        at = self.offset + start + index * struct.calcsize(code)
        value: int = struct.unpack_from("<" + code, self._buffer, at)[0]
        return value

    def integers(self, field: str) -> tuple[int, ...]:
        """Read an array of integers."""
        start, code, count, _nested = self._fields[field]
        if not code or code == "s":
            raise KeyError(f"{self.name}.{field} is no array of integers")
        return struct.unpack_from(f"<{count}{code}", self._buffer, self.offset + start)

    def column(self, field: str, inner: str) -> Column:
        """Give what reads one integer field of all structs of an array, for who does so often."""
        start, _code, count, nested = self._fields[field]
        begin, code, many, _nested = FIELDS[nested][inner]
        if not code or code == "s" or many > 1:
            raise KeyError(f"{self.name}.{field}.{inner} is no integer")
        rest = SIZES[nested] - struct.calcsize(code)
        layout = struct.Struct("<" + f"{rest}x".join(code * count))
        return partial(layout.unpack_from, self._buffer, self.offset + start + begin)

    def octets(self, field: str) -> bytes:
        """Read an array of bytes."""
        start, code, count, _nested = self._fields[field]
        if code not in {"B", "s"}:
            raise KeyError(f"{self.name}.{field} is no array of bytes")
        begin = self.offset + start
        return bytes(self._buffer[begin : begin + count])

    def text(self, field: str) -> str:
        """Read a NUL-terminated string."""
        return self.octets(field).split(b"\0", 1)[0].decode("utf-8", "replace")

    def view(self, field: str, index: int = 0) -> View:
        """Look at a nested struct, or one element of an array of structs."""
        start, _code, count, nested = self._fields[field]
        if not nested or not (0 <= index < count or (count == 0 and index >= 0)):
            raise KeyError(f"{self.name}.{field}[{index}] is no struct")
        return View(self._buffer, nested, self.offset + start + index * SIZES[nested])

    def views(self, field: str) -> Iterator[View]:
        """Look at each element of an array of structs."""
        for index in range(self._fields[field][2]):
            yield self.view(field, index)


class Segment(View):
    """A whole segment, mapped read-only."""

    __slots__ = ("_fd", "_map", "kind", "size")

    def __init__(self, fd: int, kind: int) -> None:
        """Check and map; the fd stays the caller's and may be closed at once."""
        self.size = check(fd, kind)
        self.kind = kind
        self._map = mmap.mmap(fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._fd = os.dup(fd)
        super().__init__(self._map, _ROOT[kind], 0)

    @property
    def buffer(self) -> mmap.mmap:
        """The mapping itself, for readers that follow offsets."""
        return self._map

    @property
    def router(self) -> str:
        """Name of the virtual router that the segment belongs to."""
        return self.view("header").text("router_name")

    def u64(self, path: str) -> int:
        """Read one integer by a dotted path, `state_segment.ports[3].progress`; the root's name may stand first."""
        parts = path.split(".")
        if parts[0] == self.name:
            del parts[0]
        here: View = self
        for part in parts[:-1]:
            here = here.view(*_indexed(part))
        return here.integer(*_indexed(parts[-1]))

    def at(self, name: str, offset: int) -> View:
        """Look at a struct that an offset in the segment leads to."""
        return View(self._map, name, offset)

    def used(self, field: str, key: str, limit: int | None = None) -> Iterator[tuple[int, View]]:
        """Look at the elements of an array whose integer `key` is not 0: (index, view of a copy); `limit`: the first.

        Reading a hole through a mapping would allocate its pages for good; reading the fd does not.
        """
        start, _code, count, nested = self._fields[field]
        count = count if limit is None else min(count, limit)
        size = SIZES[nested]
        key_start, key_code, _count, _nested = FIELDS[nested][key]
        width = struct.calcsize(key_code)
        copy = os.pread(self._fd, count * size, start)
        unused = bytes(width)
        for index in range(len(copy) // size):
            at = index * size + key_start
            if copy[at : at + width] != unused:
                yield index, View(copy, nested, index * size)

    def copied(self, field: str, index: int = 0) -> View:
        """Look at a copy of a nested struct: its fields belong to one moment, or nearly."""
        there = self.view(field, index)
        return View(os.pread(self._fd, SIZES[there.name], there.offset), there.name, 0)

    def close(self) -> None:
        """Unmap; views of the segment must not be used any more."""
        self._map.close()
        os.close(self._fd)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unmap."""
        self.close()


def _indexed(part: str) -> tuple[str, int]:
    field, bracket, rest = part.partition("[")
    return field, int(rest.rstrip("]")) if bracket else 0
