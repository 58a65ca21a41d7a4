"""Other people's routing daemons in a namespace that the test made: FRR, BIRD, GoBGP, OpenBGPD, ExaBGP.

    with Frr(namespace, CONFIG, daemons=("bgpd", "bfdd")) as frr:
        eventually(lambda: frr.json("show bgp summary json")["ipv4Unicast"], 10, "a summary")

A peer is judged by its own command line: `show()` gives text, `json()` what it tells as JSON.  All files lie in a
directory of the peer's own under /tmp, but for FRR, which knows only its path space (`-N`, here a name that nobody
else has) under /etc/frr and /run/frr, and a directory for each process under /var/tmp/frr.  Everything runs in the
foreground as our child, so `stop()` knows the processes by their pids; it removes all files, also when the start
failed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

import pytest
from lab import LabError, Namespace, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FRR_PROGRAMS: Final = Path("/usr/lib/frr")
OPENBGPD_HOME: Final = Path("/run/openbgpd")
ZEBRA_NETLINK_BUFFER: Final = 90_000_000
START: Final = 60.0
_counter: Final = itertools.count()
AnyPeer = TypeVar("AnyPeer", bound="Peer")


def eventually(check: Callable[[], Any], timeout: float = 30.0, what: str = "", interval: float = 0.1) -> Any:
    """Poll until `check` gives something true, and give that.

    What a check raises because an answer is not there yet (KeyError, IndexError, AssertionError, ...) counts as
    "not yet"; at the deadline the last of these errors, or the last value, is told.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            value, error = check(), None
        except (LookupError, TypeError, ValueError, AssertionError, subprocess.SubprocessError) as raised:
            value, error = None, raised
        if error is None and value:
            return value
        if time.monotonic() > deadline:
            last = f"{value!r:.2000}" if error is None else f"{type(error).__name__}: {error}"
            raise LabError(f"not within {timeout:g} s: {what or check}; last: {last}") from error
        time.sleep(interval)


def program(path: str | Path) -> str:
    """Give the path of a daemon; without it the test is skipped (which CI counts as a failure)."""
    found = shutil.which(path) or shutil.which(path, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"the program {path} is not installed")
    return found


class Peer:
    """A foreign daemon (or several that are one router) in a namespace; see the module."""

    kind: ClassVar = "peer"

    def __init__(self, namespace: Namespace, config: str) -> None:
        """Choose the names; nothing is started yet."""
        self.namespace = namespace
        self.config = config
        self.name = f"ab{os.getpid()}x{next(_counter)}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"anabranch-{self.kind}-{self.name}-", dir="/tmp"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop it; where the test has failed, tell what the daemon said."""
        if kind is not None:
            print(f"--- {self.kind} {self.name}\n{self.log()[-4000:]}")
        self.stop()

    def start(self) -> None:
        """Start the daemons and wait until they answer."""
        raise NotImplementedError

    def show(self, command: str) -> str:
        """Run a command of the peer's command line; give what it prints."""
        raise NotImplementedError

    def json(self, command: str) -> Any:
        """Run a command of the peer's command line; give the JSON that it prints."""
        text = self.show(command)
        return json.loads(text) if text.strip() else {}

    def log(self) -> str:
        """Give what the daemons have said."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))

    def pid(self, which: str = "") -> int:
        """Give the pid of a daemon (of the first one, when none is named)."""
        return (self.processes[which] if which else next(iter(self.processes.values()))).pid

    def kill(self, which: str = "", number: signal.Signals = signal.SIGKILL) -> None:
        """Kill one daemon, as a crash would (the first one, when none is named); `stop` is still due."""
        process = self.processes.pop(which or next(iter(self.processes)))
        process.send_signal(number)
        process.wait(START)

    def stop(self) -> None:
        """End all processes by their pids, and remove all files."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a daemon that stays in the foreground."""
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.namespace.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def _ready(self, check: Callable[[], bool], what: str) -> None:
        def ready() -> bool:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise LabError(f"{self.kind}: {name} ended with {process.returncode}:\n{self.log()[-4000:]}")
            return check()

        wait_until(ready, f"{self.kind}: {what}", START, interval=0.02)

    def _file(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def _no_listener(self, port: int = 179) -> None:
        """A daemon left over would answer in the place of the one that is started."""
        taken = self.namespace.run("ss", "-Hltn", f"sport = :{port}").stdout
        assert not taken, f"somebody listens already: {taken}"


class Peers(contextlib.ExitStack):
    """Peers that are stopped together."""

    def run(self, peer: AnyPeer) -> AnyPeer:
        """Start a peer, and wait until it answers."""
        self.enter_context(peer)
        return peer


class Frr(Peer):
    """FRR: zebra (unless `zebra=False`: then bgpd alone, no kernel routes) and the daemons that are named."""

    kind: ClassVar = "frr"

    def __init__(
        self,
        namespace: Namespace,
        config: str,
        daemons: Sequence[str] = ("bgpd",),
        *,
        zebra: bool = True,
        options: Sequence[str] = (),
    ) -> None:
        """Take the integrated configuration (as in frr.conf), and further options for the daemons but zebra."""
        for daemon in ("zebra", *daemons):
            program(FRR_PROGRAMS / daemon)
        self._vtysh = program("vtysh")
        super().__init__(namespace, config)
        self.daemons = [*(["zebra"] if zebra else []), *daemons]
        self._options = [*options, *([] if zebra else ["-n", "-Z"])]
        self.state = Path("/var/run/frr") / self.name
        self._places = [self.state, Path("/etc/frr") / self.name]

    def start(self) -> None:
        """Start zebra first, then the others; then load the configuration."""
        self._no_listener()
        settings = self._places[1]
        if not self.state.parent.exists():  # made at boot as a rule; empty, and shared by all
            self.state.parent.mkdir(mode=0o755, exist_ok=True)
            shutil.chown(self.state.parent, "frr", "frr")
        for place, group in ((self.state, "frr"), (settings, "frrvty")):
            place.mkdir(mode=0o755)  # 0o775 for vtysh's users, where there are any
            shutil.chown(place, "frr", group)
        (settings / "vtysh.conf").touch()
        (settings / "frr.conf").write_text(self.config)
        shutil.chown(settings / "frr.conf", "frr", "frr")
        for name in self.daemons:
            self.launch(name)
        loaded = run(self._vtysh, "-N", self.name, "-b", check=False)
        said = loaded.stdout + loaded.stderr
        assert loaded.returncode == 0, said
        assert "Unknown command" not in said, said

    def launch(self, name: str) -> None:
        """Start one daemon, without configuration, and wait until its command line answers."""
        own = ["-s", str(ZEBRA_NETLINK_BUFFER)] if name == "zebra" else self._options
        for left in self.state.glob(f"{name}.*"):
            left.unlink()
        common = ("-N", self.name, "-f", "/dev/null", "-P", "0", "--log", "stdout")
        process = self._run(name, str(FRR_PROGRAMS / name), *common, *own)
        self._places.append(Path("/var/tmp/frr") / f"{name}.{process.pid}")  # notes for the case of a crash
        self._ready((self.state / f"{name}.vty").exists, f"{name} answers")
        if name == "zebra":
            self._ready((self.state / "zserv.api").exists, "zebra serves")

    def restart(self, name: str) -> None:
        """Start a daemon that was killed again, and give it its part of the configuration."""
        self.launch(name)
        run(self._vtysh, "-N", self.name, "-b", check=False)

    def show(self, command: str) -> str:
        """Run a command of vtysh."""
        return run(self._vtysh, "-N", self.name, "-c", command).stdout

    def established(self, neighbor: str) -> bool:
        """Tell whether the BGP session with this neighbor is up."""
        found: dict[str, Any] = self.json(f"show bgp neighbor {neighbor} json").get(neighbor, {})
        return found.get("bgpState") == "Established"

    def configure(self, *lines: str) -> None:
        """Run commands of the configuration mode, one after the other."""
        words = [word for line in ("configure terminal", *lines) for word in ("-c", line)]
        done = run(self._vtysh, "-N", self.name, *words)
        assert "% " not in done.stdout, done.stdout

    def stop(self) -> None:
        """End all, and remove the path space."""
        super().stop()
        for place in self._places:
            shutil.rmtree(place, ignore_errors=True)


class Bird(Peer):
    """BIRD 2."""

    kind: ClassVar = "bird"

    def start(self) -> None:
        """Start it; it answers when its control socket does."""
        self._client = program("birdc")
        control = self.directory / "ctl"
        config = self._file("bird.conf", self.config)
        self._run("bird", program("bird"), "-f", "-c", str(config), "-s", str(control), "-P", str(control) + ".pid")
        self._ready(lambda: control.exists() and "Daemon is up" in self.show("show status"), "it answers")

    def show(self, command: str) -> str:
        """Run a command of birdc; the greeting is left out."""
        done = run(self._client, "-s", str(self.directory / "ctl"), *command.split(), check=False)
        return done.stdout.partition(" ready.\n")[2]

    def protocols(self) -> dict[str, str]:
        """Give the protocols by name, each with its info column (`Established`, `Running`, ...) or its state."""
        found = {}
        for line in self.show("show protocols").splitlines()[1:]:
            words = line.split(maxsplit=5)
            found[words[0]] = words[5].strip() if len(words) > 5 else words[3]
        return found

    def established(self, protocol: str) -> bool:
        """Tell whether a BGP session is up."""
        return self.protocols().get(protocol, "").startswith("Established")

    def reconfigure(self, config: str) -> None:
        """Give it a new configuration."""
        self.config = config
        self._file("bird.conf", config)
        told = self.show("configure")
        assert "Reconfigured" in told or "in progress" in told, told


class GoBgp(Peer):
    """GoBGP; `config` is TOML.  Its API listens on 127.0.0.1 of the namespace."""

    kind: ClassVar = "gobgp"

    def start(self) -> None:
        """Start it; it answers when its API does."""
        self._client = program("gobgp")
        self._no_listener()
        config = self._file("gobgpd.toml", self.config)
        self._run("gobgpd", program("gobgpd"), "-t", "toml", "-f", str(config), "--api-hosts", "127.0.0.1:50051")
        self._ready(lambda: self._call("neighbor").returncode == 0, "its API answers")

    def _call(self, command: str) -> subprocess.CompletedProcess[str]:
        return self.namespace.run(self._client, *command.split(), check=False)

    def show(self, command: str) -> str:
        """Run a command of gobgp, as `neighbor` or `-j global rib`; also those that change something."""
        done = self._call(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, command: str) -> Any:
        """Run a command with its output as JSON."""
        return super().json(f"-j {command}")

    def established(self, neighbor: str) -> bool:
        """Tell whether the session with this neighbor is up."""
        state: int = self.json(f"neighbor {neighbor}")["state"].get("session_state", 0)
        return state == 6


class OpenBgpd(Peer):
    """OpenBGPD; the socket of its command line is put before `config`."""

    kind: ClassVar = "openbgpd"

    def start(self) -> None:
        """Start it; it answers when its control socket does."""
        self._client = program("bgpctl")
        self._no_listener()
        OPENBGPD_HOME.mkdir(mode=0o755, exist_ok=True)  # where it locks itself in; empty, and shared by all
        self._control = self.directory / "sock"
        config = self._file("bgpd.conf", f'socket "{self._control}"\n{self.config}')
        daemon = Path("/usr/sbin/bgpd")  # by its full path: FRR has a bgpd too
        self._run("bgpd", program(daemon), "-d", "-f", str(config))
        self._ready(lambda: self._control.exists() and self._call("show summary").returncode == 0, "it answers")

    def _call(self, command: str) -> subprocess.CompletedProcess[str]:
        return run(self._client, "-s", str(self._control), *command.split(), check=False)

    def show(self, command: str) -> str:
        """Run a command of bgpctl, as `show neighbor 10.0.0.1` or `-j show rib`."""
        done = self._call(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, command: str) -> Any:
        """Run a command with its output as JSON."""
        return super().json(f"-j {command}")

    def established(self, neighbor: str) -> bool:
        """Tell whether the session with this neighbor is up."""
        found = self.json(f"show neighbor {neighbor}")["neighbors"]
        return any(entry["state"] == "Established" for entry in found)


EXABGP_API: Final = """
process watch {{
  run /bin/sh {script};
  encoder json;
}}
template {{
  neighbor watched {{
    api {{
      processes [ watch ];
      neighbor-changes;
      receive {{ parsed; open; update; notification; refresh; }}
    }}
  }}
}}
"""
# Its API talks over pipes: what it says goes into one file, what we append to the other goes to it.
EXABGP_SCRIPT: Final = """
tail -n +1 -s 0.05 -f --pid=$$ {directory}/commands &
exec cat >>{directory}/events
"""


class ExaBgp(Peer):
    """ExaBGP; each `neighbor` of `config` says `inherit watched;`, and so all it hears is in `events()`."""

    kind: ClassVar = "exabgp"

    def start(self) -> None:
        """Start it; it is ready when it has started our script."""
        self._no_listener()
        self._file("commands", "")
        self._file("events", "")
        script = self._file("api.sh", EXABGP_SCRIPT.format(directory=self.directory))
        config = self._file("exabgp.conf", EXABGP_API.format(script=script) + self.config)
        settings = ("exabgp.daemon.user=root", "exabgp.api.cli=false", "exabgp.api.ack=false", "exabgp.log.level=INFO")
        self._run("exabgp", "env", *settings, program("exabgp"), str(config))
        self._ready(lambda: any(event["type"] == "state" for event in self.events()) or self._spawned(), "it runs")

    def _spawned(self) -> bool:
        children = Path(f"/proc/{self.pid()}/task/{self.pid()}/children")
        return bool(children.exists() and children.read_text().split())

    def events(self) -> list[dict[str, Any]]:
        """Give all that it has told so far: `state`, `update`, `open`, `notification`, in order."""
        told = (self.directory / "events").read_text().splitlines()
        return [json.loads(line) for line in told if line.startswith("{")]

    def command(self, text: str) -> None:
        """Give it a command of its API, as `announce route 10.0.0.0/8 next-hop self`."""
        with (self.directory / "commands").open("a") as commands:
            commands.write(text + "\n")

    def show(self, command: str) -> str:
        """Give the lines of its log that hold `command`; it has no table of its own to show."""
        return "\n".join(line for line in self.log().splitlines() if command in line)

    def established(self, neighbor: str) -> bool:
        """Tell whether the session with this neighbor is up."""
        states = [
            event["neighbor"]["state"]
            for event in self.events()
            if event["type"] == "state" and event["neighbor"]["address"]["peer"] == neighbor
        ]
        return bool(states) and states[-1] == "up"

    def updates(self) -> list[dict[str, Any]]:
        """Give the UPDATE messages that came, as it has parsed them."""
        return [
            event["neighbor"]["message"]["update"]
            for event in self.events()
            if event["type"] == "update" and "update" in event["neighbor"]["message"]
        ]

    def stop(self) -> None:
        """End it and what it started."""
        children = []
        for process in self.processes.values():
            with contextlib.suppress(OSError):
                children += Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        super().stop()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
