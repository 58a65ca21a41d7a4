"""`anabranch run`: the daemon, in the foreground.

SIGTERM, SIGINT: clean stop, everything given back.  SIGHUP: read the configuration again, or, as the
terminal has gone, a clean stop too.  kill -9 is survived by the VRs: the next start with the same run dir
adopts them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from setproctitle import setproctitle

from manager import kernel, terminal
from manager.child import Zygote
from manager.reactor import Reactor

if TYPE_CHECKING:
    from manager.service import Service

DEFAULT_RUN_DIR: Final = Path("/run/anabranch")
USAGE: Final = 2
ZYGOTE_PATIENCE: Final = 30.0
READERS_PATIENCE: Final = 30.0  # for one who pages through errors, before anything runs


class Signals:
    """What is asked for by signals, from the first moment on."""

    def __init__(self, reactor: Reactor) -> None:
        """Take them."""
        self.reactor = reactor
        self.asked: list[int] = []  # to end
        self.hangup = terminal.Hangup()
        self._early = False  # a reload, before there is anything to reload
        self._reload: Callable[[], None] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            reactor.on_signal(number, partial(self.asked.append, number))
        reactor.on_signal(signal.SIGHUP, self._on_hangup)

    def reload_by(self, reload: Callable[[], None]) -> None:
        """Call this to reload, from now on."""
        self._reload = reload
        if self._early:
            reload()

    def _on_hangup(self) -> None:
        if self.hangup.meant:
            self.asked.append(signal.SIGHUP)
        elif self._reload is None:
            self._early = True
        else:
            self._reload()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give the exit code."""
    parser = argparse.ArgumentParser(prog="anabranch", description="many virtual routers on one machine")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run in the foreground until SIGTERM or SIGINT")
    run.add_argument("--conf", type=Path, required=True, metavar="DIR", help="directory of YAML files")
    run.add_argument(
        "--run-dir", type=Path, metavar="DIR",
        help="sockets and state; default: $ANABRANCH_RUN_DIR, else /run/anabranch",
        default=Path(os.environ.get("ANABRANCH_RUN_DIR") or DEFAULT_RUN_DIR),
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    if os.geteuid() != 0:
        return _complain("anabranch needs root to couple network devices: run it with sudo")
    terminal.take(READERS_PATIENCE)
    return _run(chosen.conf.absolute(), chosen.run_dir.absolute())


def _complain(message: str) -> int:
    sys.stderr.write(f"anabranch: {message}\n")
    return USAGE


def _run(conf_dir: Path, run_dir: Path) -> int:
    setproctitle("anabranch: manager")
    reactor = Reactor(_report_failure)
    broken: list[str] = []
    services: list[Service] = []

    def stopped(pid: int) -> None:
        for service in services:
            service.stopped_process(pid)

    signals = Signals(reactor)
    kernel.set_subreaper()
    zygote = Zygote(reactor, stopped, broken.append)
    zygote.start()  # it warms up while we import
    try:
        return _serve_alone(signals, zygote, services, broken, conf_dir, run_dir)
    finally:
        zygote.close()
        reactor.close()


def _serve_alone(signals: Signals, zygote: Zygote, services: list[Service], broken: list[str], conf_dir: Path,
                 run_dir: Path) -> int:  # fmt: skip
    """Take the run dir, and serve."""
    try:
        # Imported late: this file is read by every `anabranch --help`, too.
        from manager.service import prepare_run_dir  # noqa: PLC0415

        prepare_run_dir(run_dir)
        lock = _lock(run_dir)
    except OSError as error:
        return _complain(f"{run_dir} cannot be used: {error.strerror}" if error.strerror else str(error))
    if lock is None:
        return _complain(f"another anabranch runs with {run_dir}: stop it, or give --run-dir another directory")
    try:
        return _serve(signals, zygote, services, broken, conf_dir, run_dir)
    finally:
        zygote.close()
        with contextlib.suppress(OSError):
            (run_dir / "manager.pid").unlink()
        lock.close()
        with contextlib.suppress(OSError):
            run_dir.rmdir()


def _serve(signals: Signals, zygote: Zygote, services: list[Service], broken: list[str], conf_dir: Path,
           run_dir: Path) -> int:  # fmt: skip
    from manager import namespaces  # noqa: PLC0415
    from manager.service import ApplyError, Service, notify_ready  # noqa: PLC0415

    reactor, asked = signals.reactor, signals.asked
    named_before = namespaces.DIRECTORY.exists()
    _set_up_log()
    service = Service(reactor, zygote, conf_dir, run_dir)
    services.append(service)
    try:
        config = service.read()
        # Nothing is touched before it is known that VRs can run here, unless some do already.
        if not (run_dir / "routers.json").exists():
            reactor.turn_until(lambda: zygote.ready or bool(broken) or bool(asked), ZYGOTE_PATIENCE)
        if not broken and not asked:
            service.start(config)
    except ApplyError as error:
        sys.stderr.write(error.text + "\n")
        return USAGE
    terminal.wait_no_more()
    signals.reload_by(service.reload)
    service.when_settled(notify_ready)
    while not asked and not broken:
        reactor.turn(1.0)
        signals.hangup.look()
    # A second Ctrl-C must not cut the giving back short.
    service.stop()
    if not named_before:
        namespaces.remove_directory()
    return _complain(f"virtual routers cannot run here:\n{''.join(broken)}") if broken else 0


def _lock(run_dir: Path) -> IO[str] | None:
    """Take the run dir; None: somebody has it.  The lock goes with the process, however it ends."""
    file = (run_dir / "manager.pid").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except OSError:  # as on a full disk
        (run_dir / "manager.pid").unlink()
        raise
    return file


def _report_failure(error: BaseException) -> None:
    sys.stderr.write("anabranch: an event could not be handled:\n")
    traceback.print_exception(error, file=sys.stderr)


def _set_up_log() -> None:
    """Log to stderr: lines for people on a terminal, key=value else."""
    import structlog  # noqa: PLC0415

    people = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
            structlog.dev.ConsoleRenderer() if people else structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )  # fmt: skip
