"""The two maps of a VR's offload (abi/bypass.h), whatever programs use them: made, checked, told to a forwarder."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from fastpath._layout import CONSTANTS, SIZES
from manager import bpf_objects

PROGRAM: Final = "offload"  # whose maps they are; all programs have the same
SMALLEST: Final = 1 << 20  # bytes of the routes' map
FIRST: Final = 1 << 22  # that a new one has: its direct table for IPv4 then has a place for each /18
LARGEST: Final = 1 << 28
_PAGE: Final = mmap.PAGESIZE
_MESSAGE: Final = struct.Struct("<QQII")  # rsock_offload
NOTHING: Final = _MESSAGE.pack(0, 0, 0, 0)


class RefusedError(Exception):
    """A device cannot have this offload; the text says why."""


def processors() -> int:
    """Give how many processors this machine can have: a program may run on each."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").rpartition("-")[2]) + 1


def _links_bytes(count: int) -> int:
    return SIZES["bypass_links"] + count * SIZES["bypass_processor"]


def _check_map(name: str, fd: int, size: int) -> None:
    """Refuse what is no map of this kind and size."""
    wanted = replace(bpf_objects.map_kind(PROGRAM, name), value=size)
    if bpf_objects.kind_of(fd) != wanted:
        raise ValueError(f"its map of {name} is another thing")


@dataclass(frozen=True)
class Map:
    """A map of one value, mapped to look into."""

    fd: int
    size: int
    memory: mmap.mmap

    @classmethod
    def of(cls, fd: int, size: int) -> Map:
        """Map it; the fd becomes ours."""
        try:
            return cls(fd, size, mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ))
        except OSError:
            os.close(fd)
            raise

    @classmethod
    def make(cls, name: str, size: int) -> Map:
        """Make it; the size is rounded up to whole pages."""
        whole = -(-size // _PAGE) * _PAGE
        return cls.of(bpf_objects.create_map(replace(bpf_objects.map_kind(PROGRAM, name), value=whole), name), whole)

    def word(self, offset: int) -> int:
        """Read a word."""
        return int(struct.unpack_from("=Q", self.memory, offset)[0])

    def close(self) -> None:
        """Unmap and close."""
        self.memory.close()
        os.close(self.fd)


@dataclass
class Maps:
    """Both."""

    links: Map
    fib: Map

    @classmethod
    def make(cls) -> Self:
        """Make them, for as many processors as there can be."""
        count = processors()
        if count > CONSTANTS["BYPASS_CPUS"]:
            raise OSError(0, f"this machine has {count} processors, at most {CONSTANTS['BYPASS_CPUS']} are served")
        links = Map.make("links", _links_bytes(count))
        try:
            return cls(links, Map.make("fib", FIRST))
        except OSError:
            links.close()
            raise

    @classmethod
    def adopted(cls, body: bytes, fds: list[int]) -> Self:
        """Take those that a forwarder has described; the fds become ours.

        Raises ValueError and OSError where they are none of ours: a file could shrink under whoever maps it.
        """
        try:
            links_bytes, fib_bytes, _processors, _reserved = _MESSAGE.unpack_from(body)
            links_fd, fib_fd = fds
            _check_map("links", links_fd, links_bytes)
            _check_map("fib", fib_fd, fib_bytes)
            if links_bytes < _links_bytes(processors()) or fib_bytes < SMALLEST:
                raise ValueError("the maps of its offload are too small")
        except (OSError, ValueError, struct.error):
            for fd in fds:
                os.close(fd)
            raise
        links = Map.of(links_fd, links_bytes)
        try:
            return cls(links, Map.of(fib_fd, fib_bytes))
        except OSError:
            links.close()
            raise

    @property
    def fds(self) -> dict[str, int]:
        """Give what a program is loaded with."""
        return {"links": self.links.fd, "fib": self.fib.fd}

    @property
    def constants(self) -> dict[str, int]:
        """Give what it has to know of them."""
        return {"processors": processors(), "fib_size": self.fib.size}

    @property
    def sizes(self) -> dict[str, int]:
        """Give the sizes of what each program has for itself."""
        return {"memory": processors() * SIZES["bypass_memory"]}

    def message(self) -> bytes:
        """Describe them to a forwarder."""
        return _MESSAGE.pack(self.links.size, self.fib.size, processors(), 0)

    def grow(self, size: int) -> None:
        """Have room for more routes; all must be told, and programs loaded anew."""
        old, self.fib = self.fib, Map.make("fib", size)
        old.close()

    def close(self) -> None:
        """Close both."""
        self.links.close()
        self.fib.close()
