"""One VR's control: an engine, and what it works on.

    manager: CONFIGURE, LINK, SHOW, CLEAR --+            +--> FibSync --> tables segment
    transport: sockets' events -------------+--> engine -+--> transport --> the VR's socket layer
    BFD in the forwarder, the clock --------+            +--> BFD, log

A request is answered once the tables say what it asked for.  After a restart nothing is touched until
the first CONFIGURE; it is then applied over what the predecessor left.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from vrouter.api.timings import Timings
from vrouter.config.codec import from_plain
from vrouter.config.router import RouterConfig
from vrouter.engine import inputs, outputs
from vrouter.engine.engine import Engine
from vrouter.engine.recording import Header
from vrouter.net.address import Address
from vrouter.proto.base import BfdClose, BfdOpen
from vrouter.rib import connected
from vrouter.rib.rib import Rib
from vrouter.runtime.engines import make_engine
from vrouter.runtime.fib_sync import FibSync
from vrouter.runtime.hop_groups import HOLD
from vrouter.runtime.manager_link import RequestError
from vrouter.runtime.recorder import Recorder

log = logging.getLogger(__name__)
_TIDY_AFTER: Final = 0.5  # readers have gone on by then
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Sockets(Protocol):
    """What opens the instances' sockets; its events come back by Control.feed()."""

    def ask(self, instance: str, request: outputs.SocketRequest) -> None:
        """Carry out a request, soon; what becomes of it is told by an event, never at once."""

    def drop_all(self) -> None:
        """Close all sockets at once, and tell nobody."""


class Watcher(Protocol):
    """What runs BFD; its events come back by Control.feed()."""

    def ask(self, request: BfdOpen | BfdClose) -> None:
        """Open, change or close a session."""


class Timer(Protocol):
    """A call that is due."""

    def cancel(self) -> None:
        """Forget it."""


class Control:
    """The state of a VR's control."""

    def __init__(self, name: str, fib: FibSync, call_later: Callable[[float, Callable[[], None]], Timer | None],
                 published: Callable[[], None] = lambda: None, *, make: Callable[[Header], Engine] = make_engine,
                 clock: Callable[[], float] = time.monotonic,
                 beat: Callable[[int], None] = lambda _entries: None) -> None:  # fmt: skip
        """Work on `fib`; `call_later(seconds, callback)` is the loop's, `published` is called after each change.

        `make` makes an engine from what a recording says of it.
        """
        self._call_later = call_later
        self._published = published
        self._clock = clock
        self._beat = beat  # called round each input, with how much it may have to go through: much is no hang
        self._tidying = False
        self._fib = fib
        self._name = name
        self._make = make
        self._engine = make(self._header(restarted=fib.restarted))
        self._recorder: Recorder | None = None
        self._config: RouterConfig | None = None
        self._waiting: deque[inputs.Input] = deque()
        self._busy = False
        self._timer: Timer | None = None
        self._due: float | None = None
        self._links: dict[int, inputs.Link] = {}
        self._watched: dict[str, BfdOpen] = {}
        self._holds: dict[tuple[Address, str], Timer | None] = {}  # of neighbors that groups leave out for a while
        self.sockets: Sockets | None = None
        self.watcher: Watcher | None = None
        self._inputs: dict[str, Timings] = {}  # how long each kind of input took
        self.timings: dict[str, Timings] = {}  # of what is around, by name
        self.failed_requests: Callable[[], int] = lambda: 0

    @property
    def rib(self) -> Rib:
        """The routing table, to look at."""
        return self._engine.rib

    @property
    def engine(self) -> Engine:
        """The engine, to look at."""
        return self._engine

    # --- what the manager asks for ---

    def configure(self, message: dict[str, Any], now: float) -> dict[str, Any]:
        """Take a whole configuration; what equals the present one is not touched."""
        try:
            config = from_plain(message["router"])
            if config == self._config and self._fib.synchronous:
                return {"changed": False}
            self._fib.assign(connected.with_loopback(config.interfaces))
            self._turn(inputs.Configure(config, dict(self._fib.indices)), now)
        except (KeyError, ValueError, AttributeError) as error:
            raise RequestError("bad-config", str(error)) from error
        except OSError:
            self._config = config  # it counts; the tables follow
            raise
        self._config = config
        return {"changed": True}

    def link(self, message: dict[str, Any]) -> dict[str, Any]:
        """Take the state of a port; one that is not configured yet is remembered."""
        port, up, mtu = message.get("port"), message.get("up"), message.get("mtu")
        if not isinstance(port, int) or not isinstance(mtu, int | None):
            raise RequestError("bad-request", "a link needs port, up and mtu")
        self._links[port] = inputs.Link(port, bool(up), mtu or 0)
        self._turn(self._links[port], self._clock())
        return {}

    def show(self, message: dict[str, Any]) -> Any:
        """Answer a question about a protocol: {instance, query, arguments}."""
        instance, query, arguments = _question(message)
        if (instance, query) == ("control", "metrics"):
            return self._metrics()
        try:
            return self._engine.show(instance, query, arguments, self._clock())
        except KeyError as error:
            raise _unknown(instance, query, error) from error
        except ValueError as error:
            raise RequestError("bad-request", str(error)) from error

    def _metrics(self) -> dict[str, Any]:
        """Tell which protocols run, and how long things took."""
        return {
            "instances": self._engine.show("engine", "instances", {}, self._clock()),
            "inputs": {kind: timings.plain() for kind, timings in self._inputs.items()},
            "timings": {name: timings.plain() for name, timings in self.timings.items()},
            "failed_requests": self.failed_requests(),
        }

    def clear(self, message: dict[str, Any]) -> dict[str, Any]:
        """Have a protocol do something: {instance, query, arguments}."""
        instance, query, arguments = _question(message)
        try:
            self._turn(inputs.Clear(instance, query, dict(arguments)), self._clock())
        except KeyError as error:
            raise _unknown(instance, query, error) from error
        except ValueError as error:
            raise RequestError("bad-request", str(error)) from error
        return {}

    def stop(self) -> None:
        """Have the protocols say goodbye to their neighbors."""
        self.feed(inputs.Stop())

    def record(self, message: dict[str, Any]) -> dict[str, Any]:
        """Record all inputs: {action: start | fetch | stop}.

        A recording begins with a new engine, as if control had died: neighbors that know graceful restart keep all
        routes, others see a lost session.
        """
        match message.get("action"):
            case "start":
                self._begin_anew()
                return {}
            case "fetch" | "stop" as action if self._recorder is not None:
                piece = self._recorder.fetch()
                if action == "stop":
                    self._recorder = None
                return piece
            case action:
                raise RequestError("bad-request", f"recording: {action!r} cannot be done now")

    def _begin_anew(self) -> None:
        now, header = self._clock(), self._header(restarted=self._config is not None)
        if self.sockets is not None:
            self.sockets.drop_all()
        self._waiting.clear()
        self._engine.routes.detach()
        self._engine = self._make(header)
        self._recorder = Recorder(header)
        for link in self._links.values():
            self._turn(link, now)
        if self._config is not None:
            self._turn(inputs.Configure(self._config, dict(self._fib.indices)), now)

    def _header(self, *, restarted: bool) -> Header:
        return Header(self._name, int.from_bytes(os.urandom(7)), restarted, int(time.time()))

    # --- the engine's world ---

    def feed(self, event: inputs.Input) -> None:
        """Give the engine what has happened; once what it is busy with is done."""
        self._waiting.append(event)
        if not self._busy:
            self._drain()

    def _drain(self) -> None:
        while self._waiting:
            try:
                self._step(self._waiting.popleft(), self._clock())
            except OSError as error:
                log.warning("the tables are not up to date: %s", error)

    def _turn(self, event: inputs.Input, now: float) -> None:
        """Carry out what the engine makes of an input, and of what came of it.

        Raises OSError where the tables have no room, and what the engine raises.
        """
        try:
            self._step(event, now)
        finally:
            self._drain()

    def _step(self, event: inputs.Input, now: float) -> None:
        self._busy, begin = True, time.monotonic()
        self._beat(self._engine.size)
        try:
            wanted: list[outputs.Output] = []
            self._ahead(event)
            try:
                wanted = self._engine.handle(event, now)
            finally:
                if self._recorder is not None:
                    self._recorder.note(now, event, wanted)
            self._carry_out(wanted)
        finally:
            self._busy = False
            kind = type(event).__name__.lower()
            timings = self._inputs.get(kind)
            if timings is None:
                timings = self._inputs[kind] = Timings()
            timings.note(time.monotonic() - begin)
            self._beat(self._engine.size)
            self._arm(now)

    def _ahead(self, event: inputs.Input) -> None:
        """Move next-hop groups away from what has failed, before the routes are judged, which takes its time."""
        try:
            match event:
                case inputs.Link(port, up):
                    self._fib.link(port, up=up)
                case inputs.Bfd(session, up, admin_down) if session in self._watched:
                    self._neighbor(self._watched[session], up=up or admin_down)
        except OSError as error:
            log.warning("not all next-hop groups are moved: %s", error)

    def _neighbor(self, request: BfdOpen, *, up: bool) -> None:
        """Take note of a neighbor that BFD watches."""
        if request.multihop or not request.routes:
            return
        neighbor = (request.remote, request.interface)
        hold = self._holds.pop(neighbor, None)
        if hold is not None:
            hold.cancel()
        if not up:
            self._holds[neighbor] = self._call_later(HOLD, lambda: self._let_go(request))
        self._fib.neighbor(*neighbor, up=up)

    def _let_go(self, request: BfdOpen) -> None:
        """Leave to the protocols what becomes of a neighbor that has been silent for a while."""
        try:
            self._neighbor(request, up=True)
        except OSError as error:
            log.warning("not all next-hop groups are moved back: %s", error)

    def _carry_out(self, wanted: list[outputs.Output]) -> None:
        failure = None
        for output in wanted:
            match output:
                case outputs.Tables():
                    try:
                        self._write(output)
                    except OSError as error:
                        failure = error
                case outputs.Socket(instance, request):
                    if self.sockets is not None:
                        self.sockets.ask(instance, request)
                case outputs.Watch(request):
                    if isinstance(request, BfdOpen):
                        self._watched[request.session] = request
                    else:
                        self._watched.pop(request.session, None)
                    if self.watcher is not None:
                        self.watcher.ask(request)
                case outputs.Event(instance, event, details):
                    log.info("event=%s protocol=%s %s", event, instance, " ".join(f"{key}={it}" for key, it in details))
                case outputs.Line(instance, level, message):
                    log.log(_LEVELS.get(level, logging.INFO), "%s: %s", instance, message)
        if failure is not None:
            raise failure

    def _write(self, tables: outputs.Tables) -> None:
        """Bring the tables in line, and look after them once more a little later."""
        self.tidy_soon()
        self._fib.apply(tables, self._engine.rib.installed, self._engine.rib.backups)
        self._published()

    def tidy_soon(self) -> None:
        """Look after the tables a little later."""
        if not self._tidying:
            self._tidying = True
            self._call_later(_TIDY_AFTER, self._tidy)

    def _tidy(self) -> None:
        """Give memory back; where the tables had no room for everything, try again."""
        self._tidying = False
        try:
            self._fib.reclaim()
            if not self._fib.synchronous:
                self._write(outputs.Tables(self._engine.root, (), self._engine.unsettled))
        except OSError as error:
            log.warning("the tables are not up to date: %s", error)

    def _arm(self, now: float) -> None:
        """Have the engine's deadline kept; a timer that comes too early only looks again."""
        deadline = self._engine.deadline
        if deadline is None or (self._due is not None and self._due <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._call_later(max(0.0, deadline - now), self._wake)

    def _wake(self) -> None:
        self._timer = self._due = None
        now, deadline = self._clock(), self._engine.deadline
        if deadline is not None and deadline <= now:
            self.feed(inputs.Timeout())
        else:
            self._arm(now)


def _question(message: dict[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    instance, query, arguments = message.get("instance"), message.get("query"), message.get("arguments") or {}
    if not isinstance(instance, str) or not isinstance(query, str) or not isinstance(arguments, dict):
        raise RequestError("bad-request", "a question needs instance, query and arguments")
    return instance, query, arguments


def _unknown(instance: str, query: str, error: KeyError) -> RequestError:
    key = error.args[0] if error.args else ""
    if key == instance:
        return RequestError("not-running", f"{instance} is not configured on this router")
    if key == query:
        return RequestError("unknown-query", f"{instance} knows no {query!r}")
    return RequestError("not-found", f"{instance} knows no {key!r}")
