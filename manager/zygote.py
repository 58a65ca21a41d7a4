"""The zygote: a warm process from which forwarders, controls and the broker are forked.

    manager --number, {role, ...} + fds--> zygote --fork--> child: enters its namespace, takes its title,
            <--{spawned, pid} + pidfd---                    confines itself, runs its main
            <--{exited | stopped, pid}--

All VR code is imported once and frozen, so that a child shares it with everybody: about a millisecond
and a megabyte for a process.  It has one thread, no ZeroMQ context, and none of the manager's
libraries.  When the manager goes it ends; its children live on.

Its loop is C's (fastpath/src/base/zygote.c), so that no Python runs between two forks.  A child goes on
in Python without the hooks of os.fork(): there is one thread, and no lock is held.
"""

from __future__ import annotations

import contextlib
import enum
import gc
import importlib
import os
import resource
import signal
import socket
import struct
import sys
import traceback
from typing import Any, Final, NoReturn

import msgpack
from setproctitle import setproctitle

from manager import kernel

# Imported by name in this process alone: the manager must not load them, not even indirectly.
MAINS: Final = {"forwarder": "fastpath.forwarder", "control": "vrouter.main", "broker": "rsock.broker"}
# struct zygote_report and its words in abi/core.h, which the manager may not import.
REPORT: Final = struct.Struct("=IIii")
NUMBER: Final = struct.Struct("=I")
_OPEN_FILES: Final = 1 << 16


class Word(enum.IntEnum):
    """What the zygote reports."""

    READY = 1
    FAILED = 2  # a text follows
    SPAWNED = 3
    EXITED = 4
    STOPPED = 5


def main(fd: int) -> NoReturn:
    """Serve one manager on this socket until it goes away."""
    setproctitle("anabranch: zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    manager = socket.socket(fileno=fd)
    try:
        mains = {role: importlib.import_module(module).main for role, module in MAINS.items()}
        binding = importlib.import_module("fastpath.binding")
        importlib.import_module(MAINS["control"]).rehearse()
    except Exception:  # noqa: BLE001 - told to the manager, which explains it
        _report(manager, Word.FAILED, traceback.format_exc())
        sys.exit(1)
    limit = min(_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    birth = binding.ffi.new("struct zygote_birth *")
    request = binding.ffi.buffer(birth.request)
    gc.collect()
    gc.freeze()
    _report(manager, Word.READY)
    if binding.lib.zygote_serve(manager.fileno(), birth) != 1:
        sys.exit(0)
    manager.detach()
    _run(msgpack.unpackb(request[: birth.length]), birth.fds[0 : birth.fd_count], mains)


def _report(manager: socket.socket, word: Word, text: str = "") -> None:
    """Tell the manager; when it has gone, that is noticed later."""
    with contextlib.suppress(OSError):
        manager.send(REPORT.pack(word, 0, 0, 0) + text.encode())


def _run(request: dict[str, Any], numbers: list[int], mains: dict[str, Any]) -> NoReturn:
    """Be the child."""
    status = 1
    try:
        fds = dict(zip(request["fds"], numbers, strict=True))
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
