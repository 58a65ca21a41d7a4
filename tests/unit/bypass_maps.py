"""The maps of the XDP offload for a router in memory: real ones, or files in their place; the test is the program."""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING, Any, Final, Self

from fastpath._layout import CONSTANTS, FIELDS, SIZES
from fastpath.binding import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.harness import Router

PROCESSORS: Final = 2
FIB_BYTES: Final = 1 << 20
_EXACT: Final = SIZES["bypass_links"] + PROCESSORS * SIZES["bypass_processor"]
LINKS_BYTES: Final = -(-_EXACT // mmap.PAGESIZE) * mmap.PAGESIZE


def in_memory(name: str, size: int) -> int:
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    return fd


class Maps:
    """Both maps, served by a router and its writer."""

    def __init__(
        self, router: Router, make: Callable[[str, int], int] = in_memory, *, fib_bytes: int = FIB_BYTES
    ) -> None:
        self.router = router
        self.fib_bytes = fib_bytes
        self.fds = {"links": make("links", LINKS_BYTES), "fib": make("fib", fib_bytes)}
        self.links = mmap.mmap(self.fds["links"], LINKS_BYTES)
        self.fib = mmap.mmap(self.fds["fib"], fib_bytes)
        check(lib.table_writer_mirror(router.writer, self.fds["fib"], fib_bytes))
        self.serve()

    def serve(self) -> None:
        """Give the maps to the router's core."""
        fds = [os.dup(self.fds["links"]), os.dup(self.fds["fib"])]
        check(lib.core_offload(self.router.core, fds, LINKS_BYTES, self.fib_bytes, PROCESSORS))

    def end(self) -> None:
        """Take them away from both."""
        check(lib.core_offload(self.router.core, ffi.NULL, 0, 0, 0))
        check(lib.table_writer_mirror(self.router.writer, -1, 0))

    def close(self) -> None:
        self.links.close()
        self.fib.close()
        for fd in self.fds.values():
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what the program sees ---

    def _read(self, memory: Any, struct_name: str, field: str, at: int = 0) -> int:
        offset, code, _count, _nested = FIELDS[struct_name][field]
        return int(struct.unpack_from(f"={code}", memory, at + offset)[0])

    def port(self, number: int) -> dict[str, int]:
        at = FIELDS["bypass_links"]["ports"][0] + number * SIZES["bypass_port"]
        return {field: self._read(self.links, "bypass_port", field, at) for field in ("until_ns", "interface", "state")}

    def interface(self, index: int) -> dict[str, int]:
        at = FIELDS["bypass_links"]["interfaces"][0] + index * SIZES["bypass_interface"]
        found = {field: self._read(self.links, "bypass_interface", field, at) for field in ("port", "mtu")}
        return {**found, "port": found["port"] & 0xFFFF}

    def _neighbor_places(self) -> list[int]:
        first = FIELDS["bypass_links"]["neighbors"][0]
        places = range(
            first, first + CONSTANTS["BYPASS_NEIGHBORS"] * SIZES["bypass_neighbor"], SIZES["bypass_neighbor"]
        )
        return [at for at in places if self._read(self.links, "bypass_neighbor", "link", at)]

    def neighbors(self) -> dict[bytes, tuple[bytes, int]]:
        """Give (address, its interface) -> (MAC, place in the map)."""
        offset = FIELDS["bypass_neighbor"]["address"][0]
        return {
            bytes(self.links[at + offset : at + offset + 16]): (bytes(self.links[at : at + 6]), at)
            for at in self._neighbor_places()
        }

    def ready(self) -> bool:
        return self._read(self.fib, "bypass_fib", "ready") == 1

    def wanted(self) -> int:
        return self._read(self.fib, "bypass_fib", "wanted")

    # --- what another forwarder does ---

    def uncounted(self) -> None:
        """Leave the number of changes as one does that does not know it."""
        struct.pack_into("=Q", self.links, FIELDS["bypass_links"]["changes"][0], 7)

    # --- what the program does ---

    def use(self, address: bytes, moment: int) -> None:
        """Send something to a neighbor."""
        at = self.neighbors()[address.ljust(16, b"\0")][1]
        struct.pack_into("=Q", self.links, at + FIELDS["bypass_neighbor"]["used_ns"][0], moment)

    def count(self, processor: int, interface: int, **words: int) -> None:
        """Count packets and bytes."""
        first = SIZES["bypass_links"] + processor * SIZES["bypass_processor"] + interface * SIZES["bypass_count"]
        for field, value in words.items():
            at = first + FIELDS["bypass_count"][field][0]
            struct.pack_into("=Q", self.links, at, struct.unpack_from("=Q", self.links, at)[0] + value)
