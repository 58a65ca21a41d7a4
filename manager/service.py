"""The manager itself: brings the configured VRs up, keeps them so, applies changes, gives everything back.

conf --load, resolve--> plans --diff--> units       (unit.py: one VR each)
netlink --watch--> ports of the units               (ports.py, links.py)
pidfds, samples --> units                           (member.py, supervisor.py)
units --> routers.json, broker, operators
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from manager import adopt, kernel, links, namespaces, resolve, rings, shown
from manager.api_server import ApiServer
from manager.applied import Applied
from manager.broker import Broker
from manager.child import Zygote
from manager.config import ConfigError, Plan, diff, load, render
from manager.journal import Journal
from manager.member import Phase
from manager.peers import Result
from manager.ports import Patch
from manager.published import Published
from manager.reactor import Reactor
from manager.relay import Relay
from manager.resolve import ResolveError, RouterPlan
from manager.supervisor import Supervisor
from manager.unit import Box, State, Unit
from manager.watch import FOLLOW_EVERY, Watch
from manager.web import Web
from vrouter.api.messages import ControlOp, ManagerOp
from vrouter.config.schema import Config

if TYPE_CHECKING:
    from manager.config.merge import Marks

STOP_PATIENCE: Final = 5.0
SETTLE_PATIENCE: Final = 20.0
SETTLE_INTERVAL: Final = 0.005
THOROUGH_EVERY: Final = 120  # audits of a router, of which each second has its share
# A process that is being born does not wait for the telling, and a burst of changes is told of once.
PUBLISH_DELAY: Final = 0.002
TIDY_DELAY: Final = 2.0

log = structlog.get_logger()


class ApplyError(Exception):
    """A new configuration cannot be used; the running one stays."""

    def __init__(self, text: str, details: list[dict[str, Any]]) -> None:
        super().__init__(text)
        self.text = text
        self.details = details


class Service:
    """One manager with one run dir."""

    def __init__(self, reactor: Reactor, zygote: Zygote, conf_dir: Path, run_dir: Path) -> None:
        self._reactor = reactor
        self._zygote = zygote
        self._conf_dir = conf_dir
        self._run_dir = run_dir
        self._config: Config | None = None
        self._applied = Applied()
        self._demo: Any = None
        self._units: dict[str, Unit] = {}
        self._ending: list[Unit] = []  # removed, and not gone yet
        self._patches: dict[frozenset[str], Patch] = {}
        self._states: dict[str, State] = {}
        self._ids = itertools.count(1)
        self._publishing = self._tidying = False
        self._events: list[dict[str, Any]] = []  # that have not been told yet
        self._published = Published(run_dir / "routers.json")
        self._closing = False
        self._journal = Journal(run_dir / "journal")
        self._broker = Broker(reactor, zygote, run_dir, lambda: None)
        self._relay = Relay(reactor, zygote, run_dir)
        self._web = Web(reactor, zygote, run_dir, self._serve_web)
        self._watch = Watch(reactor, self._refresh, self._audit)
        self._supervisor = Supervisor(reactor, self._units.values)
        self._box = Box(
            reactor, zygote, run_dir, self._journal, rings.DEFAULT, self._changed, self._find_patch, self._adopt_patch,
            self._runs, lambda: self._broker.uid,
        )  # fmt: skip
        self._api: ApiServer | None = None

    # ---- beginning ----

    def read(self) -> Config:
        """Read and check the configuration.  Raises ApplyError."""
        return self._load()[0]

    def _load(self) -> tuple[Config, Marks]:
        loaded = load(self._conf_dir, self._run_dir / "conf")
        if loaded.config is None:
            raise _refusal(loaded.errors)
        return loaded.config, loaded.marks

    def start(self, config: Config) -> None:
        """Bring everything up: adopt what lives, undo what a crash left, start the rest."""
        plans = _resolved(config)
        if config.demo:
            self._demo = importlib.import_module("manager.demo").Demo(self._run_dir)
            self._demo.enter()
        for name in ("vr", "control"):
            (self._run_dir / name).mkdir(exist_ok=True)
        (self._run_dir / "vr").chmod(0o755)
        (self._run_dir / "control").chmod(0o700)
        self._config = config
        adopted = adopt.adopt_all(self._run_dir, self._box, plans, config.uid_range)
        self._units.update({unit.name: unit for unit in adopted})
        self._ids = itertools.count(max((unit.id for unit in adopted), default=0) + 1)
        self._undo_crash({unit.name for unit in adopted})
        self._api = ApiServer(self._reactor, self._run_dir / "manager.sock", self)
        self._broker.start(config.uid_range)
        self._carry_out(plans, config)
        self._applied.taken(config)
        self._watch.start()
        self._supervisor.start()
        if self._demo is not None:
            self.when_settled(lambda: None if self._closing else self._demo.started())

    def _undo_crash(self, adopted: set[str]) -> None:
        for entry in self._journal.entries():
            if entry.router in adopted:
                continue
            try:
                problems = links.give_back(self._journal, entry)
            except (OSError, links.GoneError) as error:
                problems = [str(error)]
            log.info("gave back what a crashed run had taken", device=entry.device, router=entry.router)
            for problem in problems:
                log.warning("not as before", router=entry.router, problem=problem)
        for record in adopt.records(self._run_dir):
            if record["name"] in adopted:
                continue
            if record["netns"]:
                namespaces.delete(record["netns"])
            for folder in ("vr", "control"):
                (self._run_dir / folder / f"{record['name']}.sock").unlink(missing_ok=True)

    # ---- changes ----

    def plan(self) -> Plan:
        """Tell what applying the files as they are now would do.  Raises ApplyError."""
        config, marks = self._load()
        self._refuse(_resolved(config), marks)
        return diff(self._config or Config(), config, marks)

    def apply(self) -> Plan:
        """Begin to carry out what has changed in the files; when_settled() tells when it is done."""
        begin = time.monotonic()
        try:
            config, marks = self._load()
            plans = _resolved(config)
            self._refuse(plans, marks)
        except ApplyError:
            self._applied.refused()
            raise
        plan = diff(self._config or Config(), config, marks)
        self._config = config
        self._carry_out(plans, config)
        self._applied.taken(config)
        self.when_settled(lambda: self._applied.settled(time.monotonic() - begin))
        self._tidy_soon()
        return plan

    def _tidy_soon(self) -> None:
        """Give back what a change has freed: pages between what lives on would stay, some with each change."""
        if self._tidying:
            return
        self._tidying = True

        def tidy() -> None:
            self._tidying = False
            kernel.tidy_malloc()

        self._reactor.after(TIDY_DELAY, tidy)

    def reload(self) -> None:
        """Apply as SIGHUP asks for: errors go to the log."""
        try:
            plan = self.apply()
        except ApplyError as error:
            log.warning("the configuration is bad: the running one stays", errors="\n" + error.text)
        else:
            log.info("configuration applied", changes=len(plan.changes))

    def act(self, action: str, name: str) -> None:
        """Stop, start or restart one VR.  Raises KeyError and ValueError."""
        unit = self._units[name]
        match action:
            case "stop":
                unit.stop()
            case "start":
                unit.start()
            case "restart":
                unit.restart()
            case _:
                raise ValueError(f"no such action: {action}")

    def when_settled(self, done: Callable[[], None]) -> None:
        """Call back when all VRs are as they shall be, or when that takes too long."""
        turns = itertools.count()

        def look() -> None:
            settled = all(unit.settled for unit in self._units.values()) and not self._ending
            if settled or next(turns) * SETTLE_INTERVAL > SETTLE_PATIENCE:
                done()
            else:
                self._reactor.after(SETTLE_INTERVAL, look)

        look()

    def _refuse(self, plans: dict[str, RouterPlan], marks: Marks) -> None:
        """Refuse a configuration that would take a device from under the operator, before anything is touched."""
        errors = []
        for plan in plans.values():
            running = self._units.get(plan.name)
            for key, port in plan.ports.items():
                known = running is not None and key in running.ports
                taken = port.kind == "device" or (port.kind == "share" and not port.vlan)
                if not taken or key in plan.forced or known:
                    continue
                with contextlib.suppress(links.GoneError):
                    if reason := links.why_refused(namespaces.path_of(port.netns), port.device):
                        user = next(interface.name for interface in plan.interfaces if interface.port == key)
                        mark = marks.value(("routers", plan.name, "interfaces", user, "device"))
                        errors.append(marks.error(mark, reason, "'force: true' takes it nevertheless"))
        if errors:
            raise _refusal(sorted(errors))

    def _carry_out(self, plans: dict[str, RouterPlan], config: Config) -> None:
        for name in self._units.keys() - plans.keys():
            self._remove(self._units.pop(name))
        for unit in self._units.values():
            unit.release_ports(plans[unit.name])
        self._forget_patches(plans)
        for name, plan in plans.items():
            if name in self._units:
                self._units[name].update(plan)
                continue
            unit = self._units[name] = Unit(self._box, plan, next(self._ids), config.uid_range)
            self._changed(unit, "configured")
            unit.start()
        self._relay.configure(config.rsock, self._broker)
        self._web.configure(config.api, config.uid_range)
        self._follow()
        self._publish_soon()

    def _remove(self, unit: Unit) -> None:
        self._ending.append(unit)

        def gone() -> None:
            self._ending.remove(unit)
            self._states.pop(unit.name, None)
            self._publish([{"event": "gone", "vr": unit.name, "reason": "removed"}])
            self._refresh()  # others may wait for its devices

        unit.stop(gone)

    # ---- what units need ----

    def _find_patch(self, own: str, peer: str) -> Patch:
        ends = frozenset({own, peer})
        if ends not in self._patches:
            first, second = sorted(ends)
            self._patches[ends] = Patch((first, second))
        return self._patches[ends]

    def _adopt_patch(self, own: str, peer: str, fds: list[int], generation: int) -> None:
        self._patches.setdefault(frozenset({own, peer}), Patch.adopted(own, peer, fds, generation))

    def _forget_patches(self, plans: dict[str, RouterPlan]) -> None:
        kept = {
            frozenset({port.own, port.peer})
            for plan in plans.values() for port in plan.ports.values() if port.kind == "patch"
        }  # fmt: skip
        for ends in self._patches.keys() - kept:
            self._patches.pop(ends).close()

    def _runs(self, name: str) -> bool:
        unit = self._units.get(name)
        return unit is not None and unit.forwards

    def _changed(self, unit: Unit, reason: str) -> None:
        """Hear of a change in a unit; files, apps and neighbors hear of it soon."""
        before, now = self._states.get(unit.name), unit.state
        self._supervisor.look_anew()
        self._publish_soon()
        if before is now or unit in self._ending:
            return
        self._states[unit.name] = now
        events = [{"event": "created", "vr": unit.name, "reason": reason}] if before is None else []
        if now is State.UP:
            events.append({"event": "up", "vr": unit.name, "reason": reason})
        elif before is State.UP:
            events.append({"event": "down", "vr": unit.name, "reason": reason})
        self._events += events
        # The far ends of its patch links follow.
        for other in list(self._units.values()):
            if other is not unit and any(p.peer.partition("/")[0] == unit.name for p in other.plan.ports.values()):
                self._reactor.after(0, other.refresh)

    def _refresh(self) -> None:
        for unit in list(self._units.values()):
            unit.refresh()
        self._follow()

    def _audit(self, turn: int) -> None:
        for number, unit in enumerate(list(self._units.values())):
            unit.audit(thorough=(number + turn) % THOROUGH_EVERY == 0)
        if turn % FOLLOW_EVERY == 0:
            self._watch.expect(self._places())

    def _follow(self) -> None:
        self._watch.follow(self._places())

    def _places(self) -> set[Path]:
        paths = {namespaces.path_of(port.netns) for u in self._units.values() for port in u.plan.ports.values()}
        own = {namespaces.path_of(u.resources.netns) for u in self._units.values() if u.resources}
        return paths | own

    def stopped_process(self, pid: int) -> None:
        """Hear from the zygote of a process that was stopped."""
        for unit in self._units.values():
            unit.stopped_process(pid)
        for one in (self._broker, self._relay, self._web):
            if one.member.pid == pid:
                one.member.fence("stopped by a signal")

    # ---- what others see ----

    def _serve_web(self, connection: socket.socket, allowed: frozenset[ManagerOp]) -> None:
        if self._api is not None:
            self._api.serve(connection, allowed)

    def routers(self) -> list[dict[str, Any]]:
        """Describe all VRs."""
        return [shown.describe(unit) for unit in sorted(self._units.values(), key=lambda unit: unit.name)]

    def status(self) -> dict[str, Any]:
        """Describe the manager itself."""
        return {"config": self._applied.describe(), "loop_lag": self._reactor.turns.plain()}

    def segments(self, name: str) -> list[int]:
        """Give the read-only segment fds of a VR: tables, state.  Raises KeyError."""
        resources = self._units[name].resources
        if resources is None:
            raise KeyError(name)
        return [resources.tables_ro, resources.state_ro]

    def ask_control(self, name: str, op: ControlOp, fields: dict[str, Any], result: Result) -> None:
        """Ask a VR's control something; `result` is called with its answer.  Raises KeyError."""
        self._units[name].ask_control(op, fields, result)

    def _publish_soon(self) -> None:
        if not self._publishing and not self._closing:
            self._publishing = True
            self._reactor.after(PUBLISH_DELAY, lambda: self._publish([]))

    def _publish(self, events: Iterable[dict[str, Any]]) -> None:
        self._publishing = False
        self._events += events
        events, self._events = self._events, []
        if self._closing:
            return
        self._published.show(json.dumps(self.routers(), indent=1))
        routers = [
            {
                "name": unit.name, "id": unit.id, "state": str(unit.state), "path": str(unit.vr_path),
                "rules": [asdict(rule) for rule in unit.plan.rules], "dns": asdict(unit.plan.dns),
            }
            for unit in self._units.values()
        ]  # fmt: skip
        for one in (self._broker, self._relay):
            one.tell(routers, events)

    # ---- the end ----

    def stop(self) -> None:
        """End everything and give everything back."""
        self._closing = True
        units = [*self._units.values(), *self._ending]
        for unit in units:
            unit.stop()
        self._web.end()
        self._relay.end()
        self._broker.end()
        ended = self._reactor.turn_until(
            lambda: (
                all(unit.resources is None for unit in units)
                and self._broker.member.phase is Phase.ABSENT
                and self._relay.absent
                and self._web.absent
            ),
            STOP_PATIENCE,
        )
        if not ended:
            log.error("some processes did not end", routers=[u.name for u in units if u.resources is not None])
        self._forget_patches({})
        api = [self._api.close] if self._api is not None else []
        for close in (self._web.close, self._relay.close, self._broker.close, self._watch.close, *api):
            try:
                close()
            except OSError as error:  # as of a disk that has become read-only: the rest ends all the same
                log.warning("left behind", what=str(error))
        for problem in self._demo.stop() if self._demo is not None else ():
            log.warning("left behind", what=problem)
        self._journal.close()
        self._published.remove()
        for name in ("vr", "control", "conf"):
            with contextlib.suppress(OSError):
                (self._run_dir / name).rmdir()


def _resolved(config: Config) -> dict[str, RouterPlan]:
    try:
        return resolve.resolve(config)
    except ResolveError as error:
        raise _failure(error.problems) from error


def _refusal(errors: list[ConfigError]) -> ApplyError:
    return ApplyError(render(errors).rstrip("\n"), json.loads(render(errors, "json")))


def _failure(problems: list[str]) -> ApplyError:
    return ApplyError(
        "\n".join(f"error: {problem}" for problem in problems),
        [{"severity": "error", "message": problem} for problem in problems],
    )


def prepare_run_dir(run_dir: Path) -> None:
    """Make the run dir: anybody may look for sockets in it, only root may put them there."""
    run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    status = run_dir.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{run_dir} must belong to root, and nobody else may write there")


def notify_ready() -> None:
    """Tell systemd that we are up (sd_notify(3)); nothing without it."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        address = "\0" + place[1:] if place.startswith("@") else place
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(b"READY=1", address)
