"""The manager's side of the zygote: processes by request, and word of their end."""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgpack
import structlog

from manager.reactor import READ, Reactor
from manager.zygote import FORWARDER, FORWARDER_FDS, HEAD, REPORT, WORKERS, Role, Word

ROOT: Final = str(Path(__file__).resolve().parent.parent)
_START: Final = "import sys; sys.path.insert(0, sys.argv[1]); from manager.zygote import main; main(int(sys.argv[2]))"

_MAX_REPORT: Final = 1 << 16
_RETRY: Final = 0.5

log = structlog.get_logger()


class Child:
    """A process, by its pidfd: the number cannot come to mean another one."""

    def __init__(self, reactor: Reactor, pid: int, pidfd: int) -> None:
        """Take over the pidfd."""
        self.pid = pid
        self.pidfd = pidfd
        self._reactor = reactor
        self._watched = False

    @property
    def alive(self) -> bool:
        """Tell whether it runs."""
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return False
        return True

    def watch(self, ended: Callable[[], None]) -> None:
        """Call back once it has ended."""

        def ready() -> None:
            # A child of ours only where the zygote died before it.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            self.close()
            ended()

        self._watched = True
        self._reactor.add(self.pidfd, READ, ready)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it; fine when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Forget it."""
        if self.pidfd >= 0:
            if self._watched:
                self._reactor.remove(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1


class Zygote:
    """Starts the zygote, and starts it again when it dies."""

    def __init__(self, reactor: Reactor, stopped: Callable[[int], None], broken: Callable[[str], None]) -> None:
        """Prepare; `stopped` hears of a process that was stopped, `broken` why no zygote can be had."""
        self._reactor = reactor
        self._stopped = stopped
        self._broken = broken
        self._requests = itertools.count(1)
        self._waiting: dict[int, tuple[bytes, list[int], Callable[[Child], None]]] = {}
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self._closing = False

    @property
    def pid(self) -> int:
        """Give its pid; 0: none."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the process; it warms up while we go on."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, ROOT, str(its.fileno())],
            stdin=subprocess.DEVNULL, pass_fds=[its.fileno()], start_new_session=True, cwd="/",
        )  # fmt: skip
        its.close()
        ours.setblocking(False)
        self._socket = ours
        self._reactor.add(ours.fileno(), READ, self._on_message)
        for data, fds, _done in self._waiting.values():
            self._send(data, fds)

    def spawn(self, role: str, name: str, *, uid: int, gid: int, run_dir: str, fds: dict[str, int],
              done: Callable[[Child], None], workers: int = 1, cpus: Sequence[int] = ()) -> None:  # fmt: skip
        """Ask for a process; `done` gets it.  The fds stay ours.  A forwarder has workers, on processors of theirs."""
        number = next(self._requests)
        if role == "forwarder":
            fds = {what: fds[what] for what in FORWARDER_FDS}
            data = HEAD.pack(number, Role.FORWARDER) + FORWARDER.pack(
                uid, gid, name.encode(), workers, *(list(cpus) + [-1] * WORKERS)[:WORKERS]
            )
        else:
            request = {"role": role, "name": name, "uid": uid, "gid": gid, "run_dir": run_dir, "fds": list(fds)}
            data = HEAD.pack(number, Role.PYTHON) + msgpack.packb(request)
        kept = [os.dup(fd) for fd in fds.values()]
        self._waiting[number] = (data, kept, done)
        self._send(data, kept)

    def close(self) -> None:
        """End the zygote; its children live on."""
        self._closing = True
        self._drop_socket()
        for _data, fds, _done in self._waiting.values():
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _send(self, data: bytes, fds: list[int]) -> None:
        if self._socket is None:
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        # Blocking: requests are few and small, and the zygote does nothing but take them.
        self._socket.setblocking(True)
        with contextlib.suppress(OSError):
            self._socket.sendmsg([data], rights)
        self._socket.setblocking(False)

    def _on_message(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data, fds, _flags, _address = socket.recv_fds(self._socket, _MAX_REPORT, 1)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if len(data) < REPORT.size:
                self._on_death()
                return
            self._take(data, fds)

    def _take(self, data: bytes, fds: list[int]) -> None:
        word, request, pid, status = REPORT.unpack_from(data)
        if word == Word.SPAWNED and fds and (entry := self._waiting.pop(request, None)):
            _data, kept, done = entry
            for fd in kept:
                os.close(fd)
            done(Child(self._reactor, pid, fds[0]))
        elif word == Word.SPAWNED:  # no process was to be had
            log.error("cannot fork")
            self._reactor.after(_RETRY, lambda: self._again(request))
        elif word == Word.EXITED and status:
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            log.info("exit", pid=pid, how=how)
        elif word == Word.STOPPED:
            self._stopped(pid)
        elif word == Word.READY:
            self.ready = True
        elif word == Word.FAILED:
            self._closing = True
            self._broken(data[REPORT.size :].decode())

    def _again(self, request: int) -> None:
        if entry := self._waiting.get(request):
            self._send(entry[0], entry[1])

    def _on_death(self) -> None:
        self._drop_socket()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._closing:
            return
        if not self.ready:
            self._broken("it ended while it started")
            return
        log.warning("zygote died: starting another")
        self.ready = False
        self.start()

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._reactor.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None
