"""One process with sockets in many VRs, all of which have the same addresses, and in the kernel.

    host --- red0 === red1    red2 === red3    ...    kernel --- host

`===` is a patch link.  Each VR is told from the others by nothing but its name.  ROUTERS in the environment says how
many there are, FDS how many sockets are idle at once.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from lab import Lab, LabError, Namespace, wait_until
from tcp_ends import many_files

import rsock
from manager.cli.client import Manager
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.quiet, pytest.mark.root]

ROUTERS: Final = int(os.environ.get("ROUTERS", "200")) // 2 * 2
FDS: Final = int(os.environ.get("FDS", "10000"))
FDS_OF_OTHERS: Final = 1000
HOSTED: Final = ("vr0", "vr1")  # they have a host, as the kernel has
OWN, HOST, LEFT, RIGHT = "10.0.0.1", "10.0.1.2", "10.1.0.0", "10.1.0.1"
PORT: Final = 7007
WAIT: Final = 10.0
IDLE: Final = 2.0  # seconds of looking on
OWN_SHARE: Final = 0.002  # of a processor, for an idle app
ALL_SHARE: Final = 0.002 * ROUTERS  # for all processes of all VRs, the manager and the broker: they watch each other
NEW, REPEATS = "new", 7
USABLE: Final = 0.100  # seconds after the event
CYCLES: Final = 8
GROWTH_KIB: Final = 512
RESPONDER: Final = """
import selectors, socket, sys
name, port = sys.argv[1].encode(), int(sys.argv[2])
datagrams, listener = socket.socket(type=socket.SOCK_DGRAM), socket.create_server(("", port), backlog=64)
datagrams.bind(("", port))
selector = selectors.DefaultSelector()
for sock in (datagrams, listener):
    selector.register(sock, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _events in selector.select():
        if key.fileobj is datagrams:
            data, peer = datagrams.recvfrom(2048)
            datagrams.sendto(name + b":" + data, peer)
        elif key.fileobj is listener:
            selector.register(listener.accept()[0], selectors.EVENT_READ)
        elif data := key.fileobj.recv(2048):
            key.fileobj.sendall(name + b":" + data)
        else:
            selector.unregister(key.fileobj)
            key.fileobj.close()
"""


def names() -> list[str]:
    """Name the VRs."""
    return [f"vr{number}" for number in range(ROUTERS)]


def configuration() -> dict[str, Any]:
    """Give all VRs the same addresses, and join each even one with the next."""
    routers: dict[str, Any] = {}
    for number, name in enumerate(names()):
        left = number % 2 == 0
        interfaces: dict[str, Any] = {
            "lo": {"addresses": [f"{OWN}/32"]},
            "link": {"patch": f"vr{number ^ 1}/link", "addresses": [f"{LEFT if left else RIGHT}/31"]},
        }
        if name in HOSTED:
            interfaces["lan"] = {"device": f"{name}-lan", "addresses": ["10.0.1.1/24"]}
        routers[name] = {"interfaces": interfaces}
    return routers


def respond(lab: Lab, host: Namespace, name: str) -> None:
    """Start what answers for a host."""
    lab.started(host.command(sys.executable, "-c", RESPONDER, name, str(PORT)))


class Worlds:
    """All VRs, and the kernel of the daemon's namespace; sockets are made in each in the same way."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.context = rsock.Context(f"ipc://{lab.run_dir}/rsock.sock")
        self.names = [*names(), "kernel"]

    def socket(self, world: str, kind: int) -> socket.socket:
        """Open a socket in a world."""
        if world == "kernel":
            with self.lab.box.entered():
                return rsock.socket(socket.AF_INET, kind, vr=world, ctx=self.context)
        return rsock.socket(socket.AF_INET, kind, vr=world, ctx=self.context)

    def neighbors(self) -> dict[tuple[str, str], str]:
        """Tell who answers to a world's app at an address."""
        found = {(world, OWN): world for world in self.names}
        found |= {(world, HOST): f"host of {world}" for world in (*HOSTED, "kernel")}
        for number, world in enumerate(names()):
            found[world, RIGHT if number % 2 == 0 else LEFT] = f"vr{number ^ 1}"
        return found

    def apply(self, **more: Any) -> None:
        """Have these VRs beside the many, and no others."""
        self.lab.configure(configuration() | more)
        with Manager(self.lab.run_dir) as manager:
            manager.call_long(ManagerOp.APPLY)


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    with many_files(FDS + FDS_OF_OTHERS), Lab() as lab:
        for name in (*HOSTED, "kernel"):
            respond(lab, lab.host(name, f"{name}-lan", f"{HOST}/24"), f"host of {name}")
        lab.box.address("kernel-lan", "10.0.1.1/24")
        lab.box.address("lo", f"{OWN}/32")
        lab.configure(configuration())
        lab.start(120)
        made = Worlds(lab)
        yield made
        made.context.close()


class Crowd:
    """One app: in each world something that answers with the world's name, and something that asks; one selector."""

    def __init__(self, worlds: Worlds, stack: contextlib.ExitStack) -> None:
        self._worlds, self._stack = worlds, stack
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self.answers: dict[tuple[str, str, int], str] = {}
        for world in worlds.names:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                made = self._open(world, kind)
                made.bind(("", PORT))
                if kind == socket.SOCK_STREAM:
                    made.listen()
                    self._wait_for(made, self._accept, world)
                else:
                    self._wait_for(made, self._answer_datagram, world)

    def _open(self, world: str, kind: int) -> socket.socket:
        made = self._stack.enter_context(self._worlds.socket(world, kind))
        made.setblocking(False)
        return made

    def _wait_for(self, sock: socket.socket, what: Callable[..., object], *about: object) -> None:
        self._selector.register(sock, selectors.EVENT_READ, (what, about))

    def _accept(self, listener: socket.socket, world: str) -> None:
        taken = self._stack.enter_context(listener.accept()[0])
        taken.setblocking(False)
        self._wait_for(taken, self._answer, world)

    def _answer_datagram(self, sock: socket.socket, world: str) -> None:
        data, peer = sock.recvfrom(2048)
        sock.sendto(world.encode() + b":" + data, peer)

    def _answer(self, sock: socket.socket, world: str) -> None:
        sock.send(world.encode() + b":" + sock.recv(2048))

    def _hear(self, sock: socket.socket, world: str, address: str, kind: int) -> None:
        assert (world, address, kind) not in self.answers
        self.answers[world, address, kind] = sock.recv(2048).decode()

    def ask(self, world: str, address: str, kind: int) -> None:
        """Send one's name to an address of one's world."""
        asking = self._open(world, kind)
        asking.settimeout(WAIT)
        asking.connect((address, PORT))
        asking.send(world.encode())
        self._wait_for(asking, self._hear, world, address, kind)

    def step(self, timeout: float) -> int:
        """Serve whoever is ready; give how many."""
        ready = self._selector.select(timeout)
        for key, _events in ready:
            what, about = key.data
            what(key.fileobj, *about)
        return len(ready)


def test_one_selector(worlds: Worlds) -> None:
    """Each answer comes from the asker's own world, whether the app itself gives it, through another VR, or a host."""
    wanted = {
        (world, address, kind): f"{neighbor}:{world}"
        for (world, address), neighbor in worlds.neighbors().items()
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    }
    with contextlib.ExitStack() as stack:
        crowd = Crowd(worlds, stack)
        for question in wanted:
            crowd.ask(*question)
        deadline = time.monotonic() + WAIT
        while len(crowd.answers) < len(wanted) and time.monotonic() < deadline:
            crowd.step(0.1)
        assert crowd.answers == wanted
        assert crowd.step(0.05) == 0


# --- nothing to do ---


def cpu_seconds(pid: int) -> float:
    """Give what a process has used of a processor so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def staff(lab: Lab) -> list[int]:
    """Give the pids of the manager and all that it has started."""
    assert lab.daemon is not None
    return [lab.daemon.pid, *children(lab.daemon.pid)]


def children(pid: int) -> list[int]:
    """Give the pids of a process's descendants."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def fill(worlds: Worlds, count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Open so many sockets: bound, listening, and connected ones of all worlds."""
    opened: list[socket.socket] = []
    while len(opened) < count:
        for world in worlds.names:
            datagrams, listener, asking = (
                stack.enter_context(worlds.socket(world, kind))
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_STREAM)
            )
            datagrams.bind((OWN, 0))
            listener.bind((OWN, 0))
            listener.listen()
            asking.connect(listener.getsockname())
            opened += [datagrams, listener, asking, stack.enter_context(listener.accept()[0])]
    return opened


def test_idle_sockets_take_no_processor(worlds: Worlds) -> None:
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        opened = fill(worlds, FDS, stack)
        for sock in opened:
            selector.register(sock, selectors.EVENT_READ)
        selector.select(1.0)  # what the opening has left to do
        pids = staff(worlds.lab)
        all_of_them = sum(map(cpu_seconds, pids))
        begin, own = time.monotonic(), time.process_time()
        assert selector.select(IDLE) == []
        took, own = time.monotonic() - begin, time.process_time() - own
        all_of_them = sum(map(cpu_seconds, pids)) - all_of_them
    print(
        f"\n{len(opened)} idle sockets in {ROUTERS} VRs and the kernel: the app {own / took:.2%} of a processor,"
        f" {len(pids)} processes of the daemon {all_of_them / took:.2%}"
    )
    assert took >= IDLE * 0.99
    assert own / took < OWN_SHARE
    assert all_of_them / took < ALL_SHARE


# --- coming and going ---


def use(worlds: Worlds, world: str) -> None:
    """Have a datagram and a stream go through a world."""
    with worlds.socket(world, socket.SOCK_DGRAM) as one, worlds.socket(world, socket.SOCK_DGRAM) as other:
        one.bind((OWN, PORT))
        one.settimeout(WAIT)
        other.sendto(b"first", (OWN, PORT))
        assert one.recv(64) == b"first"
    with worlds.socket(world, socket.SOCK_STREAM) as listener, worlds.socket(world, socket.SOCK_STREAM) as asking:
        listener.bind((OWN, PORT))
        listener.listen()
        asking.connect((OWN, PORT))
        with listener.accept()[0] as taken:
            taken.sendall(b"second")
            assert asking.recv(64) == b"second"


def wait_event(events: rsock.Watch, event: str, vr: str) -> None:
    """Wait for an event of a VR."""
    deadline = time.monotonic() + WAIT
    while (left := deadline - time.monotonic()) > 0:
        found = events.wait(left)
        if found is not None and (found.event, found.vr) == (event, vr):
            return
    pytest.fail(f"no event: {vr} {event}")


def come_and_go(worlds: Worlds, events: rsock.Watch, name: str = NEW) -> tuple[float, float]:
    """Add a VR, use it, and remove it; give the seconds from the demand to its event, and from there to its use."""
    begin = time.monotonic()
    worlds.apply(**{name: {"interfaces": {"lo": {"addresses": [f"{OWN}/32"]}}}})
    wait_event(events, "up", name)
    up = time.monotonic()
    use(worlds, name)
    used = time.monotonic()
    worlds.apply()
    wait_event(events, "gone", name)
    return up - begin, used - up


def test_a_new_router_is_usable_at_once(worlds: Worlds) -> None:
    with worlds.context.watch() as events:
        times = [come_and_go(worlds, events) for _repeat in range(REPEATS)]
    born, usable = ([one[which] * 1000 for one in times] for which in (0, 1))
    print(
        f"\na VR more beside {ROUTERS}: its event {statistics.median(born):.0f} ms after the demand; in use"
        f" {statistics.median(usable):.1f} ms after the event (worst {max(usable):.1f})"
    )
    assert statistics.median(usable) < USABLE * 1000


def open_files(pid: int) -> int:
    """Count the files that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled_files(pids: list[int]) -> dict[int, int]:
    """Count the files of each, once the last event's turn is over: the manager tells it before it closes all."""
    counts: list[dict[int, int]] = [{}]

    def steady() -> bool:
        counts.append({pid: open_files(pid) for pid in pids})
        return counts[-1] == counts[-2]

    wait_until(steady, "as many files as a moment before", interval=0.2)
    return counts[-1]


def resident_kib(pid: int) -> int:
    """Give the memory of a process that is in use."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_coming_and_going_leaves_nothing(worlds: Worlds) -> None:
    """The app, the manager, the broker and all of the others are as large as before and hold as many files."""
    with worlds.context.watch() as events:
        for _repeat in range(2):  # what is imported and grown only once
            come_and_go(worlds, events)
        pids = [os.getpid(), *staff(worlds.lab)]
        files = settled_files(pids)
        sizes = {pid: resident_kib(pid) for pid in pids}
        for cycle in range(CYCLES):
            come_and_go(worlds, events, f"{NEW}{cycle}")
        wait_until(lambda: sorted(staff(worlds.lab)) == sorted(pids[1:]), "the same processes as before")
        with contextlib.suppress(LabError):
            wait_until(lambda: {pid: open_files(pid) for pid in pids} == files, "as many files as before", 2.0)
        more = {pid: open_files(pid) - count for pid, count in files.items() if open_files(pid) != count}
    grown = {pid: resident_kib(pid) - size for pid, size in sizes.items()}
    print(f"\n{CYCLES} VRs that came and went: processes have grown by at most {max(grown.values())} KiB")
    assert more == {}
    assert max(grown.values()) <= GROWTH_KIB, grown
