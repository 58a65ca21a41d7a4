"""The zygote: a warm process from which forwarders, controls and the broker are forked.

    manager --{op: spawn, role, ...} + fds--> zygote --fork--> child: enters its namespace, takes its title,
            <--{op: spawned, pid} + pidfd---                   confines itself, runs its main
            <--{op: exit | stopped, pid}----

All VR code is imported once and frozen, so that a child shares it with everybody: about a millisecond
and a megabyte for a process.  It has one thread, no ZeroMQ context, and none of the manager's
libraries.  When the manager goes it ends; its children live on.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import traceback
from typing import Any, Final, NoReturn

import msgpack
from setproctitle import setproctitle

from manager import kernel

# Imported by name in this process alone: the manager must not load them, not even indirectly.
MAINS: Final = {"forwarder": "fastpath.forwarder", "control": "vrouter.main", "broker": "rsock.broker"}
MAX_MESSAGE: Final = 1 << 16
MAX_FDS: Final = 64
_OPEN_FILES: Final = 1 << 16


def main(fd: int) -> NoReturn:
    """Serve one manager on this socket until it goes away."""
    setproctitle("anabranch: zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    manager = socket.socket(fileno=fd)
    try:
        mains = {role: importlib.import_module(module).main for role, module in MAINS.items()}
    except Exception:  # noqa: BLE001 - told to the manager, which explains it
        _send(manager, {"op": "failed", "error": traceback.format_exc()})
        sys.exit(1)
    limit = min(_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    gc.collect()
    gc.freeze()
    _send(manager, {"op": "ready"})
    poll = select.poll()
    poll.register(manager, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        for number, _events in poll.poll():
            if number == wake_read:
                os.read(wake_read, 4096)
                _report(manager)
            elif not _serve(manager, mains, (wake_read, wake_write)):
                sys.exit(0)


def _send(manager: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Tell the manager; when it has gone, the next read says so."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with contextlib.suppress(OSError):
        manager.sendmsg([msgpack.packb(message)], rights)


def _report(manager: socket.socket) -> None:
    """Reap the dead; tell of the dead and of the stopped."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return
        if found is None:
            return
        stopped = found.si_code in {os.CLD_STOPPED, os.CLD_TRAPPED}
        status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        _send(manager, {"op": "stopped" if stopped else "exit", "pid": found.si_pid, "status": status})


def _serve(manager: socket.socket, mains: dict[str, Any], own: tuple[int, int]) -> bool:
    """Take one request; False: the manager has gone."""
    try:
        data, fds, _flags, _address = socket.recv_fds(manager, MAX_MESSAGE, MAX_FDS)
    except OSError:
        return False
    if not data:
        return False
    request = msgpack.unpackb(data)
    pid = os.fork()
    if pid == 0:
        for number in (manager.detach(), *own):
            os.close(number)
        _run(request, dict(zip(request["fds"], fds, strict=True)), mains)
    for number in fds:
        os.close(number)
    pidfd = os.pidfd_open(pid)
    _send(manager, {"op": "spawned", "request": request["request"], "pid": pid}, (pidfd,))
    os.close(pidfd)
    return True


def _run(request: dict[str, Any], fds: dict[str, int], mains: dict[str, Any]) -> NoReturn:
    """Be the child."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        role, name = request["role"], request["name"]
        setproctitle(f"anabranch: {name} {role}" if name else f"anabranch: {role}")
        if (netns := fds.pop("netns", None)) is not None:
            kernel.setns(netns)
            os.close(netns)
        identity = {"uid": request["uid"], "gid": request["gid"]}
        if role == "broker":
            mains[role](**identity, run_dir=request["run_dir"], control_fd=fds["control"])
        elif role == "control":
            mains[role](name, **identity, fds=fds, run_dir=request["run_dir"])
        else:
            mains[role](name, **identity, fds=fds)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - a child must never return into the zygote's loop
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)
