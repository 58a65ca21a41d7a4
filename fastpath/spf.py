"""OSPF's tight loops in C, with the signatures of their Python twins.

accelerators = Accelerators()     # an instance of OSPF takes it by its Environment
accelerators.fletcher(lsa)        # as vrouter.wire.ospf.fletcher.fletcher
accelerators.spf(starts, ...)     # as vrouter.proto.ospf.dijkstra.shortest_paths
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastpath.binding import check, ffi, lib

if TYPE_CHECKING:
    from array import array

_BITS: Final = 64


class Accelerators:
    """Both of them, stateless."""

    @staticmethod
    def fletcher(lsa: bytes) -> int:
        """Give the checksum that belongs into an LSA."""
        checksum: int = lib.fletcher_lsa(lsa, len(lsa))
        return checksum

    @staticmethod
    def spf(
        starts: array[int],
        counts: array[int],
        networks: array[int],
        targets: array[int],
        costs: array[int],
        labels: array[int],
        root: int,
        label_count: int,
    ) -> tuple[list[int], list[int]]:
        """Give the distance of each vertex, and the labels of its first hops as bits."""
        size = len(starts)
        words = max(1, -(-label_count // _BITS))
        # What lies behind the pointers of a struct is ours to keep.
        held = {
            "starts": ffi.from_buffer("uint32_t[]", starts),
            "counts": ffi.from_buffer("uint32_t[]", counts),
            "networks": ffi.from_buffer("uint8_t[]", networks),
            "targets": ffi.from_buffer("uint32_t[]", targets),
            "costs": ffi.from_buffer("uint32_t[]", costs),
            "labels": ffi.from_buffer("int32_t[]", labels),
        }
        graph = ffi.new(
            "struct spf_graph *", held | {"vertices": size, "edges": len(targets), "root": root, "words": words}
        )
        distances = ffi.new("uint32_t[]", size)
        hops = ffi.new("uint64_t[]", size * words)
        check(lib.spf_run(graph, distances, hops))
        found = ffi.unpack(hops, size * words)
        if words > 1:
            found = [
                sum(found[at + word] << _BITS * word for word in range(words)) for at in range(0, len(found), words)
            ]
        return ffi.unpack(distances, size), found
