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
import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from manager import namespaces, resolve, rings, uids
from manager.child import Child, Zygote
from manager.control_link import ControlLink
from manager.journal import Journal
from manager.links import GoneError
from manager.member import Hooks, Member, Phase
from manager.offload import Offload
from manager.peers import ForwarderPeer, Result
from manager.ports import Patch, PatchEnd, Place, Port, RingPort, SharedVlan, View, WholeDevice
from manager.ports_pcap import PcapPort
from manager.ports_tap import TapPort
from manager.ports_xdp import XdpDevice
from manager.published import Published
from manager.reactor import Reactor
from manager.resolve import RouterPlan
from manager.resources import Resources, allocate
from rsock.wire import Op
from vrouter.api.messages import ControlOp
from vrouter.config.codec import to_plain

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
        self._names = Published(self.names_path)  # what apps read about name servers
        self._configured = False
        self._restarting = False
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
        self.control_link = ControlLink(
            box.reactor, name, self.control_path, self.control, self._control_greeted, self._control_configured
        )

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
        return self.state is State.UP and self.control_link.idle and self.control_link.sent == self._configuration()

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
            self.control_link.adopted(control.pid)
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
            self._release(port)

    def _release(self, port: Port) -> None:
        """Release a port; where that fails, the others and the rest are given back all the same."""
        try:
            port.release()
        except (OSError, GoneError) as error:
            self._log.error("not given back", port=port.plan.key, reason=str(error))

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
        self._names.show("".join(f"{line}\n" for line in lines))

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
            self.resources = allocate(
                namespaces.name_for(self._box.run_dir, self.name), self.id, self.name, self._uid_range, self.vr_path,
                self.control_path,
            )  # fmt: skip
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

    def _end_processes(self) -> None:
        self.forwarder.end()
        self.control.end()
        self._on_ended()

    def _on_ended(self) -> None:
        if self.forwarder.phase is not Phase.ABSENT or self.control.phase is not Phase.ABSENT:
            return
        self._close_forwarder_peer()
        self.control_link.close()
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
        assert self.resources is not None
        self._restarting = False
        try:
            self.resources.renew_segments(self.id, self.name)
        except OSError as error:
            self.wanted = False
            self._log.error("cannot start again", reason=str(error))
            self._free()
            self._report(str(error))
            return
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
            self._release(port)
        self.ports.clear()
        owned, self.resources = self.resources, None
        if owned is not None:
            self._names.remove()
            owned.free(self.vr_path, self.control_path)

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
        self._close_forwarder_peer()
        self._report(f"forwarder {reason}")

    def _close_forwarder_peer(self) -> None:
        if self._forwarder_peer is not None:
            self._forwarder_peer.close()
            self._forwarder_peer = None

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
        self.control_link.greet()

    def _control_greeted(self) -> None:
        self._offload.control_came()
        self._configure()

    def _lost_control(self, reason: str) -> None:
        del reason
        self.restarts += 1
        self.control_link.lost()
        self._box.changed(self, "")

    def _configuration(self) -> dict[str, Any]:
        plan = self.plan

        def facts(key: str) -> resolve.PortFacts:
            return self.ports[key].facts

        return to_plain(resolve.router_config(plan, self.id, facts, self._box.relay_uid()))

    def _configure(self) -> None:
        """Send the configuration unless control has it already."""
        if not self.control_link.idle:
            return
        wanted = self._configuration()
        if wanted == self.control_link.sent:
            return
        # Links first: what a control does not know is up, and routes over one that is down must not come and go.
        for port in self.ports.values():
            self._tell_link(port)
        self.control_link.configure(wanted)

    def _control_configured(self) -> None:
        self._configured = True
        self._report("")
        self._configure()

    @property
    def configuring(self) -> bool:
        """Tell whether control is taking a configuration, which may take it long."""
        return self.control_link.configuring

    @property
    def owing(self) -> bool:
        """Tell whether control has a question of an operator to answer."""
        return self.control_link.owing

    def probe_control(self, *, at_work: bool) -> None:
        """Ask control whether it lives, if that is due; see ControlLink.probe()."""
        self.control_link.probe(at_work=at_work)

    def ask_control(self, op: ControlOp, fields: dict[str, Any], result: Result) -> None:
        """Pass an operator's question on.  Raises KeyError when control is not there."""
        self.control_link.ask(op, fields, result)

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
        sent = self.control_link.sent
        return sent is not None and sent == self._configuration()

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
        generation, older = port.generation, False

        def answer(error: int, _body: bytes, _more: bool) -> None:
            nonlocal older
            if older:
                return  # of another worker's part
            # A forwarder that is older than we are knows nothing of batches.
            older = error == errno.EINVAL and port.generation == generation and port.send_singly()
            if older:
                self._add_port(port)
            elif error and error != errno.EEXIST:  # it was adopted with the port in place
                port.problem = f"the forwarder refused it: {os.strerror(error)}"
                self._log.error("port refused", port=port.id, reason=os.strerror(error))

        for spec, fds in port.parts():
            self._forwarder_peer.request(Op.PORT_ADD, spec, fds, answer)

    def _tell_link(self, port: Port) -> None:
        self.control_link.tell_link(port.id, up=port.present and port.link_up, mtu=port.mtu)

    # ---- the offload ----

    def offload_ports(self) -> tuple[list[RingPort], Mapping[str, str]]:
        """Give the ports on devices, and by their keys how packets of some are forwarded without the router."""
        devices = [port for port in self.ports.values() if isinstance(port, RingPort) and port.present]
        return devices, self.plan.offloaded if self.wanted and not self._restarting else {}

    def offload_changed(self) -> None:
        """What is offloaded has become something else."""
        self._box.changed(self, "")

    def offload_told(self, port: Port | None) -> str:
        """Tell what becomes of the packets of a port without the router."""
        return self._offload.describe(port)

    def offload_tell_forwarder(self, body: bytes, fds: list[int]) -> bool:
        """Give the maps to the forwarder, where it is there."""
        if self._forwarder_peer is None or not self.forwarder.ready:
            return False
        self._forwarder_peer.request(Op.OFFLOAD, body, fds)
        return True

    def offload_tell_control(self, fd: int | None, size: int, answered: Callable[[str | None], None]) -> bool:
        """Give the map of the routes to control, where it is there."""
        return self.control_link.tell_offload(fd, size, answered)

    def adopt_offload(self, body: bytes, fds: list[int]) -> None:
        """Go on with the maps that the forwarder has held; the fds become ours."""
        self._offload.adopt(body, fds)

    def forget_offload(self) -> None:
        """Let go of them again, where the VR cannot be adopted."""
        self._offload.close()
