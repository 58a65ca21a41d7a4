"""Shortest paths from one vertex, with all first hops of equal cost (RFC 2328 section 16.1).

The graph is rows of edges: those of vertex v are `counts[v]` from `starts[v]` on.  An edge counts only when
its other end has one back.  `labels` holds for an edge the number of the hop that begins with it, or -1: on
edges of the root, which without a label lead nowhere, and on those of networks that the root is attached to,
where it stands in for the hop of the network.  Of vertices at the same distance networks come first, so that
routers behind them learn of all ways.

`fastpath/src/spf/spf.c` does the same in C.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from typing import Final

UNREACHABLE: Final = 0xFFFFFFFF

# starts, counts, networks (1: a network) by vertex; targets, costs, labels by edge; root; number of labels
# -> distance and set of labels (as bits) of each vertex
ShortestPaths = Callable[
    [array, array, array, array, array, array, int, int],  # type: ignore[type-arg]
    tuple[list[int], list[int]],
]


def shortest_paths(
    starts: array[int],
    counts: array[int],
    networks: array[int],
    targets: array[int],
    costs: array[int],
    labels: array[int],
    root: int,
    label_count: int,  # noqa: ARG001 - C needs it
) -> tuple[list[int], list[int]]:
    """Give the distance of each vertex, and the labels of its first hops as bits."""
    size = len(starts)
    distances = [UNREACHABLE] * size
    hops = [0] * size
    direct = [0] * size  # the bit of the edge that leads from the root to it
    settled = bytearray(size)
    distances[root] = 0
    heap = [(0, 1, root)]
    while heap:
        distance, _, vertex = heapq.heappop(heap)
        if settled[vertex]:
            continue
        settled[vertex] = 1
        for edge in range(starts[vertex], starts[vertex] + counts[vertex]):
            target = targets[edge]
            following = distance + costs[edge]
            if settled[target] or following > distances[target] or following >= UNREACHABLE:
                continue
            label = labels[edge]
            if vertex == root:
                if label < 0:
                    continue
                first = 1 << label
            elif direct[vertex] & hops[vertex]:
                first = hops[vertex] & ~direct[vertex] | (1 << label if label >= 0 else 0)
            else:
                first = hops[vertex]
            start = starts[target]
            if vertex not in targets[start : start + counts[target]]:
                continue
            if vertex == root and networks[target]:
                direct[target] |= first
            if following < distances[target]:
                distances[target] = following
                hops[target] = first
                heapq.heappush(heap, (following, 1 - networks[target], target))
            else:
                hops[target] |= first
    return distances, hops
