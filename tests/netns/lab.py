"""A network of namespaces round one running router, for tests as root.

    with Lab() as lab:
        host = lab.namespace("host")
        lab.veth("lan", None, host, "eth0", far_address="10.0.0.2/24")
        lab.configure({"red": {"interfaces": {"lan": {"device": "lan", "addresses": ["10.0.0.1/24"]}}}})
        lab.start()
        assert host.ping("10.0.0.1")
        assert lab.vr("show", "routers")[0]["state"] == "up"

The daemon runs in a namespace of the lab's own, so that nothing of the host's is touched.  Leaving the
lab stops everything and verifies that nothing is left: namespaces, links, processes, sockets.
Waiting has deadlines and never a fixed sleep.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from manager.cli.client import Manager
from manager.cli.errors import CliError
from vrouter.api.messages import ManagerOp

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CLONE_NEWNET: Final = 0x40000000
ETH_P_ALL: Final = 3
SOL_PACKET: Final = 263
PACKET_AUXDATA: Final = 8
TP_STATUS_VLAN_VALID: Final = 1 << 4
_libc: Final = ctypes.CDLL(None, use_errno=True)
_counter: Final = itertools.count()


class LabError(AssertionError):
    """Something did not happen in time, or something was left behind."""


def wait_until(true: Callable[[], Any], what: str, timeout: float = 30.0, interval: float = 0.01) -> Any:
    """Poll until `true` gives something true, and give that; raises LabError at the deadline.

    The deadline says that it will never be; how fast something is is for tests that run alone.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout:g} s: {what}")
        time.sleep(interval)


def run(
    *command: str, check: bool = True, timeout: float = 30.0, input_text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with its output captured."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False, input=input_text
    )  # fmt: skip
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def project_environment() -> dict[str, str]:
    """Give the environment in which our programs find this tree's packages, and nothing by accident."""
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT)]  # another build of the core may stand first
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONSAFEPATH": "1"}


def program(entry: str, *arguments: str) -> list[str]:
    """Give the command line of one of our console scripts, installed or not."""
    module, _, function = entry.partition(":")
    return [
        sys.executable,
        "-P",
        "-c",
        f"import sys; from {module} import {function} as main; sys.exit(main())",
        *arguments,
    ]


ANABRANCH: Final = "manager.main:main"
VR: Final = "manager.cli.main:main"


class Namespace:
    """A network namespace of the lab."""

    def __init__(self, name: str) -> None:
        """Make it, with its loopback up."""
        self.name = name
        self.path = Path("/run/netns") / name
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")

    @property
    def inode(self) -> int:
        """Give what tells it from others."""
        return self.path.stat().st_ino

    def command(self, *words: str) -> list[str]:
        """Give a command line that runs in here."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, check: bool = True, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command in here."""
        return run(*self.command(*words), check=check, timeout=timeout)

    def ip(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `ip` on this namespace."""
        return run("ip", "-n", self.name, *words, check=check)

    def links(self) -> list[dict[str, Any]]:
        """Give the links, as `ip -j -d link` tells them."""
        found: list[dict[str, Any]] = json.loads(self.ip("-j", "-d", "link").stdout)
        return found

    def address(self, device: str, address: str) -> None:
        """Give a device an address, at once usable."""
        nodad = ["nodad"] if ":" in address else []
        self.ip("address", "add", address, "dev", device, *nodad)

    def ping(self, address: str, count: int = 1, wait: float = 2.0) -> bool:
        """Tell whether the kernel of this namespace gets an answer."""
        done = self.run("ping", "-n", "-q", "-c", str(count), "-i", "0.05", "-W", str(wait), address, check=False)
        return done.returncode == 0

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in this namespace: sockets that are made meanwhile stay in it.  This thread only."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
            try:
                yield
            finally:
                _setns(here)
        finally:
            os.close(here)
            os.close(there)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Make a kernel socket in here."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def wire(self, device: str) -> Wire:
        """Open the frames of a device."""
        return Wire(self, device)

    def processes(self) -> list[int]:
        """Give the pids of all that live in here."""
        return processes_in({self.inode})

    def delete(self) -> None:
        """Remove it."""
        run("ip", "netns", "del", self.name, check=False)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def processes_in(inodes: set[int]) -> list[int]:
    """Give the pids that live in the network namespaces with these inodes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns" / "net").stat().st_ino in inodes:
                    found.append(int(entry.name))
    return found


def _with_tag(frame: bytes, control: list[tuple[int, int, bytes]]) -> bytes:
    """Put back the VLAN tag that the kernel takes off and hands over beside the frame."""
    for level, kind, data in control:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, tci, tpid = struct.unpack_from("=I12xHH", data)
            if status & TP_STATUS_VLAN_VALID:
                return frame[:12] + struct.pack(">HH", tpid, tci) + frame[12:]
    return frame


class Wire:
    """Raw frames of one device, as a host on that link sees them."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        """Open; frames that were there before are not seen."""
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        with namespace.entered():
            self._socket.bind((device, ETH_P_ALL))
        self.mac = self._socket.getsockname()[4]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Give the fd, for select."""
        return self._socket.fileno()

    def send(self, *frames: bytes) -> None:
        """Send frames as they are."""
        for frame in frames:
            self._socket.send(frame)

    def frames(self, timeout: float) -> Iterator[bytes]:
        """Give the frames that come in until the time is over; our own are left out."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame, control, _flags, address = self._socket.recvmsg(70000, 64)
            except TimeoutError:
                return
            if address[2] != socket.PACKET_OUTGOING:
                yield _with_tag(frame, control)

    def expect(self, wanted: Callable[[bytes], bool], timeout: float = 20.0, what: str = "a frame") -> bytes:
        """Give the first frame that is wanted."""
        for frame in self.frames(timeout):
            if wanted(frame):
                return frame
        raise LabError(f"not within {timeout:g} s: {what}")


def lan_router(name: str, *rules: Mapping[str, Any], addresses: Sequence[str] = ("10.0.0.1/24",)) -> dict[str, Any]:
    """Configure a router with one interface, `lan` on the device NAME-lan, and rules for apps."""
    interfaces = {"lan": {"device": f"{name}-lan", "addresses": list(addresses)}}
    return {"interfaces": interfaces, "rsock": {"rules": list(rules)}}


class Lab:
    """Namespaces, links and one daemon; see the module."""

    def __init__(self) -> None:
        """Choose names that nobody else has; nothing is made yet."""
        self.prefix = f"t{os.getpid()}x{next(_counter)}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"anabranch-{self.prefix}-", dir="/tmp"))
        self.directory.chmod(0o755)  # apps of other users come to the sockets in here
        self.run_dir = self.directory / "run"
        self.conf_dir = self.directory / "conf"
        self.conf_dir.mkdir()
        self.log_path = self.directory / "log"
        self.namespaces: dict[str, Namespace] = {}
        self.daemon: subprocess.Popen[bytes] | None = None
        self._helpers: list[subprocess.Popen[Any]] = []
        self._seen_inodes: set[int] = set()
        self._own_inodes: dict[Namespace, int] = {}
        self._seen_netns: set[str] = set()
        self._kept = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Make the namespace of the daemon."""
        self.box = self.namespace("box")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop everything, remove everything, and verify it; a failing test keeps its own error."""
        problems: list[str] = []
        try:
            problems += self._stop_quietly()
        finally:
            problems += self._remove()
            if kind is not None and self.log_path.exists():
                sys.stderr.write(f"--- daemon's log ---\n{self.log()[-8000:]}\n")
            shutil.rmtree(self.directory, ignore_errors=True)
        if problems and kind is None:
            raise LabError("; ".join(problems))

    # The network

    def namespace(self, name: str) -> Namespace:
        """Make a namespace; its full name carries the lab's prefix."""
        made = Namespace(f"{self.prefix}-{name}")
        self.namespaces[name] = made
        self._own_inodes[made] = made.inode
        self._seen_inodes.add(made.inode)
        return made

    def veth(
        self,
        name: str,
        near: Namespace | None,
        far: Namespace,
        far_name: str,
        *,
        far_address: str | None = None,
        far_mac: str | None = None,
    ) -> None:
        """Make a veth pair, both ends up; `near` defaults to the daemon's namespace."""
        near = near or self.box
        near.ip("link", "add", name, "type", "veth", "peer", "name", far_name, "netns", far.name)
        if far_mac is not None:
            far.ip("link", "set", far_name, "address", far_mac)
        near.ip("link", "set", name, "up", check=False)  # a router that awaits it may have taken it by now
        far.ip("link", "set", far_name, "up")
        if far_address is not None:
            far.address(far_name, far_address)

    def host(self, name: str, device: str, address: str, gateway: str | None = None) -> Namespace:
        """Make a namespace behind a veth whose near end `device` is for a router."""
        made = self.namespace(name)
        self.veth(device, None, made, "eth0", far_address=address)
        if gateway is not None:
            made.ip("route", "add", "default", "via", gateway)
        return made

    # The daemon

    def configure(self, routers: Mapping[str, Any] | None = None, *, file: str = "routers.yaml", **top: Any) -> None:
        """Write a file of the configuration: routers, and keys of the top level."""
        # JSON is YAML, and leaves no doubt about types.
        content = dict(top) | ({"routers": dict(routers)} if routers is not None else {})
        (self.conf_dir / file).write_text(json.dumps(content, indent=2) + "\n")

    def configure_text(self, text: str, file: str = "routers.yaml") -> None:
        """Write a file of the configuration as it is."""
        path = self.conf_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, timeout: float = 60.0, *, wait: bool = True) -> None:
        """Start the daemon; wait until all its routers are up."""
        command = program(ANABRANCH, "run", "--conf", str(self.conf_dir), "--run-dir", str(self.run_dir))
        with self.log_path.open("ab") as log:
            self.daemon = subprocess.Popen(
                # Not ip-netns(8): it also gives a mount namespace, where the names of namespaces stay our own.
                ["nsenter", f"--net={self.box.path}", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=project_environment(),
                start_new_session=True,
            )
        if wait:
            wait_until(self._all_up, "all routers are up", timeout)

    def _all_up(self) -> bool:
        assert self.daemon is not None
        if self.daemon.poll() is not None:
            raise LabError(f"the daemon ended with {self.daemon.returncode}:\n{self.log()[-4000:]}")
        # Not `vr show routers`: that also answers for a manager that has died.
        try:
            with Manager(self.run_dir) as manager:
                routers = manager.call(ManagerOp.ROUTERS)
        except CliError:
            return False
        self._remember(routers)
        return all(router["state"] == "up" for router in routers)

    def _remember(self, routers: Sequence[Mapping[str, Any]]) -> None:
        for router in routers:
            name = router.get("netns")
            if name and name not in self._seen_netns:
                with contextlib.suppress(OSError):
                    # Held open: the number of a namespace that has gone would soon be a stranger's.
                    held = self._kept.enter_context((Path("/run/netns") / name).open("rb"))
                    self._seen_inodes.add(os.fstat(held.fileno()).st_ino)
                    self._seen_netns.add(name)

    def stop(self, timeout: float = 30.0) -> None:
        """End the daemon as an operator would; it must end well."""
        assert self.daemon is not None
        with contextlib.suppress(LabError):
            self._remember(self.vr("show", "routers"))
        self.daemon.send_signal(signal.SIGTERM)
        try:
            code = self.daemon.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"the daemon did not end within {timeout:g} s:\n{self.log()[-4000:]}") from None
        self.daemon = None
        if code:
            raise LabError(f"the daemon ended with {code}:\n{self.log()[-4000:]}")

    def kill(self) -> None:
        """Kill the manager alone, as a crash would."""
        assert self.daemon is not None
        self._remember(self.vr("show", "routers"))
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def log(self) -> str:
        """Give what the daemon has said."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # The command line

    def vr_run(self, *words: str, json_output: bool = True, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run `vr` and give its output and exit code."""
        options = ["--run-dir", str(self.run_dir), *(["-j"] if json_output else [])]
        return subprocess.run(
            program(VR, *options, *words),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=project_environment(),
        )

    def vr(self, *words: str, timeout: float = 30.0) -> Any:
        """Run `vr -j` and give the parsed answer (a list where it is JSON lines); it must exit with 0."""
        done = self.vr_run(*words, timeout=timeout)
        if done.returncode:
            raise LabError(f"vr {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        try:
            return json.loads(done.stdout)
        except ValueError:
            return [json.loads(line) for line in done.stdout.splitlines()]

    def router(self, name: str) -> dict[str, Any]:
        """Give a router's line of `show routers`."""
        found: dict[str, Any] = next(router for router in self.vr("show", "routers") if router["name"] == name)
        return found

    def interface(self, router: str, name: str) -> dict[str, Any]:
        """Give an interface's entry of `show interfaces`."""
        found: dict[str, Any] = next(i for i in self.vr("show", "interfaces", router) if i["name"] == name)
        return found

    def wait_state(self, router: str, state: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until a router is in a state."""
        found: dict[str, Any] = wait_until(
            lambda: next((r for r in self.vr("show", "routers") if r["name"] == router and r["state"] == state), None),
            f"{router} is {state}",
            timeout,
        )
        return found

    def helper(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process that ends with the lab."""
        started = subprocess.Popen(command, env=project_environment(), **options)
        self._helpers.append(started)
        return started

    def started(self, command: Sequence[str], says: str = "ready", **options: Any) -> subprocess.Popen[str]:
        """Start a helper that says when it is ready, and wait until it does."""
        made: subprocess.Popen[str] = self.helper(command, stdout=subprocess.PIPE, text=True, **options)
        assert made.stdout is not None
        line = made.stdout.readline()
        assert line
        assert line.startswith(says), line
        return made

    # The end

    def _stop_quietly(self) -> list[str]:
        for helper in self._helpers:
            helper.kill()
            helper.wait()
            for stream in (helper.stdin, helper.stdout, helper.stderr):
                if stream is not None:
                    stream.close()
        if self.daemon is None:
            return []
        try:
            self.stop()
        except LabError as error:
            if self.daemon is not None:
                self.daemon.kill()
                self.daemon.wait()
            return [str(error)]
        return []

    def _remove(self) -> list[str]:
        problems = []
        for namespace, inode in self._own_inodes.items():
            if not namespace.path.exists():  # a test has deleted it: its number may be a stranger's by now
                self._seen_inodes.discard(inode)
        with contextlib.suppress(LabError):
            wait_until(lambda: not processes_in(self._seen_inodes), "no process is left in our namespaces", 10.0)
        left = processes_in(self._seen_inodes)
        if left:
            problems.append(f"processes left: {[_title(pid) for pid in left]}")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.run_dir.exists():
            problems += [f"left: {path}" for path in sorted(self.run_dir.rglob("*.sock"))]
        for name in sorted(self._seen_netns):
            if (Path("/run/netns") / name).exists():
                problems.append(f"namespace left: {name}")
                run("ip", "netns", "del", name, check=False)
        self._kept.close()
        for made in self.namespaces.values():
            made.delete()
        links = json.loads(run("ip", "-j", "link").stdout)
        problems += [f"link left: {link['ifname']}" for link in links if link.get("ifname", "").startswith(self.prefix)]
        return problems


def _title(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return f"{pid} {b' '.join(words).decode(errors='replace').strip()}"
    except OSError:
        return str(pid)
