"""The FIB beside DPDK's rte_lpm, rte_fib and rte_lpm6, in one program with the same routes and keys.

The real full table ($ANABRANCH_TEST_DATA/prefixes.txt.gz; skipped without it); DPDK is Debian's libdpdk-dev
(without it the test is skipped).  That all structures give the same sum over four million look-ups of each
key set is the proof that they give the same answers.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from tests.property import fib_harness

HERE: Final = Path(__file__).resolve().parent / "fib"
ROUNDS: Final = 5
SLACK: Final = 0.5  # of a goal: what even a busy machine must show
# Of our look-ups to the peer's, by family and key set.
GOALS: Final = {
    ("4", "uniform"): ("rte_lpm bulk", 1.3),
    ("4", "prefixes"): ("rte_lpm bulk", 0.75),
    ("6", "prefixes"): ("rte_lpm6 bulk", 1.5),
}
# Ours by the fastest way of this processor, as on one without AVX-512, and as on one without vectors.
WAYS: Final = ("batch", "avx2", "plain batch")
GOAL_BYTES: Final = {"ip4 901899": 5 << 20, "ip6 160147": 4 << 20, "ip4 10": 64 << 10, "ip6 10": 64 << 10}
GOAL_INSERT: Final = 0.5  # seconds for a million
GOAL_READERS: Final = 0.95  # of their speed, while 100,000 routes change each second


def dpdk(what: str) -> list[str]:
    """Give flags for the compiler."""
    return subprocess.run(["pkg-config", what, "libdpdk"], check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the compiled program: our part as it is built for use, DPDK's for this processor."""
    if subprocess.run(["pkg-config", "--exists", "libdpdk"], check=False).returncode != 0:
        pytest.skip("DPDK is not installed (libdpdk-dev)")
    place = tmp_path_factory.mktemp("fib")
    compiler = shutil.which("gcc") or "cc"
    includes = [f"-I{each}" for each in fib_harness.include_dirs()]
    common = [compiler, "-std=gnu11", "-O2", "-fno-strict-aliasing", *includes]
    peers, program = place / "peers.o", place / "fib_bench"
    subprocess.run(
        [*common, "-march=native", *dpdk("--cflags"), "-c", str(HERE / "peers.c"), "-o", str(peers)], check=True
    )
    ours = [str(HERE / "fib_bench.c"), str(HERE / "updates.c"), *fib_harness.c_files()]
    subprocess.run([*common, *ours, str(peers), "-o", str(program), *dpdk("--libs"), "-lm", "-pthread"], check=True)
    return program


@pytest.fixture(scope="module")
def figures(program: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Give what the program measured: a dictionary for each line, its first word under `what`."""
    data = os.environ.get("ANABRANCH_TEST_DATA", "")
    packed = Path(data) / "prefixes.txt.gz"
    if not data or not packed.exists():
        pytest.skip("no prefixes.txt.gz in ANABRANCH_TEST_DATA")
    prefixes = tmp_path_factory.mktemp("prefixes") / "prefixes.txt"
    with gzip.open(packed, "rb") as source, prefixes.open("wb") as target:
        shutil.copyfileobj(source, target)
    command = [str(program), str(prefixes), str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    print()
    lines = []
    for line in done.stdout.splitlines():
        what, _, rest = line.partition(" ")
        words = {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S+)', rest)}
        lines.append({"what": what, **words})
    return lines


def verdict(good: bool) -> str:
    """Say whether a goal is reached."""
    return "reached" if good else "MISSED"


def test_look_ups(figures: list[dict[str, str]]) -> None:
    speeds: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    sums: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in figures:
        if line["what"] == "lookup":
            key = line["family"], line["set"]
            speeds[key][line["structure"]] = float(line["million"])
            sums[key].add(line["sum"])
    assert set(GOALS) <= set(speeds), "a peer could not be built"
    for key, found in speeds.items():
        assert len(sums[key]) == 1, f"IPv{key[0]}, {key[1]}: the answers differ"
        print(f"  IPv{key[0]} {key[1]}: " + ", ".join(f"{name} {speed:.0f}" for name, speed in found.items()) + " M/s")
        peer, goal = GOALS.get(key, ("", 0.0))
        if peer:
            ratios = {way: found[way] / found[peer] for way in WAYS if way in found}
            for way, ratio in ratios.items():
                print(f"    {way}: {ratio:.2f} of {peer}; goal {goal}: {verdict(ratio >= goal)}")
            assert min(ratios.values()) >= SLACK * goal


def test_memory_and_loading(figures: list[dict[str, str]]) -> None:
    found = {f"{line['set']} {line['routes']}": line for line in figures if line["what"] == "load"}
    for name, line in found.items():
        size, routes = int(line["bytes"]), int(line["routes"])
        text = f"  {name}: {size / 1024:.0f} KiB, {size / routes:.1f} bytes a route, {line['seconds']} s"
        if name in GOAL_BYTES:
            text += f"; goal {GOAL_BYTES[name] >> 10} KiB: {verdict(size <= GOAL_BYTES[name])}"
            assert size <= GOAL_BYTES[name]
        print(text)
    both = next(line for line in found.values() if line["set"] == "both")
    million = float(both["seconds"]) / int(both["routes"]) * 1e6
    print(f"  a million inserts: {million:.2f} s; goal {GOAL_INSERT}: {verdict(million <= GOAL_INSERT)}")
    assert million <= GOAL_INSERT / SLACK


def test_updates_leave_readers_alone(figures: list[dict[str, str]]) -> None:
    line = next(line for line in figures if line["what"] == "updates")
    rate, ratio = float(line["rate"]), float(line["ratio"])
    good = verdict(ratio >= GOAL_READERS)
    print(f"  readers at {ratio:.3f} during {rate:.0f} updates a second; goal {GOAL_READERS}: {good}")
    assert ratio >= SLACK * GOAL_READERS
