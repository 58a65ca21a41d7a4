"""A router that has nothing to do sleeps: its processes are hardly ever woken, and notice what is asked of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from lab import Lab, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

ROUTERS: Final = 3
WINDOW: Final = 2.0  # seconds
WINDOWS: Final = 5
FEW: Final = 4  # wakes of a forwarder in a window: it looks round every four seconds
FEWER: Final = 3  # of a control: it is asked every three whether it lives
MANAGER: Final = 1.5 * WINDOW / 0.01  # its samples, and little else


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        far = made.namespace("far")
        for number in range(ROUTERS):
            made.veth(f"v{number}", None, far, f"h{number}")
            far.run("sysctl", "-qw", f"net.ipv6.conf.h{number}.disable_ipv6=1")
            far.address(f"h{number}", f"10.0.{number}.2/24")
        interface = {"device": "v0", "addresses": ["10.0.0.1/24"]}
        made.configure(
            {f"vr{number}": {"interfaces": {"lan": interface | {"device": f"v{number}"}}} for number in range(ROUTERS)}
        )
        made.start()
        yield made


def wakes(pid: int) -> int:
    """Count how often a process has gone to sleep, all threads of it."""
    return sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )


def test_an_idle_router_is_hardly_ever_woken(lab: Lab) -> None:
    pids = [(role, pid) for it in lab.vr("show", "routers") for role, pid in it["pids"].items()]
    assert lab.daemon is not None
    pids.append(("manager", lab.daemon.pid))
    limits = {"forwarder": FEW, "control": FEWER, "manager": MANAGER}
    least = dict.fromkeys(pids, float("inf"))
    for _ in range(WINDOWS):  # the first ones see address detection end
        before = {key: wakes(key[1]) for key in pids}
        time.sleep(WINDOW)
        least = {key: min(least[key], wakes(key[1]) - before[key]) for key in pids}
        if all(count <= limits[role] for (role, _pid), count in least.items()):
            return
    raise AssertionError(least)


@pytest.mark.quiet
def test_a_sleeping_forwarder_hears_of_a_change_at_once(lab: Lab) -> None:
    far = lab.namespaces["far"]
    time.sleep(WINDOW)
    lab.configure({"vr0": {"interfaces": {"lan": {"device": "v0", "addresses": ["10.0.0.1/24", "10.0.0.9/24"]}}}})
    lab.vr("apply")
    begin = time.monotonic()
    wait_until(lambda: far.ping("10.0.0.9", wait=0.2), "the new address answers", interval=0.01)
    assert time.monotonic() - begin < 1  # it looks round every four seconds
