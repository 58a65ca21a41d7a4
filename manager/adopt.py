"""Takes over VRs that outlived a manager: same processes, same rings, no packet lost.

    routers.json --> pids --pidfd--> alive, and it is he who listens at vr/NAME.sock
    forwarder    --SEGMENTS, ADOPT--> segments, ports with their fds
    its fd table --pidfd_getfd-->     listener, uid lock (the very same open files)

What cannot be adopted whole is killed and begun anew: a VR whose forwarder died while there was no
manager has lost its rings in any case.  Nothing of it stays here then: a device may live as long as its fd.
The exchange waits for each forwarder for a moment only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from fastpath import segment, stats
from fastpath._layout import CONSTANTS
from manager import kernel, namespaces, uids
from manager.child import Child
from manager.links import GoneError
from manager.peers import MAX_FDS, MAX_RECORD, listen
from manager.ports import PatchEnd, Port, unpack_spec
from manager.resolve import RouterPlan
from manager.resources import Resources
from manager.unit import Box, Unit
from rsock.wire import HEADER, MAGIC, Flag, Op

PATIENCE: Final = 1.0
LONGEST: Final = 5.0  # seconds that all ports of a forwarder may take: others wait meanwhile
MOST_PARTS: Final = CONSTANTS["MAX_PORTS"] * CONSTANTS["MAX_WORKERS"]
MOST_FDS: Final = 12  # of a part

log = structlog.get_logger()


class LostError(Exception):
    """This VR cannot be adopted."""


@dataclass(frozen=True)
class _Found:
    """A port that a forwarder serves."""

    spec: bytes
    fds: list[int]


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Give what the last manager knew of its VRs; only root writes there, but disks fail."""
    try:
        found: object = json.loads((run_dir / "routers.json").read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        log.warning("routers.json is damaged: no router is adopted", reason=str(error))
        return []
    return [record for record in found if _is_record(record)] if isinstance(found, list) else []


def _is_record(record: object) -> bool:
    """Tell whether a record has what adopting it takes."""
    if not isinstance(record, dict):
        return False
    texts = all(isinstance(record.get(key), str) and "\0" not in record[key] for key in ("name", "netns"))
    numbers = all(type(record.get(key)) is int for key in ("id", "uid", "restarts"))
    pids, interfaces = record.get("pids"), record.get("interfaces")
    if not (texts and numbers and isinstance(pids, dict) and isinstance(interfaces, dict)):
        return False
    if "/" in record["name"] + record["netns"]:
        return False
    return all(pid is None or (type(pid) is int and 0 < pid < 1 << 31) for pid in pids.values()) and all(
        isinstance(entry, dict) and isinstance(entry.get("key"), str | None) and type(entry.get("port")) is int
        for entry in interfaces.values()
    )


def adopt_all(run_dir: Path, box: Box, plans: dict[str, RouterPlan], uid_range: tuple[int, int]) -> list[Unit]:
    """Adopt what lives of a manager before us; end what cannot be adopted."""
    units = []
    for record in records(run_dir):
        plan = plans.get(record["name"])
        processes = _open_processes(run_dir, record)
        try:
            units.append(_adopt(box, plan, uid_range, record, processes))
            log.info("adopted", router=record["name"], **{role: pid for role, (pid, _fd) in processes.items()})
        except Exception as error:  # noqa: BLE001 - what a forwarder says may be anything
            if processes:
                log.warning("not adopted", router=record["name"], reason=str(error))
            _end(processes)
    return units


def _open_processes(run_dir: Path, record: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Find the processes of a VR that live: role -> (pid, pidfd)."""
    found = {}
    for role, folder in (("forwarder", "vr"), ("control", "control")):
        path = run_dir / folder / f"{record['name']}.sock"
        pid = record["pids"].get(role)
        if not pid:
            continue
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        # The number may mean a stranger by now: ours has the listener.
        listener = _listener_of(pid, pidfd, path)
        if listener is None:
            os.close(pidfd)
            continue
        listener.close()
        found[role] = (pid, pidfd)
    return found


def _end(processes: dict[str, tuple[int, int]]) -> None:
    for _pid, pidfd in processes.values():
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with contextlib.suppress(OSError):
            _wait(pidfd)
        os.close(pidfd)


def _wait(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(PATIENCE * 1000)


def _adopt(box: Box, plan: RouterPlan | None, uid_range: tuple[int, int], record: dict[str, Any],
           processes: dict[str, tuple[int, int]]) -> Unit:  # fmt: skip
    if plan is None:
        raise LostError("it is not configured any more")
    if "forwarder" not in processes:
        raise LostError("its forwarder is dead")
    pid, pidfd = processes["forwarder"]
    unit = Unit(box, plan, int(record["id"]), uid_range)
    with contextlib.ExitStack() as undo:  # what has come so far is given back where the rest does not

        def held(fd: int) -> int:
            undo.callback(os.close, fd)
            return fd

        vr_listener = _listener_of(pid, pidfd, unit.vr_path)
        control_listener = None
        if "control" in processes:
            control_listener = _listener_of(*processes["control"], unit.control_path)
        uid_lock = _duplicate(pid, pidfd, lambda target: target.startswith(f"{uids.DIRECTORY}/"))
        if vr_listener is None or uid_lock is None:
            raise LostError("its forwarder does not hold what it should")
        held(uid_lock)
        if control_listener is None:
            control_listener = listen(unit.control_path, socket.SOCK_STREAM, 0o600)
        with _connect(unit.vr_path) as connection:
            tables_ro, state_ro = map(held, _segments(connection))
            _check_workers(plan, state_ro)
            found = _ports(connection)
            undo.callback(_close_all, found)
            undo.callback(unit.forget_offload)
            if offload := _offload(connection):
                unit.adopt_offload(*offload)
        netns_fd = held(namespaces.open_path(namespaces.path_of(record["netns"])))
        resources = Resources(
            record["netns"], netns_fd, int(record["uid"]), uid_lock, held(_reopen(tables_ro)),
            held(_reopen(state_ro)), tables_ro, state_ro, vr_listener, control_listener,
        )  # fmt: skip
        undo.callback(resources.view.close)
        unit.restarts = int(record["restarts"])
        ports: dict[str, Port] = {}
        undo.callback(_release_all, ports)
        _adopt_ports(box, unit, plan, record, resources, found, ports)
        undo.pop_all()
    _close_all(found)
    children = {role: Child(box.reactor, *process) for role, process in processes.items()}
    unit.adopt(resources, children["forwarder"], children.get("control"), ports)
    return unit


def _close_all(found: dict[int, list[_Found]]) -> None:
    """Close what belongs to no port."""
    for fd in (fd for served in found.values() for part in served for fd in part.fds):
        os.close(fd)
    found.clear()


def _release_all(ports: dict[str, Port]) -> None:
    for port in ports.values():
        with contextlib.suppress(OSError, GoneError):
            port.release()


def _adopt_ports(box: Box, unit: Unit, plan: RouterPlan, record: dict[str, Any], resources: Resources,
                 found: dict[int, list[_Found]], ports: dict[str, Port]) -> None:  # fmt: skip
    """Join what the forwarder serves with what is configured."""
    for interface in record["interfaces"].values():
        key, number = interface["key"], interface["port"]
        port_plan = plan.ports.get(key)
        if not number or port_plan is None or key in ports:
            continue
        port = ports[key] = unit.make_adopted_port(port_plan, number, resources)
        served = found.get(number, [])
        while served:
            part = served[0]
            if port.present:
                port.adopt_part(*_taken(served))
                continue
            driver = stats.DRIVERS.get(unpack_spec(part.spec)["driver"], "").replace("_", "-")
            if driver != port.driver:  # the configuration was changed while there was no manager
                raise LostError(f"{port_plan.device} is to have the driver {port.driver}, and has {driver}")
            if isinstance(port, PatchEnd):
                box.adopt_patch(port_plan.own, port_plan.peer, part.fds, unpack_spec(part.spec)["generation"])
            port.adopt(*_taken(served))


def _taken(served: list[_Found]) -> tuple[bytes, list[int]]:
    """Take the next one out: it is the port's from now on."""
    part = served.pop(0)
    return part.spec, part.fds


def _listener_of(pid: int, pidfd: int, path: Path) -> socket.socket | None:
    """Duplicate the listening socket with this path out of a process."""
    for number in _numbers(pid):
        if not _target(pid, number).startswith("socket:"):
            continue
        try:
            duplicate = kernel.pidfd_getfd(pidfd, number)
        except OSError:
            continue
        try:
            candidate = socket.socket(fileno=duplicate)
        except OSError:  # of a family without names, as AF_XDP
            os.close(duplicate)
            continue
        with contextlib.suppress(OSError):
            listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if candidate.family == socket.AF_UNIX and listens and candidate.getsockname() == str(path):
                candidate.setblocking(False)
                return candidate
        candidate.close()
    return None


def _duplicate(pid: int, pidfd: int, wanted: Any) -> int | None:
    for number in _numbers(pid):
        if wanted(_target(pid, number)):
            return kernel.pidfd_getfd(pidfd, number)
    return None


def _numbers(pid: int) -> list[int]:
    try:
        return [int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def _target(pid: int, number: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/{number}").readlink())
    except OSError:
        return ""


def _reopen(fd: int) -> int:
    """Open a segment for writing again: its successor's writer needs that."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise LostError("a segment is no file")
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(PATIENCE)
    connection.connect(str(path))
    return connection


def _ask(connection: socket.socket, op: Op) -> tuple[bytes, list[int], bool]:
    """Take one reply to the request that was sent: body, fds, whether more follow."""
    data, fds, _flags, _address = socket.recv_fds(connection, MAX_RECORD, MAX_FDS)
    if len(data) < HEADER.size:
        raise LostError("its forwarder does not answer")
    _magic, answered, flags, _session, _request, _slot, error, _cookie = HEADER.unpack_from(data)
    if answered != op or flags & Flag.ERROR:
        raise LostError(f"its forwarder refused: {os.strerror(error)}")
    return data[HEADER.size :], fds, bool(flags & Flag.MORE)


def _segments(connection: socket.socket) -> tuple[int, int]:
    connection.send(HEADER.pack(MAGIC, Op.SEGMENTS, 0, 0, 1, 0, 0, 0))
    _body, fds, _more = _ask(connection, Op.SEGMENTS)
    if len(fds) != 2:
        raise LostError("its forwarder gave no segments")
    segment.check(fds[0], segment.KIND_TABLES)
    segment.check(fds[1], segment.KIND_STATE)
    return fds[0], fds[1]


def _check_workers(plan: RouterPlan, state_ro: int) -> None:
    """Refuse a forwarder that has not the workers that are configured now: it cannot get others."""
    with segment.Segment(state_ro, segment.KIND_STATE) as state:
        workers = stats.workers(state)
    if workers != plan.dataplane.workers:
        raise LostError("it has another number of workers")


def _offload(connection: socket.socket) -> tuple[bytes, list[int]] | None:
    """Get the maps of the XDP offload, where there are any."""
    connection.send(HEADER.pack(MAGIC, Op.OFFLOAD_MAPS, 0, 0, 3, 0, 0, 0))
    try:
        body, fds, _more = _ask(connection, Op.OFFLOAD_MAPS)
    except LostError:
        return None
    return body, fds


def _ports(connection: socket.socket) -> dict[int, list[_Found]]:
    """Ask for all ports: of each the part of worker 0 comes first."""
    connection.send(HEADER.pack(MAGIC, Op.ADOPT, 0, 0, 2, 0, 0, 0))
    found: dict[int, list[_Found]] = {}
    deadline = time.monotonic() + LONGEST
    try:
        for _turn in range(MOST_PARTS + 1):
            body, fds, more = _ask(connection, Op.ADOPT)
            part = _Found(body, fds[:MOST_FDS])
            for fd in fds[MOST_FDS:]:
                os.close(fd)
            found.setdefault(unpack_spec(body)["port"] if body else 0, []).append(part)
            if not more:
                return found
            if time.monotonic() > deadline:
                break
        raise LostError("its forwarder has no end of ports")
    except BaseException:
        _close_all(found)
        raise
