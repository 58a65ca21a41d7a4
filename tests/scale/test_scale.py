"""What many connections cost the host stack, in virtual time: memory, timers, floods, ports.

`build/scale/scale SCENARIO` prints the figures of a scenario.
"""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.unit.c_build import build_program, core_sources

HERE: Final = Path(__file__).resolve().parent
EPHEMERAL_PORTS: Final = 60999 - 32768 + 1
RECORD: Final = 512  # bytes of a connection that is idle


@pytest.fixture(scope="module")
def program() -> Path:
    return build_program("scale", [*core_sources(), *HERE.glob("*.c"), HERE.parent / "sim" / "publish.c"])


def measure(program: Path, scenario: str, *count: int) -> dict[str, float]:
    """Run a scenario; a name that comes twice keeps its larger figure."""
    command = [str(program), scenario, *map(str, count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    print(f"\n{scenario}: {done.stdout.replace(chr(10), '  ')}")
    figures: dict[str, float] = {}
    for line in done.stdout.splitlines():
        name, value = line.split()
        figures[name] = max(float(value), figures.get(name, float("-inf")))
    return figures


def test_an_idle_connection_costs_its_record_and_no_time(program: Path) -> None:
    figures = measure(program, "idle")
    assert figures["record_bytes"] <= RECORD
    assert figures["request_bytes"] <= 128
    assert figures["timewait_bytes"] <= 64
    assert figures["bytes_per_connection"] < RECORD * 1.01, "that is the record, and rounding up to pages"
    assert figures["timers_in_a_minute"] == 0
    assert figures["deadlines"] == 0
    assert figures["ns_per_tick"] < 1000, "whatever the number of connections"
    assert figures["kept_timers_in_a_minute"] == 0
    assert 7000 < figures["kept_deadline_s"] <= 7200


def test_a_flood_of_syns_harms_nobody(program: Path) -> None:
    figures = measure(program, "flood")
    assert figures["syns"] >= 150_000
    assert figures["honest"] >= 900
    assert figures["honest_percent"] >= 99
    assert figures["accepted_percent"] >= 99
    assert figures["sent_bytes"] > 1_000_000
    assert figures["lost_bytes"] == 0
    assert figures["retransmitted"] == 0
    assert figures["ns_per_syn"] < 10_000, "a fifth of a core at most for 50,000 a second, however slow this machine is"


def test_a_million_connections_leave_nothing_behind(program: Path) -> None:
    figures = measure(program, "cycles")
    assert figures["grown_bytes"] < 1 << 20
    assert figures["client_sockets"] <= 4, "slots are used again"
    assert figures["blocks"] == 0
    assert figures["most_flights"] <= 4
    assert figures["timewait"] <= 65534
    assert figures["timewait_at_last"] == 0
    assert figures["cycles_per_second"] > 10_000


def test_connects_take_over_what_is_in_time_wait(program: Path) -> None:
    figures = measure(program, "timewait")
    assert figures["timewait"] == 2 * EPHEMERAL_PORTS
    assert figures["bytes_per_timewait_of_few"] <= 64, "the record, its share of the hash, and rounding up to pages"
    assert figures["bytes_per_timewait"] <= 64
    assert figures["taken_over"] == 2 * EPHEMERAL_PORTS
    assert figures["failed"] == 0
    assert figures["us_per_reuse"] < 500


def test_all_ports_to_one_destination_can_be_used(program: Path) -> None:
    figures = measure(program, "ports")
    assert figures["connects"] == EPHEMERAL_PORTS
    assert figures["errno"] == errno.EADDRNOTAVAIL
    assert figures["elsewhere"] == errno.EINPROGRESS


def test_a_full_accept_queue_delays_and_loses_nobody(program: Path) -> None:
    figures = measure(program, "overflow")
    assert figures["queued"] == 4, "a backlog of 3 takes one more"
    assert figures["overflows"] >= 8
    assert figures["accepted"] == 12
    assert figures["connected"] == 12


def test_timers_cost_little(program: Path) -> None:
    figures = measure(program, "timers")
    assert figures["items"] > 90_000
    assert figures["items_left"] == 0
    assert figures["ns_per_arm"] < 5000
    assert figures["ns_per_expiry"] < 20_000
