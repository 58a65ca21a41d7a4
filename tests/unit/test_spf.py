"""Shortest paths and Fletcher's checksum: C and its Python twin agree, and are right."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest

from fastpath.spf import Accelerators
from vrouter.proto.ospf.dijkstra import UNREACHABLE, shortest_paths
from vrouter.wire.ospf.fletcher import fletcher

BOTH = pytest.mark.parametrize("run", [shortest_paths, Accelerators.spf], ids=["python", "c"])


def graph(rows: dict[int, list[tuple[int, int, int]]], networks: set[int], size: int) -> Any:
    """Rows of (target, cost, label)."""
    starts, counts, targets, costs, labels = array("I"), array("I"), array("I"), array("I"), array("i")
    for vertex in range(size):
        starts.append(len(targets))
        counts.append(len(rows.get(vertex, [])))
        for target, cost, label in rows.get(vertex, []):
            targets.append(target)
            costs.append(cost)
            labels.append(label)
    return starts, counts, array("B", [vertex in networks for vertex in range(size)]), targets, costs, labels


@BOTH
def test_two_ways_of_equal_cost_give_both_first_hops(run):
    rows = {
        0: [(1, 1, 0), (2, 1, 1)],
        1: [(0, 1, -1), (3, 1, -1)],
        2: [(0, 1, -1), (3, 1, -1)],
        3: [(1, 1, -1), (2, 1, -1)],
    }
    assert run(*graph(rows, set(), 4), 0, 2) == ([0, 1, 1, 2], [0, 1, 2, 3])


@BOTH
def test_an_edge_without_its_counterpart_does_not_count(run):
    rows = {0: [(1, 1, 0)], 1: []}
    assert run(*graph(rows, set(), 2), 0, 1) == ([0, UNREACHABLE], [0, 0])


@BOTH
def test_routers_behind_a_connected_network_have_hops_of_their_own(run):
    rows = {0: [(1, 10, 0)], 1: [(0, 0, -1), (2, 0, 1), (3, 0, -1)], 2: [(1, 10, -1)], 3: [(1, 10, -1)]}
    distances, hops = run(*graph(rows, {1}, 4), 0, 2)
    assert distances == [0, 10, 10, 10]
    assert hops == [0, 0b01, 0b10, 0]  # the last one says no address: no way to it


@BOTH
def test_a_network_reached_through_a_router_hands_its_hop_on(run):
    rows = {0: [(1, 1, 0)], 1: [(0, 1, -1), (2, 1, -1)], 2: [(1, 0, -1), (3, 0, -1)], 3: [(2, 1, -1)]}
    assert run(*graph(rows, {2}, 4), 0, 1) == ([0, 1, 2, 2], [0, 1, 1, 1])


def random_graph(rng: random.Random) -> Any:
    size = rng.randrange(2, 60)
    networks = {vertex for vertex in range(1, size) if rng.random() < 0.3}
    rows: dict[int, list[tuple[int, int, int]]] = {vertex: [] for vertex in range(size)}
    for _ in range(rng.randrange(1, 4 * size)):
        one, other = rng.sample(range(size), 2) if size > 1 else (0, 0)
        if one in networks and other in networks:
            continue
        for a, b in ((one, other), (other, one)):
            if rng.random() < 0.95:
                rows[a].append((b, 0 if a in networks else rng.choice([1, 1, 2, 10, 65535]), -1))
    label = 0
    for at, (target, cost, _) in enumerate(rows[0]):
        if rng.random() < 0.95:
            rows[0][at] = (target, cost, label)
            label += 1
            if target in networks:
                for there, (router, price, known) in enumerate(rows[target]):
                    if router and known < 0 and rng.random() < 0.9:
                        rows[target][there] = (router, price, label)
                        label += 1
    return graph(rows, networks, size), label


@pytest.mark.parametrize("seed", range(300))
def test_c_and_python_agree(seed):
    arrays, labels = random_graph(random.Random(seed))
    case = (*arrays, 0, labels)
    assert Accelerators.spf(*case) == shortest_paths(*case)


def test_distances_are_those_of_a_plain_search():
    for seed in range(50):
        arrays, labels = random_graph(random.Random(1000 + seed))
        starts, counts, _, targets, costs, edge_labels = arrays
        size = len(starts)
        edges = [
            (v, targets[e], costs[e])
            for v in range(size)
            for e in range(starts[v], starts[v] + counts[v])
            if v or edge_labels[e] >= 0
        ]
        known = {(v, targets[e]) for v in range(size) for e in range(starts[v], starts[v] + counts[v])}
        expected = [0] + [UNREACHABLE] * (size - 1)
        for _ in range(size):
            for one, other, cost in edges:
                if (other, one) in known and expected[one] < UNREACHABLE:
                    expected[other] = min(expected[other], expected[one] + cost)
        case = (*arrays, 0, labels)
        assert shortest_paths(*case)[0] == expected


@pytest.mark.parametrize(
    "broken",
    [
        {"root": 9},
        {"targets": array("I", [9])},
        {"labels": array("i", [64])},
        {"starts": array("I", [5, 0])},
        {"counts": array("I", [2, 0])},
    ],
)
def test_a_graph_that_leads_outside_is_refused(broken):
    arrays: dict[str, Any] = {
        "starts": array("I", [0, 1]),
        "counts": array("I", [1, 0]),
        "networks": array("B", [0, 0]),
        "targets": array("I", [1]),
        "costs": array("I", [1]),
        "labels": array("i", [0]),
        "root": 0,
    } | broken
    with pytest.raises(OSError):
        Accelerators.spf(**arrays, label_count=1)


def test_checksums_of_c_and_python_agree():
    rng = random.Random(1)
    for length in [*range(40), 255, 256, 1500, 4095, 4096, 4116, 5000, 65535]:
        for fill in (rng.randbytes(length), bytes(length), b"\xff" * length):
            assert Accelerators.fletcher(fill) == fletcher(fill)


def test_a_range_with_its_checksum_sums_up_to_zero():
    """The receiver's side of RFC 1008: both sums are 0 modulo 255."""
    rng = random.Random(2)
    for length in (20, 21, 24, 100, 1480):
        lsa = rng.randbytes(length)
        whole = lsa[2:16] + fletcher(lsa).to_bytes(2, "big") + lsa[18:]
        first = second = 0
        for octet in whole:
            first = (first + octet) % 255
            second = (second + first) % 255
        assert (first, second) == (0, 0)
