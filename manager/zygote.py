"""The zygote: a warm process from which forwarders, controls, broker, relay and api are forked.

    manager --{role, request} + fds--> zygote --fork--> child: enters its namespace, takes its title,
            <--{spawned, pid} + pidfd---                confines itself, runs its main
            <--{exited | stopped, pid}--

All VR code is imported once, rehearsed and frozen, so that a child shares it with everybody.  There is one
thread, no ZeroMQ context, and none of the manager's libraries.  When the manager goes it ends; its
children live on.

The loop is C's (fastpath/src/zygote.c): no Python runs between two forks, and none in a forwarder.
Another child goes on in Python without the hooks of os.fork(): it has no threads and holds no lock.
"""

from __future__ import annotations

import contextlib
import enum
import gc
import importlib
import os
import random
import resource
import signal
import socket
import struct
import sys
import traceback
from typing import Any, Final, NoReturn

import msgpack
from setproctitle import setproctitle

from fastpath._layout import CONSTANTS
from manager import kernel, terminal

# Imported by name in this process alone: the manager must not load them, not even indirectly.
MAINS: Final = {
    "control": "vrouter.main", "broker": "rsock.broker", "relay": "rsock.relay", "api": "manager.http.main",
}  # fmt: skip
# Of abi/core.h, whose library the manager may not load.
HEAD: Final = struct.Struct("=II")  # of struct zygote_birth
REPORT: Final = struct.Struct("=IIii")  # struct zygote_report
WORKERS: Final = CONSTANTS["MAX_WORKERS"]
FORWARDER: Final = struct.Struct(f"=II{CONSTANTS['ROUTER_NAME_SIZE']}sI{WORKERS}i")  # struct forwarder_birth
FORWARDER_FDS: Final = ("netns", "tables", "state", "state_ro", "listener", "uid_lock")  # enum forwarder_fd
_OPEN_FILES: Final = 1 << 18  # a forwarder has one for each connection of an app
# Of CPython's allocator of small objects (Objects/obmalloc.c).
_ALIGNMENT: Final = 16
_LARGEST: Final = 512
_POOL: Final = 1 << 14
_POOL_HEAD: Final = 48
_MOST_HOLES: Final = 10000  # of one size


class Role(enum.IntEnum):
    """Who goes on in C, and who in Python."""

    FORWARDER = CONSTANTS["ZYGOTE_FORWARDER"]
    PYTHON = CONSTANTS["ZYGOTE_PYTHON"]


class Word(enum.IntEnum):
    """What the zygote reports."""

    READY = CONSTANTS["ZYGOTE_READY"]
    FAILED = CONSTANTS["ZYGOTE_FAILED"]  # a text follows
    SPAWNED = CONSTANTS["ZYGOTE_SPAWNED"]
    EXITED = CONSTANTS["ZYGOTE_EXITED"]
    STOPPED = CONSTANTS["ZYGOTE_STOPPED"]


def main(fd: int) -> NoReturn:
    """Serve one manager on this socket until it goes away."""
    setproctitle("anabranch: zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminal.take(0.0)
    manager = socket.socket(fileno=fd)
    kernel.pin_malloc()
    try:
        mains = {role: importlib.import_module(module).main for role, module in MAINS.items()}
        binding = importlib.import_module("fastpath.binding")
        importlib.import_module(MAINS["control"]).rehearse()
    except Exception:  # noqa: BLE001 - told to the manager, which explains it
        _report(manager, Word.FAILED, traceback.format_exc())
        sys.exit(1)
    _raise_open_files()
    birth = binding.ffi.new("struct zygote_birth *")
    request = binding.ffi.buffer(birth.request)
    gc.collect()
    _filling = _fill_holes()
    kernel.tidy_malloc()
    gc.freeze()
    _report(manager, Word.READY)
    if binding.lib.zygote_serve(manager.fileno(), birth) != 1:
        sys.exit(0)
    manager.detach()
    _run(msgpack.unpackb(request[: birth.length]), birth.fds[0 : birth.fd_count], mains)


def _raise_open_files() -> None:
    """Let children have many files; root may have more than it was given."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
        return
    limit = min(_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _fill_holes() -> list[bytes]:
    """Fill the free places between living objects, and give what fills them.

    New objects of a child would go there, and each would copy a page of its neighbors; in fresh memory
    they lie together.  When as many objects as a pool holds have come one behind the other, no hole of
    their size is left.
    """
    filling = []
    empty = sys.getsizeof(b"")
    for size in range(_ALIGNMENT * (empty // _ALIGNMENT + 1), _LARGEST + 1, _ALIGNMENT):
        row = last = 0
        for _attempt in range(_MOST_HOLES):
            piece = bytes(size - empty)
            filling.append(piece)
            row = row + 1 if id(piece) == last + size else 1
            last = id(piece)
            if row == (_POOL - _POOL_HEAD) // size:
                break
    return filling


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
        random.seed()  # as os.fork() would
        setproctitle(f"anabranch: {name} {role}" if name else f"anabranch: {role}")
        if (netns := fds.pop("netns", None)) is not None:
            kernel.setns(netns)
            os.close(netns)
        identity = {"uid": request["uid"], "gid": request["gid"]}
        if role in {"broker", "relay"}:
            mains[role](**identity, run_dir=request["run_dir"], control_fd=fds["control"])
        else:
            mains[role](name, **identity, fds=fds, run_dir=request["run_dir"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - a child must never return into the zygote's loop
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)
