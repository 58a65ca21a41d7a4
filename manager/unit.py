"""One VR as the manager holds it: its namespace, uid, segments, listeners, ports and two processes.

    state      forwarder             control               what an operator sees
    down       absent                absent                stopped, nothing coupled
    starting   not ready, or         not configured yet    `starting`
    up         ready                 was configured once   `up`; FIB and sockets outlive a control
    stopping   ending                ending                `down`

A forwarder that dies gets a successor on the same segments and rings; a control likewise, and is
configured again.  All fds that a successor needs stay here.
"""

from __future__ import annotations

import enum
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from fastpath import segment
from manager import namespaces, resolve, rings, uids
from manager.child import Child, Zygote
from manager.journal import Journal
from manager.member import Hooks, Member, Phase
from manager.offload import Offload
from manager.peers import ControlPeer, ForwarderPeer, Result, listen
from manager.ports import Patch, PatchEnd, Place, Port, RingPort, SharedVlan, View, WholeDevice
from manager.ports_pcap import PcapPort
from manager.ports_tap import TapPort
from manager.ports_xdp import XdpDevice
from manager.probe import Probe
from manager.reactor import Reactor
from manager.resolve import RouterPlan
from rsock.wire import Op
from vrouter.api.messages import ControlOp
from vrouter.config.codec import to_plain

# A control that takes a large configuration answers no probe meanwhile; it is not hung.
CONFIGURE_PATIENCE: Final = 30.0
MAX_PORTS: Final = 128
# Devices that are a router's alone, by driver.
_DEVICES: Final[dict[str, type[RingPort]]] = {"af-xdp": XdpDevice}

log = structlog.get_logger()


class State(enum.StrEnum):
    """What an operator sees."""

    UP = "up"
    STARTING = "starting"
    DOWN = "down"


@dataclass(frozen=True)
class Box:
    """What all units share."""

    reactor: Reactor
    zygote: Zygote
    run_dir: Path
    journal: Journal
    geometry: rings.Geometry
    changed: Callable[[Unit, str], None]  # the state of a unit, and why
    find_patch: Callable[[str, str], Patch]  # own end, peer's end
    adopt_patch: Callable[[str, str, list[int], int], None]  # the same, fds, generation
    runs: Callable[[str], bool]  # whether a router, by name, forwards
    relay_uid: Callable[[], int]


@dataclass
class Resources:
    """What a VR owns while it is not down; fds unless they say otherwise."""

    netns: str  # a name
    netns_fd: int
    uid: int
    uid_lock: int
    tables: int
    state: int
    tables_ro: int
    state_ro: int
    vr_listener: socket.socket
    control_listener: socket.socket
    view: segment.Segment = field(init=False)

    def __post_init__(self) -> None:
        self.view = segment.Segment(self.state_ro, segment.KIND_STATE)

    def close_segments(self) -> None:
        """Close the segments; the VR's own fds stay its."""
        self.view.close()
        for fd in (self.tables, self.state, self.tables_ro, self.state_ro):
            os.close(fd)


def make_segments(router_id: int, name: str) -> tuple[int, int, int, int]:
    """Make a VR's segments: tables and state to write, the same to read."""
    tables = segment.create(segment.KIND_TABLES, segment.TABLES_SIZE, router_id, name)
    state = segment.create(segment.KIND_STATE, segment.STATE_SIZE, router_id, name)
    return tables, state, segment.reopen_read_only(tables), segment.reopen_read_only(state)


def _threads(plan: RouterPlan) -> tuple[int, tuple[int, ...]]:
    """Give what makes another forwarder of it: its workers and their processors."""
    return plan.dataplane.workers, plan.dataplane.cpus


class Unit:
    """A VR."""

    def __init__(self, box: Box, plan: RouterPlan, router_id: int, uid_range: tuple[int, int]) -> None:
        self.plan = plan
        self.id = router_id
        self.ports: dict[str, Port] = {}
        self.resources: Resources | None = None
        self.wanted = False
        self.restarts = 0
        self._box = box
        self._uid_range = uid_range
        self._log = log.bind(router=plan.name)
        self._forwarder_peer: ForwarderPeer | None = None
        self._control_peer: ControlPeer | None = None
        self._names: str | None = None  # what apps read about name servers
        self._sent: dict[str, Any] | None = None  # the configuration that control has confirmed
        self._configuring: dict[str, Any] | None = None
        self._questions: dict[object, Result] = {}  # of operators, that control has not answered
        self._configured = False
        self._restarting = False
        self._probe = Probe()
        self._busy_since = 0.0
        self._born = 0.0  # when both processes were asked for, until they serve
        self._reported = State.DOWN
        self._after_end: Callable[[], None] | None = None
        name = plan.name
        self._offload = Offload(name, box.reactor, self)
        self.forwarder = Member(
            box.reactor, "forwarder", name,
            Hooks(self._spawn_forwarder, self._greet_forwarder, self._lost_forwarder, self._on_ended),
        )  # fmt: skip
        self.control = Member(
            box.reactor, "control", name,
            Hooks(self._spawn_control, self._greet_control, self._lost_control, self._on_ended),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Give its name."""
        return self.plan.name

    @property
    def state(self) -> State:
        """Give what an operator sees."""
        if not self.wanted:
            return State.DOWN
        return State.UP if self.forwarder.ready and self._configured else State.STARTING

    @property
    def forwards(self) -> bool:
        """Tell whether packets pass, or will again within moments."""
        return self.wanted and self._configured

    @property
    def settled(self) -> bool:
        """Tell whether it is as it shall be."""
        if not self.wanted:
            return self.resources is None
        return (
            self.state is State.UP and self.control.ready and self._configuring is None
            and self._sent == self._configuration()
        )  # fmt: skip

    @property
    def names_path(self) -> Path:
        """Give the path where apps read whom they ask for names."""
        return self.vr_path.with_suffix(".resolv.conf")

    @property
    def vr_path(self) -> Path:
        """Where apps reach the forwarder."""
        return self._box.run_dir / "vr" / f"{self.name}.sock"

    @property
    def control_path(self) -> Path:
        """Where the manager and the CLI reach control."""
        return self._box.run_dir / "control" / f"{self.name}.sock"

    # ---- life ----

    def start(self) -> None:
        """Bring the VR up."""
        if self.wanted:
            return
        self.wanted = True
        if self.resources is not None:  # it is still stopping: go on when it has
            self._after_end = self._begin
            return
        self._begin()

    def stop(self, done: Callable[[], None] | None = None) -> None:
        """End both processes and give everything back."""
        self.wanted = False
        self._after_end = done
        self._report("stopped")
        self._end_processes()

    def restart(self) -> None:
        """Begin anew with fresh segments and rings; devices stay coupled."""
        if not self.wanted or self.resources is None:
            self.start()
            return
        self._offload.stop()
        self._restarting = True
        self.restarts += 1
        self._configured = False
        self._report("restarted")
        self._end_processes()

    def adopt(self, resources: Resources, forwarder: Child, control: Child | None, ports: dict[str, Port]) -> None:
        """Go on with a VR that a manager before us has started."""
        self.wanted = self._configured = True
        self.resources, self.ports = resources, ports
        self.forwarder.adopt(forwarder)
        if control is not None:
            self.control.adopt(control)
            self._probe.begin(control.pid)
            if self._probe.stopped:
                self.control.fence("stopped by a signal")
        else:
            self.control.start()

    def update(self, plan: RouterPlan) -> None:
        """Follow a changed plan, touching only what differs.  Ports that go have been released before."""
        before, self.plan = self.plan, plan
        if self.wanted and self.resources is not None and not self._restarting:
            self._add_ports()
            if _threads(before) != _threads(plan):
                self.restart()
                return
            self.refresh()

    def release_ports(self, plan: RouterPlan) -> None:
        """Release the ports that a new plan does not have, or has otherwise, so that others may take them."""
        for key in [key for key, port in self.ports.items() if plan.ports.get(key) != port.plan]:
            port = self.ports.pop(key)
            if port.present and self._forwarder_peer:
                self._forwarder_peer.port_remove(port.id)
            port.release()

    def refresh(self) -> None:
        """Look at all devices, and tell what has changed."""
        if self.resources is None or self._restarting:
            return
        self._refresh_ports()
        self._configure()
        self._publish_names()
        self._offload.follow()
        self._box.changed(self, "")

    def _refresh_ports(self) -> bool:
        """Look at all devices; tell whether anything has changed."""
        changed = False
        for port in self.ports.values():
            before, problem = port.view, port.problem
            port.refresh()
            if port.view != before:
                self._tell_port(port, before)
            changed |= port.view != before or port.problem != problem
        return changed

    def audit(self, *, thorough: bool) -> None:
        """Look whether all is as it was, as far as that is cheap; `thorough`: at all devices."""
        settled = not self.plan.offloaded and all(port.settled() for port in self.ports.values())
        if not settled or (thorough and self.resources is not None and not self._restarting and self._refresh_ports()):
            self.refresh()

    def _publish_names(self) -> None:
        """Say next to the router's socket, as resolv.conf(5), whom its apps ask for names."""
        dns = self.plan.dns
        lines = [*(f"nameserver {server}" for server in dns.servers)]
        if dns.search:
            lines.append(f"search {' '.join(dns.search)}")
        text = "".join(f"{line}\n" for line in lines)
        if text == self._names:
            return
        self._names = text
        new = self.names_path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.replace(self.names_path)

    def hung_forwarder(self, reason: str) -> None:
        """Hear from the supervisor that the forwarder is stalled."""
        self.forwarder.fence(reason)

    def stopped_process(self, pid: int) -> None:
        """One of ours was stopped by a signal."""
        for member in (self.forwarder, self.control):
            if member.pid == pid:
                member.fence("stopped by a signal")

    # ---- beginnings and ends ----

    def _begin(self) -> None:
        try:
            self.resources = self._allocate()
        except (OSError, uids.NoFreeUidError) as error:
            self.wanted = False
            self._log.error("cannot start", reason=str(error))
            self._report(str(error))
            return
        # Processes first: they are born while we tell of them and the devices are coupled.
        self._give_birth()
        self._report("started")
        self._add_ports()
        self.refresh()

    def _allocate(self) -> Resources:
        netns = namespaces.name_for(self._box.run_dir, self.name)
        namespaces.delete(netns)  # of a run whose devices the journal has brought home
        uid, lock = uids.lock(*self._uid_range)
        try:
            netns_fd = namespaces.create(netns)
        except OSError:
            os.close(lock)
            raise
        return Resources(
            netns, netns_fd, uid, lock, *make_segments(self.id, self.name),
            vr_listener=listen(self.vr_path, socket.SOCK_SEQPACKET, 0o666),
            control_listener=listen(self.control_path, socket.SOCK_STREAM, 0o600),
        )  # fmt: skip

    def _end_processes(self) -> None:
        self.forwarder.end()
        self.control.end()
        self._on_ended()

    def _on_ended(self) -> None:
        if self.forwarder.phase is not Phase.ABSENT or self.control.phase is not Phase.ABSENT:
            return
        self._drop_peers()
        self._probe.end()
        self._sent = self._configuring = None
        self._configured = False
        if self._restarting and self.wanted:
            self._renew()
            return
        self._restarting = False
        self._free()
        then, self._after_end = self._after_end, None
        if then is not None:
            then()

    def _renew(self) -> None:
        """Start the processes of a restart."""
        resources = self.resources
        assert resources is not None
        resources.close_segments()
        resources.tables, resources.state, resources.tables_ro, resources.state_ro = make_segments(self.id, self.name)
        resources.view = segment.Segment(resources.state_ro, segment.KIND_STATE)
        self._restarting = False
        for port in self.ports.values():
            port.workers = self.plan.dataplane.workers
            port.renew()
        self._add_ports()  # of a plan that came meanwhile
        self._give_birth()
        self.refresh()

    def _give_birth(self) -> None:
        self._born = time.monotonic()
        self.forwarder.start()
        self.control.start()

    def _free(self) -> None:
        self._offload.close()
        for port in self.ports.values():
            port.release()
        self.ports.clear()
        resources, self.resources = self.resources, None
        if resources is None:
            return
        resources.close_segments()
        for listener, path in ((resources.vr_listener, self.vr_path), (resources.control_listener, self.control_path)):
            listener.close()
            path.unlink(missing_ok=True)
        self.names_path.unlink(missing_ok=True)
        self._names = None
        os.close(resources.netns_fd)
        namespaces.delete(resources.netns)
        uids.release(resources.uid, resources.uid_lock)

    def _report(self, reason: str) -> None:
        if self.state is not self._reported:
            self._reported = self.state
            facts: dict[str, object] = {"reason": reason} if reason else {}
            if self.state is State.UP and self._born:
                facts["milliseconds"] = round((time.monotonic() - self._born) * 1000, 2)
                self._born = 0.0
            self._log.info(str(self.state), **facts)
        self._box.changed(self, reason)

    # ---- the forwarder ----

    def _spawn_forwarder(self, done: Callable[[Child], None]) -> None:
        resources = self.resources
        assert resources is not None
        self._spawn(
            "forwarder",
            {
                "netns": resources.netns_fd, "tables": resources.tables_ro, "state": resources.state,
                "state_ro": resources.state_ro, "listener": resources.vr_listener.fileno(),
                "uid_lock": resources.uid_lock,
            },
            done,
        )  # fmt: skip

    def _spawn(self, role: str, fds: dict[str, int], done: Callable[[Child], None]) -> None:
        assert self.resources is not None
        uid, (workers, cpus) = self.resources.uid, _threads(self.plan)
        self._box.zygote.spawn(
            role, self.name, uid=uid, gid=uid, run_dir=str(self._box.run_dir), fds=fds, done=done, workers=workers,
            cpus=cpus,
        )  # fmt: skip

    def _greet_forwarder(self) -> None:
        try:
            self._forwarder_peer = ForwarderPeer(
                self._box.reactor, self.vr_path, lambda: self.forwarder.suspect("closed the manager's connection")
            )
        except OSError as error:
            self.forwarder.fence(f"cannot be reached: {error.strerror}")
            return
        # What was sent to a predecessor may still be queued at the listener: only after an answer do
        # ports go out.
        self._forwarder_peer.request(Op.PING, answer=lambda *_answer: self._forwarder_answered())

    def _forwarder_answered(self) -> None:
        for port in self.ports.values():
            if port.present:
                self._add_port(port)
        self.forwarder.answered()
        self._offload.forwarder_came()
        self._report("")
        self._box.changed(self, "")

    def _lost_forwarder(self, reason: str) -> None:
        self.restarts += 1
        if self._forwarder_peer is not None:
            self._forwarder_peer.close()
            self._forwarder_peer = None
        self._report(f"forwarder {reason}")

    # ---- control ----

    def _spawn_control(self, done: Callable[[Child], None]) -> None:
        resources = self.resources
        assert resources is not None
        self._spawn(
            "control",
            {
                "netns": resources.netns_fd, "tables": resources.tables, "state_ro": resources.state_ro,
                "listener": resources.control_listener.fileno(),
            },
            done,
        )  # fmt: skip

    def _greet_control(self) -> None:
        try:
            self._control_peer = ControlPeer(
                self._box.reactor, self.control_path, lambda: self.control.suspect("closed the manager's connection")
            )
        except OSError as error:
            self.control.fence(f"cannot be reached: {error.strerror}")
            return
        self._control_peer.request(ControlOp.PING, lambda _result, _error: self._control_answered())

    def _control_answered(self) -> None:
        self.control.answered()
        self._offload.control_came()
        self._configure()
        if self.control.pid is not None:
            self._probe.begin(self.control.pid)

    def ask_control(self, op: ControlOp, fields: dict[str, Any], result: Result) -> None:
        """Pass an operator's question on.  Raises KeyError when control is not there."""
        if not self.control.ready or self._control_peer is None:
            raise KeyError(self.name)
        question = object()
        self._questions[question] = result

        def answered(value: Any, error: str | None) -> None:
            if self._questions.pop(question, None) is not None:
                result(value, error)

        self._control_peer.request(op, answered, **fields)

    def _lost_control(self, reason: str) -> None:
        del reason
        self.restarts += 1
        if self._control_peer is not None:
            self._control_peer.close()
            self._control_peer = None
        self._probe.end()
        self._sent = self._configuring = None
        questions, self._questions = self._questions, {}
        for result in questions.values():
            result(None, f"the control of {self.name} has gone")
        self._box.changed(self, "")

    @property
    def configuring(self) -> bool:
        """Tell whether control is taking a configuration, which may take it long."""
        return self._configuring is not None and time.monotonic() - self._busy_since < CONFIGURE_PATIENCE

    @property
    def owing(self) -> bool:
        """Tell whether control has a question of an operator to answer."""
        return bool(self._questions)

    def probe_control(self, *, at_work: bool) -> None:
        """Ask control whether it lives, if that is due; called every `probe.INTERVAL` seconds.

        `at_work`: it is in the middle of something, how long of which is the supervisor's business.
        """
        peer = self._control_peer
        if not self.control.ready or peer is None:
            return
        if self._probe.silent and not self.configuring and not at_work:
            self.control.fence("does not answer")
        elif self._probe.stopped:
            self.control.fence("stopped by a signal")
        elif self._probe.due(owing=self._configuring is not None or bool(self._questions)):
            peer.request(ControlOp.PING, lambda _result, _error: self._probe.answered())

    def _configuration(self) -> dict[str, Any]:
        plan = self.plan

        def facts(key: str) -> resolve.PortFacts:
            return self.ports[key].facts

        return to_plain(resolve.router_config(plan, self.id, facts, self._box.relay_uid()))

    def _configure(self) -> None:
        """Send the configuration unless control has it already."""
        if not self.control.ready or self._control_peer is None or self._configuring is not None:
            return
        wanted = self._configuration()
        if wanted == self._sent:
            return
        # Links first: what a control does not know is up, and routes over one that is down must not come and go.
        for port in self.ports.values():
            self._tell_link(port)
        self._configuring, self._busy_since = wanted, time.monotonic()
        self._control_peer.request(ControlOp.CONFIGURE, self._configure_answered, router=wanted)

    def _configure_answered(self, result: object, error: str | None) -> None:
        del result
        sent, self._configuring = self._configuring, None
        if error is not None:
            self._log.error("control refused its configuration", reason=error)
        self._sent = sent
        self._configured = True
        self._report("")
        self._configure()

    # ---- ports ----

    def _add_ports(self) -> None:
        for key, plan in self.plan.ports.items():
            if key not in self.ports:
                self.ports[key] = self._make_port(plan, self._free_port_id())

    def make_adopted_port(self, plan: resolve.PortPlan, port_id: int, resources: Resources) -> Port:
        """Make a port that a forwarder of before us still serves."""
        return self._make_port(plan, port_id, resources)

    def _make_port(self, plan: resolve.PortPlan, port_id: int, resources: Resources | None = None) -> Port:
        resources = resources or self.resources
        assert resources is not None
        box = self._box
        place = Place(self.name, resources.netns, resources.netns_fd, box.run_dir, box.journal, box.geometry)
        if plan.kind == "patch":
            peer = plan.peer.partition("/")[0]
            return PatchEnd(plan, port_id, place, lambda: box.find_patch(plan.own, plan.peer), lambda: box.runs(peer))
        if plan.kind == "tap":
            return TapPort(plan, port_id, place)
        if plan.kind == "pcap":
            return PcapPort(plan, port_id, place, lambda: self._knows_all, lambda: self._input_ended(port_id))
        kind: type[RingPort] = SharedVlan if plan.kind == "share" else _DEVICES.get(plan.driver, WholeDevice)
        port = kind(plan, port_id, place, forced=plan.key in self.plan.forced)
        port.workers = self.plan.dataplane.workers
        return port

    @property
    def _knows_all(self) -> bool:
        """Tell whether control has what is configured now; until then a file would be played to nobody."""
        return self._sent is not None and self._sent == self._configuration()

    def _input_ended(self, port_id: int) -> int:
        """Tell what the forwarder says of the end of a port's input."""
        return self.resources.view.view("ports", port_id).integer("ended") if self.resources else 0

    def _free_port_id(self) -> int:
        taken = {port.id for port in self.ports.values()}
        return next(number for number in range(1, MAX_PORTS) if number not in taken)

    def _tell_port(self, port: Port, before: View) -> None:
        now = port.view
        if before.present and (not now.present or now.generation != before.generation) and self._forwarder_peer:
            self._forwarder_peer.port_remove(port.id)
        if now.present and (not before.present or now.generation != before.generation):
            self._add_port(port)
        elif now.present and self._forwarder_peer:
            self._forwarder_peer.port_link(port.id, now.link_up, now.mtu)
        self._tell_link(port)

    def _add_port(self, port: Port) -> None:
        if self._forwarder_peer is None:
            return

        def answer(error: int, _body: bytes, _more: bool) -> None:
            if error and error != 17:  # EEXIST: it was adopted with the port in place
                port.problem = f"the forwarder refused it: {os.strerror(error)}"
                self._log.error("port refused", port=port.id, reason=os.strerror(error))

        for spec, fds in port.parts():
            self._forwarder_peer.request(Op.PORT_ADD, spec, fds, answer)

    def _tell_link(self, port: Port) -> None:
        if self._control_peer is not None and self.control.ready:
            up = port.present and port.link_up
            self._control_peer.request(ControlOp.LINK, port=port.id, up=up, mtu=port.mtu)

    # ---- the offload ----

    def offload_ports(self) -> tuple[list[RingPort], Mapping[str, str]]:
        """Give the ports on devices, and by their keys how packets of some are forwarded without the router."""
        devices = [port for port in self.ports.values() if isinstance(port, RingPort) and port.present]
        return devices, self.plan.offloaded if self.wanted and not self._restarting else {}

    def offload_changed(self) -> None:
        """What is offloaded has become something else."""
        self._box.changed(self, "")

    def offload_tell_forwarder(self, body: bytes, fds: list[int]) -> bool:
        """Give the maps to the forwarder, where it is there."""
        if self._forwarder_peer is None or not self.forwarder.ready:
            return False
        self._forwarder_peer.request(Op.OFFLOAD, body, fds)
        return True

    def offload_tell_control(self, fd: int | None, size: int, answered: Callable[[str | None], None]) -> bool:
        """Give the map of the routes to control, where it is there."""
        if self._control_peer is None or not self.control.ready:
            return False
        self._control_peer.request(
            ControlOp.OFFLOAD, lambda _result, error: answered(error), fds=[] if fd is None else [fd], size=size
        )
        return True

    def adopt_offload(self, body: bytes, fds: list[int]) -> None:
        """Go on with the maps that the forwarder has held; the fds become ours."""
        self._offload.adopt(body, fds)

    def forget_offload(self) -> None:
        """Let go of them again, where the VR cannot be adopted."""
        self._offload.close()

    def _drop_peers(self) -> None:
        for peer in (self._forwarder_peer, self._control_peer):
            if peer is not None:
                peer.close()
        self._forwarder_peer = self._control_peer = None

    # ---- what others see ----

    def interfaces(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Describe the interfaces for routers.json."""
        for interface in self.plan.interfaces:
            port = self.ports.get(interface.port) if interface.port else None
            plan = self.plan.ports[interface.port] if interface.port else None
            yield (
                interface.name,
                {
                    "device": (plan.device or plan.peer) if plan else None,
                    "netns": plan.netns if plan else None,
                    "driver": port.driver if port else "loopback" if plan is None else None,
                    "driver_reason": port.why if port else "",
                    "port": port.id if port else 0,
                    "key": interface.port,
                    "link": bool(port and port.present and port.link_up) if plan else True,
                    "problem": port.problem if port else "",
                    "offload": self._offload.describe(port) if interface.port in self.plan.offloaded else "",
                    "offload_kind": self.plan.offloaded.get(interface.port or "", ""),
                },
            )

    def describe(self) -> dict[str, Any]:
        """Describe the VR as in `vr -j show routers`, and a little more for adoption."""
        resources = self.resources
        return {
            "name": self.name,
            "state": str(self.state),
            "id": self.id,
            "pids": {"forwarder": self.forwarder.pid, "control": self.control.pid},
            "restarts": self.restarts,
            "netns": resources.netns if resources else None,
            "uid": resources.uid if resources else None,
            "interfaces": dict(self.interfaces()),
        }
