"""The demonstration that `demo: true` asks for: small networks round the configured routers, and a show.

    Demo.enter    namespaces, veth pairs, hosts; the manager moves into the demo's own namespace, and the show
                  (show.py) gets ready
    Demo.started  the show begins: hosts that answer, the app, a router that comes later
    Demo.stop     ends the show and removes all of it

Nothing of the machine's own network is touched.  The manager calls enter() before it opens its
netlink sockets, and stop() when the routers have given their devices back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from manager.demo import scene
from manager.kernel import setns

STOP_SECONDS: Final = 5.0


class Demo:
    """One demonstration, in one run dir."""

    def __init__(self, run_dir: Path) -> None:
        """Nothing is made yet."""
        self._run_dir = run_dir
        self._home: int | None = None
        self._show: subprocess.Popen[bytes] | None = None

    def enter(self) -> None:
        """Make the scene, or find the one that a crashed manager left, and move into it."""
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        scene.build(self._run_dir)
        there = os.open(scene.path(self._run_dir), os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(there)
        finally:
            os.close(there)
        # It outlives neither us nor our crash: it asks the kernel for SIGTERM at our death.
        command = [sys.executable, "-P", "-m", "manager.demo.show", str(self._run_dir), str(os.getpid())]
        self._show = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def started(self) -> None:
        """Let the show begin; the routers are up."""
        if self._show is not None and self._show.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._show.stdin.write(b"up\n")
                self._show.stdin.close()

    def stop(self) -> list[str]:
        """End the show and remove the scene; give what could not be removed."""
        if self._show is not None:
            assert self._show.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._show.stdin.close()
            self._show.send_signal(signal.SIGTERM)
            try:
                self._show.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._show.kill()
                self._show.wait()
            self._show = None
        if self._home is not None:
            setns(self._home)
            os.close(self._home)
            self._home = None
        with contextlib.suppress(FileNotFoundError):
            scene.addition(self._run_dir).unlink()
            scene.addition(self._run_dir).parent.rmdir()
        left = scene.remove(self._run_dir)
        if not left:
            print("The demo is over: its namespaces, devices, processes and files are gone.", flush=True)
        return left
