"""The control of one VR without any I/O: configuration, links, packets and time in, requests as values out.

    Configure, Link -----+                                       +--> Tables: interfaces, rules, FIB changes
    sockets' events -----+--> instances <--> RIB, BGP's table ---+--> Socket: open, send, write, close ...
    Bfd, Clear, Timeout -+        ^--- next hops, redistribution +--> Watch (BFD), Event, Line

What an instance does wrong harms that instance alone: it is torn down (sockets closed, routes withdrawn), and
made anew after a while.  The same inputs at the same times give the same outputs, whatever the machine does.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from vrouter.config.router import Interface
from vrouter.engine import inputs, interfaces, outputs
from vrouter.engine.bfd import BfdClients
from vrouter.engine.hosted import Hosted
from vrouter.engine.inputs import Input
from vrouter.engine.instances import KINDS, Kind
from vrouter.engine.outputs import Output, Root
from vrouter.engine.peers import named_peers
from vrouter.engine.routes import Routes, Subscribers
from vrouter.engine.show import show
from vrouter.net.address import Prefix
from vrouter.proto import base
from vrouter.proto.base import Environment, RouteEvent, Setting
from vrouter.rib import connected
from vrouter.rib.bgp_reference import ReferenceTable
from vrouter.rib.bgp_table import BgpTable
from vrouter.rib.policy import PolicySet
from vrouter.rib.rib import Rib
from vrouter.rib.route import FibChange, Protocol, Route
from vrouter.sockets.rules import entries

if TYPE_CHECKING:
    from random import Random

RESTART_TIME: Final = 600.0  # after which a predecessor's routes go, whoever has not settled
MAX_ROUNDS: Final = 16  # of instances telling each other something, in one turn


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an engine is given once."""

    rng: Callable[[str], Random]  # makes a generator, seeded with a name
    restarted: bool = False  # a predecessor's routes stand in the FIB
    boot: int = 0
    bgp_table: Callable[[], BgpTable] = ReferenceTable
    accelerators: Any = None


class Engine:
    """All protocols of one VR."""

    def __init__(self, name: str, surroundings: Surroundings, kinds: tuple[Kind, ...] = KINDS) -> None:
        self._name = name
        self._surroundings = surroundings
        self._routes = Routes(Rib())
        self._subscribers = Subscribers()
        self._bfd = BfdClients()
        self._hosted = {kind.name: Hosted(kind) for kind in kinds}
        self._setting: Setting | None = None
        self._derived: dict[tuple[Prefix, Protocol, str], Route] = {}
        self._root = Root()
        self._acl_clears: dict[str, int] = {}
        self._indices: Mapping[str, int] = {}
        self._links: dict[int, inputs.Link] = {}
        # A predecessor's routes, as long as their protocols may learn them again: instance, protocol.
        self._unsettled: dict[tuple[str, Protocol], None] = {}
        self._restart_until: float | None = None
        self._out: list[Output] = []
        self._changes: dict[Prefix, FibChange] = {}
        self._published: tuple[Root, tuple[Protocol, ...]] | None = None
        self._sweep = False
        self._deadline: float | None = None
        self._inputs: dict[type, Callable[[Any, float], None]] = {
            inputs.Configure: self._configure,
            inputs.Link: self._link,
            inputs.Opened: lambda it, now: self._socket(it, "opened", now, it.socket),
            inputs.Connected: lambda it, now: self._socket(it, "connected", now, it.socket, it.local, it.remote),
            inputs.Accepted: self._accepted,
            inputs.Received: lambda it, now: self._socket(it, "received", now, it.socket, it.packet, it.meta),
            inputs.Stream: lambda it, now: self._socket(it, "stream", now, it.socket, it.data),
            inputs.Writable: lambda it, now: self._socket(it, "writable", now, it.socket),
            inputs.Closed: self._closed,
            inputs.Bfd: lambda it, _now: self._bfd.changed(it),
            inputs.Clear: self._clear,
            inputs.Timeout: self._timeout,
            inputs.Stop: self._stop,
        }
        self._outputs: dict[type, Callable[[Hosted, Any], None]] = {
            base.RouteAdd: self._offer,
            base.RouteDel: self._withdraw,
            base.Settled: lambda hosted, it: self._settled(hosted.name, it.protocol),
            base.Track: self._track,
            base.Untrack: self._untrack,
            base.Redistribute: self._redistribute,
            base.BfdOpen: lambda hosted, it: self._watch(self._bfd.open(hosted.name, it)),
            base.BfdClose: lambda hosted, it: self._watch(self._bfd.close(hosted.name, it.session)),
            base.Notify: lambda hosted, it: self._out.append(outputs.Event(hosted.name, it.event, it.details)),
            base.Log: lambda hosted, it: self._out.append(outputs.Line(hosted.name, it.level, it.message)),
            base.OpenSocket: self._open_socket,
            base.CloseSocket: self._close_socket,
            **dict.fromkeys(
                (base.JoinGroup, base.LeaveGroup, base.SetKeys, base.SetMinTtl, base.Transmit, base.Write),
                self._ask_socket,
            ),
        }

    # --- what the runtime calls ---

    @property
    def deadline(self) -> float | None:
        """When a Timeout is due; None: never."""
        return self._deadline

    @property
    def rib(self) -> Rib:
        """The routing table, to look at."""
        return self._routes.rib

    @property
    def root(self) -> Root:
        """What is to be published, as it is now."""
        return self._root

    @property
    def hosted(self) -> Mapping[str, Hosted]:
        """All kinds of instances, to look at."""
        return self._hosted

    @property
    def size(self) -> int:
        """How many routes, LSAs and the like there are, but for BGP's: what one input may be much work for."""
        instances = (hosted.instance for hosted in self._hosted.values())
        return len(self.rib.candidates) + sum(instance.size for instance in instances if instance is not None)

    @property
    def routes(self) -> Routes:
        """The RIB and BGP's table, to look at."""
        return self._routes

    @property
    def policies(self) -> PolicySet:
        """The route policies, to look at."""
        policies: PolicySet | None = None if self._setting is None else self._setting.policies
        return policies if policies is not None else PolicySet()

    @property
    def unsettled(self) -> tuple[Protocol, ...]:
        """Protocols whose routes of a predecessor are kept."""
        return tuple(sorted({protocol for _, protocol in self._unsettled}))

    def handle(self, event: Input, now: float) -> list[Output]:
        """Take an input.  Raises ValueError for a configuration that cannot be; nothing has changed then."""
        self._inputs[type(event)](event, now)
        more = self._settle(now)
        self._publish()
        self._set_deadline(now, more=more)
        out, self._out = self._out, []
        return out

    def show(self, instance: str, query: str, arguments: Mapping[str, Any], now: float) -> Any:
        """Answer an operator with plain data.  Raises KeyError for an unknown instance or query."""
        return show(self, instance, query, arguments, now)

    # --- configuration and links ---

    def _configure(self, event: inputs.Configure, now: float) -> None:
        router = replace(event.router, interfaces=connected.with_loopback(event.router.interfaces))
        if router.name != self._name:
            raise ValueError(f"this is the configuration of '{router.name}'")
        addresses = (
            *(entry for interface in router.interfaces for entry in connected.addresses(interface)),
            *connected.own_addresses(router.interfaces),
        )
        derived = {_key(route): route for entry in addresses for route in connected.routes(entry)}
        rules = entries(router.rules, router.relay_uid)
        for hosted in self._hosted.values():
            hosted.kind.check(router)
        policies = PolicySet(router.policy, None if self._setting is None else self._setting.policies)
        # Nothing is refused from here on.
        first = self._setting is None
        self._setting = Setting(router, policies)
        self._indices = event.indices
        self._update_derived(derived)
        self._root = Root(
            (), addresses, rules, router.control_plane, named_peers(router), router.acls, router.counters,
            self._acl_clears,
        )  # fmt: skip
        self._update_links()
        if first and self._surroundings.restarted:
            self._restart(now)
        for hosted in self._hosted.values():
            self._configure_instance(hosted, now)
        self._tell_interfaces(now)

    def _link(self, event: inputs.Link, now: float) -> None:
        if self._links.get(event.port) == event:
            return
        self._links[event.port] = event
        if self._setting is not None:
            self._update_links()
            self._tell_interfaces(now)

    def _update_derived(self, derived: dict[tuple[Prefix, Protocol, str], Route]) -> None:
        gone = [route for key, route in self._derived.items() if key not in derived]
        changed = [route for key, route in derived.items() if self._derived.get(key) != route]
        self.rib.update(changed, gone)
        self._derived = derived

    def _update_links(self) -> None:
        assert self._setting is not None
        current = []
        for interface in self._setting.router.interfaces:
            link = self._links.get(interface.port) if interface.port else None
            self.rib.link(interface.name, up=link is None or link.up)
            # Packets stay within what the device can carry now.
            mtu = link.mtu if link is not None and 0 < link.mtu < interface.mtu else interface.mtu
            current.append(replace(interface, mtu=mtu))
        self._root = replace(self._root, interfaces=tuple(current))

    def _is_up(self, interface: Interface) -> bool:
        link = self._links.get(interface.port) if interface.port else None
        return link is None or link.up

    def _tell_interfaces(self, now: float) -> None:
        """Tell all instances what is new of interfaces."""
        states = interfaces.states(self._root, self._is_up, self._indices)
        for hosted in self._hosted.values():
            for state in interfaces.changes(hosted.interfaces, states):
                if hosted.instance is not None:
                    hosted.interfaces[state.name] = state
                    self._ask(hosted, "interface_changed", now, state)
            for name in [name for name in hosted.interfaces if name not in states]:
                del hosted.interfaces[name]

    # --- instances ---

    def _configure_instance(self, hosted: Hosted, now: float) -> None:
        assert self._setting is not None
        wanted = bool(hosted.kind.wanted(self._setting.router))
        if hosted.instance is None:
            hosted.retry_at = None
            if wanted:
                self._make(hosted, now)
            else:
                self._forget_unsettled(hosted)
            return
        answer = self._ask_configure(hosted, now)
        if hosted.instance is not None and not (wanted and answer):
            self._end(hosted, now)
            if wanted:
                self._make(hosted, now)

    def _ask_configure(self, hosted: Hosted, now: float) -> bool:
        """Configure an instance; tell whether it may stay."""
        assert hosted.instance is not None
        assert self._setting is not None
        try:
            answer = hosted.instance.configure(self._setting, now)
            self._take(hosted, answer.outputs)
        except Exception:  # noqa: BLE001 - one instance must not stop the others
            self._failed(hosted, now)
            return False
        return answer.live

    def _make(self, hosted: Hosted, now: float) -> None:
        hosted.incarnation += 1
        hosted.born, hosted.retry_at = now, None
        surroundings = self._surroundings
        environment = Environment(
            rng=surroundings.rng(f"{hosted.name}.{hosted.incarnation}"),
            restarted=any(name == hosted.name for name, _ in self._unsettled),
            boot=surroundings.boot,
            bgp_table=lambda: self._routes.attach(surroundings.bgp_table(), hosted.name),
            accelerators=surroundings.accelerators,
        )
        try:
            hosted.instance = hosted.kind.make(environment)
        except Exception:  # noqa: BLE001 - one instance must not stop the others
            self._failed(hosted, now)
            return
        self._ask_configure(hosted, now)
        self._tell_interfaces(now)

    def _end(self, hosted: Hosted, now: float) -> None:
        """Let an instance say goodbye, and take all from it."""
        self._ask(hosted, "stop", now)
        hosted.instance = None
        self._clean(hosted)
        self._forget_unsettled(hosted)

    def _forget_unsettled(self, hosted: Hosted) -> None:
        for key in [key for key in self._unsettled if key[0] == hosted.name]:
            del self._unsettled[key]

    def _clean(self, hosted: Hosted) -> None:
        for socket in hosted.sockets:
            self._out.append(outputs.Socket(hosted.name, base.CloseSocket(socket)))
        self.rib.update((), tuple(hosted.routes.values()))
        for address in hosted.tracked:
            self._routes.untrack(hosted.name, address)
        self._watch(self._bfd.close_all(hosted.name))
        if self._subscribers.set(hosted.name, ()):
            self._routes.watch_bulk(wanted=self._subscribers.bulk)
        if self._routes.owner == hosted.name:
            self._routes.detach()
            self._sweep = True
        hosted.forget()

    def _failed(self, hosted: Hosted, now: float) -> None:
        """An exception is being handled: the instance that raised it goes."""
        delay = hosted.fail(now)
        text = f"{hosted.name} failed, and is made anew in {delay:g} s\n{traceback.format_exc()}"
        self._out.append(outputs.Line(hosted.name, "error", text))
        self._clean(hosted)

    def _ask(self, hosted: Hosted, method: str, now: float, *arguments: Any) -> None:
        """Call an instance, and carry out what it asks for."""
        if hosted.instance is None:
            return
        try:
            self._take(hosted, getattr(hosted.instance, method)(*arguments, now))
        except Exception:  # noqa: BLE001 - one instance must not stop the others
            self._failed(hosted, now)

    def _take(self, hosted: Hosted, wanted: Any) -> None:
        for output in wanted:
            self._outputs[type(output)](hosted, output)

    # --- inputs ---

    def _socket(self, event: Any, method: str, now: float, *arguments: Any) -> None:
        hosted = self._hosted.get(event.instance)
        if hosted is not None and event.socket in hosted.sockets:
            self._ask(hosted, method, now, *arguments)

    def _accepted(self, event: inputs.Accepted, now: float) -> None:
        hosted = self._hosted.get(event.instance)
        if hosted is not None and hosted.instance is not None and event.listener in hosted.sockets:
            hosted.sockets[event.socket] = None
            self._ask(hosted, "accepted", now, event.listener, event.socket, event.local, event.remote)
        else:
            self._out.append(outputs.Socket(event.instance, base.CloseSocket(event.socket, reset=True)))

    def _closed(self, event: inputs.Closed, now: float) -> None:
        hosted = self._hosted.get(event.instance)
        if hosted is not None and event.socket in hosted.sockets:
            del hosted.sockets[event.socket]
            self._ask(hosted, "closed", now, event.socket, event.error)

    def _clear(self, event: inputs.Clear, now: float) -> None:
        if event.instance == "acl":
            self._clear_acl(str(event.arguments.get("acl")))
            return
        hosted = self._hosted.get(event.instance)
        if hosted is None or hosted.instance is None:
            raise KeyError(event.instance)
        try:
            wanted = hosted.instance.clear(event.query, event.arguments, now)
        except (KeyError, ValueError):
            raise  # the operator's mistake
        except Exception:  # noqa: BLE001 - one instance must not stop the others
            self._failed(hosted, now)
        else:
            self._take(hosted, wanted)

    def _clear_acl(self, name: str) -> None:
        """Have a list count from 0."""
        if name not in self._root.acls:
            raise ValueError(f"no interface has an ACL {name!r}")
        self._acl_clears = {**self._acl_clears, name: self._acl_clears.get(name, 0) + 1}
        self._root = replace(self._root, acl_clears=self._acl_clears)

    def _timeout(self, _event: inputs.Timeout, now: float) -> None:
        if self._restart_until is not None and now >= self._restart_until:
            for instance, protocol in self._unsettled:
                text = f"routes of {protocol.name} were not learnt again in time"
                self._out.append(outputs.Line(instance, "warning", text))
            self._unsettled.clear()
        for hosted in self._hosted.values():
            if hosted.retry_at is not None and hosted.retry_at <= now:
                self._make(hosted, now)
            due = self._due(hosted, now)
            if due is not None and due <= now:
                self._ask(hosted, "handle_timeout", now)

    def _stop(self, _event: inputs.Stop, now: float) -> None:
        for hosted in self._hosted.values():
            self._ask(hosted, "stop", now)
            for socket in list(hosted.sockets):
                self._close_socket(hosted, base.CloseSocket(socket))
            hosted.instance = None

    # --- what instances ask for ---

    def _offer(self, hosted: Hosted, output: base.RouteAdd) -> None:
        for route in output.routes:
            hosted.routes[_key(route)] = route
        self.rib.update(output.routes)

    def _withdraw(self, hosted: Hosted, output: base.RouteDel) -> None:
        for route in output.routes:
            hosted.routes.pop(_key(route), None)
        self.rib.update((), output.routes)

    def _settled(self, instance: str, protocol: Protocol) -> None:
        self._unsettled.pop((instance, protocol), None)

    def _track(self, hosted: Hosted, output: base.Track) -> None:
        hosted.tracked[output.address] = None
        self._routes.track(hosted.name, output.address)

    def _untrack(self, hosted: Hosted, output: base.Untrack) -> None:
        if hosted.tracked.pop(output.address, 0) is None:
            self._routes.untrack(hosted.name, output.address)

    def _redistribute(self, hosted: Hosted, output: base.Redistribute) -> None:
        if self._subscribers.set(hosted.name, output.protocols):
            self._routes.watch_bulk(wanted=self._subscribers.bulk)
        hosted.fresh = output.protocols

    def _watch(self, requests: list[base.BfdOpen | base.BfdClose]) -> None:
        self._out += [outputs.Watch(request) for request in requests]

    def _open_socket(self, hosted: Hosted, output: base.OpenSocket) -> None:
        hosted.sockets[output.socket] = None
        self._out.append(outputs.Socket(hosted.name, output))

    def _close_socket(self, hosted: Hosted, output: base.CloseSocket) -> None:
        if hosted.sockets.pop(output.socket, 0) is None:
            self._out.append(outputs.Socket(hosted.name, output))

    def _ask_socket(self, hosted: Hosted, output: Any) -> None:
        if output.socket in hosted.sockets:
            self._out.append(outputs.Socket(hosted.name, output))

    # --- the end of a turn ---

    def _settle(self, now: float) -> bool:
        """Let all hear what others have changed, until nothing changes; tell whether something is left."""
        for _ in range(MAX_ROUNDS):
            turn = self._routes.turn()
            for change in turn.changes:
                self._changes[change.prefix] = change
            told = self._subscribers.sort(turn.used)
            quiet = not turn.resolved
            for hosted in self._hosted.values():
                if hosted.fresh is not None:
                    quiet = False
                    self._tell_all(hosted, now)
                elif told.get(hosted.name):
                    quiet = False
                    self._ask(hosted, "routes_changed", now, tuple(told[hosted.name]))
            for instance, state in turn.next_hops:
                quiet = False
                self._ask(self._hosted[instance], "next_hop_changed", now, state)
            for instance, session in self._bfd.untold():
                quiet = False
                self._ask(self._hosted[instance], "bfd_changed", now, session)
            if quiet:
                return turn.more
        return True

    def _tell_all(self, hosted: Hosted, now: float) -> None:
        protocols, hosted.fresh = hosted.fresh, None
        events: list[RouteEvent] = self._routes.used(protocols or ())
        self._subscribers.first(hosted.name, events)
        if events:
            self._ask(hosted, "routes_changed", now, tuple(events))

    def _publish(self) -> None:
        if self._setting is None:
            return
        present = (self._root, self.unsettled)
        if self._changes or self._sweep or present != self._published:
            changes = tuple(self._changes[prefix] for prefix in sorted(self._changes))
            self._out.insert(0, outputs.Tables(self._root, changes, present[1], self._sweep))
            self._changes.clear()
            self._published, self._sweep = present, False

    def _restart(self, now: float) -> None:
        """Keep what a predecessor has installed of the protocols that will learn it again."""
        assert self._setting is not None
        for hosted in self._hosted.values():
            if hosted.kind.wanted(self._setting.router):
                self._unsettled |= {(hosted.name, protocol): None for protocol in hosted.kind.restarts}
        self._restart_until = now + RESTART_TIME

    def _due(self, hosted: Hosted, now: float) -> float | None:
        if hosted.instance is None:
            return hosted.retry_at
        try:
            return hosted.instance.deadline
        except Exception:  # noqa: BLE001 - one instance must not stop the others
            self._failed(hosted, now)
            return hosted.retry_at

    def _set_deadline(self, now: float, *, more: bool) -> None:
        due = [self._due(hosted, now) for hosted in self._hosted.values()]
        if not self._unsettled:
            self._restart_until = None
        due.append(self._restart_until)
        if more:
            due.append(now)
        self._deadline = min((each for each in due if each is not None), default=None)


def _key(route: Route) -> tuple[Prefix, Protocol, str]:
    return route.prefix, route.protocol, route.source
