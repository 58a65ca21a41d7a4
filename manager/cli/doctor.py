"""`vr doctor`: probes this machine for what Anabranch needs, and says how to put right what is missing.

Each probe tries the thing itself, in a child process and a namespace that end with it, rather than
looking for versions or options.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manager.cli.client import Manager
from manager.cli.errors import CliError, Exit
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from manager.cli.main import Request

# linux/capability.h; the names as capsh prints them.
NEEDED_CAPABILITIES: Final = {"kill": 5, "setgid": 6, "setuid": 7, "net_admin": 12, "net_raw": 13, "sys_admin": 21}
WANTED_FILES: Final = 4096
WANTED_MEMORY: Final = 256 << 20
SOL_PACKET: Final = 263
PACKET_RX_RING: Final = 5
PACKET_VERSION: Final = 10
PACKET_VNET_HDR: Final = 15
TPACKET_V2: Final = 1
CLONE_NEWNET: Final = 0x40000000

Finding = dict[str, Any]


def doctor(request: Request) -> tuple[list[Finding], Exit]:
    """Probe everything; exit 1 when something that is needed is missing."""
    findings = [probe() for probe in PROBES]
    findings.append(_manager(request.run_dir))
    failed = any(finding["state"] == "fail" for finding in findings)
    return findings, Exit.NEGATIVE if failed else Exit.OK


def _finding(name: str, problem: str | None, message: str, fix: str = "", *, needed: bool = True) -> Finding:
    """Make a finding: ok with `message`, or with a problem what it is and how to mend it."""
    if problem is None:
        return {"name": name, "state": "ok", "message": message, "help": None}
    return {"name": name, "state": "fail" if needed else "warn", "message": problem, "help": fix or None}


def _in_child(probe: Callable[[], None]) -> str | None:
    """Run a probe in a child; give what it says went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        problem = ""
        try:
            probe()
        except OSError as error:
            problem = error.strerror or str(error)
        os.write(write, problem.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        problem = answer.read().decode()
    os.waitpid(child, 0)
    return problem or None


def _new_namespace() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _capabilities() -> Finding:
    status = Path("/proc/self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    missing = [name for name, bit in NEEDED_CAPABILITIES.items() if not effective >> bit & 1]
    problem = f"missing here: {', '.join(missing)}" if missing else None
    return _finding("capabilities", problem, "all that the manager needs", "run as root (sudo vr doctor)")


def _namespaces() -> Finding:
    problem = _in_child(_new_namespace)
    return _finding("network namespaces", problem, "can be made", "a kernel with CONFIG_NET_NS, and CAP_SYS_ADMIN")


def _rings() -> Finding:
    def probe() -> None:
        _new_namespace()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as ring:
            ring.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            ring.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            ring.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("IIII", 65536, 4, 2048, 128))

    return _finding(
        "packet rings", _in_child(probe), "AF_PACKET version 2 with vnet headers", "CONFIG_PACKET, CAP_NET_RAW"
    )


def _bpf_programs() -> Finding:
    from manager import bpf_objects

    if not bpf_objects.available():
        problem: str | None = "this installation was built without clang: no driver af-xdp, no offload"
    else:
        problem = _in_child(lambda: bpf_objects.load("redirect", entries={"sockets": 1}).close())
    return _finding(
        "BPF programs", problem, "can be loaded", "clang when building; CAP_BPF, CAP_NET_ADMIN", needed=False
    )


def _memory_files() -> Finding:
    def probe() -> None:
        fd = os.memfd_create("probe", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 4096)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    return _finding("sealed memory files", _in_child(probe), "work", "a kernel with CONFIG_MEMFD_CREATE")


def _seccomp() -> Finding:
    path = Path("/proc/sys/kernel/seccomp/actions_avail")
    problem = None if path.exists() else "not there: forwarders would run without their second wall"
    return _finding("seccomp", problem, "filters work", "a kernel with CONFIG_SECCOMP_FILTER")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = hard != resource.RLIM_INFINITY and hard < WANTED_FILES
    problem = f"at most {hard}: enough for a few routers only" if low else None
    fix = f"ulimit -n {WANTED_FILES}, or LimitNOFILE= in the unit"
    return _finding("open files", problem, f"{soft}, at most {hard}", fix, needed=False)


def _memory() -> Finding:
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) * 1024
    problem = f"{available >> 20} MiB available" if available < WANTED_MEMORY else None
    return _finding(
        "memory", problem, f"{available >> 20} MiB available", "a router takes 3 MiB, a ring up to 16", needed=False
    )


def _programs() -> Finding:
    missing = [name for name in ("ip",) if shutil.which(name) is None]
    problem = f"not found: {', '.join(missing)}" if missing else None
    return _finding("programs", problem, "ip is there", "apt-get install iproute2", needed=False)


def _core() -> Finding:
    """The C core loads and fits the layout that Python reads segments with; in a process of its own."""
    code = "import importlib; importlib.import_module('fastpath.binding')"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    problem = done.stderr.strip().splitlines()[-1] if done.returncode else None
    return _finding("C core", problem, "loads, and fits this Python code", "make build")


def _manager(run_dir: Path) -> Finding:
    try:
        with Manager(run_dir) as manager:
            count = len(manager.call(ManagerOp.ROUTERS))
    except CliError as error:
        fix = f"anabranch run --conf DIR --run-dir {run_dir}"
        return _finding("manager", error.message, "", fix, needed=False)
    return _finding("manager", None, f"runs in {run_dir} with {count} routers")


PROBES: Final[tuple[Callable[[], Finding], ...]] = (
    _capabilities,
    _namespaces,
    _rings,
    _bpf_programs,
    _memory_files,
    _seccomp,
    _open_files,
    _memory,
    _programs,
    _core,
)
