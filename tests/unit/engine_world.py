"""An engine with protocols that are made for tests, and a look at what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeVar

from vrouter.config.router import Interface, RouterConfig, StaticHop, StaticRoute
from vrouter.engine import inputs, outputs
from vrouter.engine.engine import Engine, Surroundings
from vrouter.engine.instances import KINDS, Kind
from vrouter.net.address import parse_address, parse_prefix
from vrouter.proto import base
from vrouter.rib.route import Hop, HopKind, Protocol, Route

LAN = Interface("lan", "ethernet", 1, mac="02:00:00:00:00:01", addresses=("10.0.0.1/24",))
WAN = Interface("wan", "ethernet", 2, mac="02:00:00:00:00:02", addresses=("192.0.2.1/30",))
DEFAULT = StaticRoute("198.51.100.0/24", (StaticHop("192.0.2.2"),))
CONFIG = RouterConfig("red", 7, (LAN, WAN), (DEFAULT,))
_Kind = TypeVar("_Kind")


class Toy(base.Silent):
    """Notes what it is told, and answers as it is told to."""

    def __init__(self, environment: base.Environment, script: Mapping[str, Any]) -> None:
        self.environment = environment
        self.told: list[tuple[Any, ...]] = []
        self.script = dict(script)
        self.due: float | None = None

    @property
    def deadline(self) -> float | None:
        return self.due

    def _answer(self, name: str, *arguments: Any) -> list[base.Output]:
        self.told.append((name, *arguments[:-1]))
        answer = self.script.get(name, [])
        return answer(self, *arguments) if callable(answer) else list(answer)

    def configure(self, new: base.Setting, now: float) -> base.Reconfigured:
        outputs = self._answer("configure", new, now)
        return base.Reconfigured(self.script.get("live", True), tuple(outputs))

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:  # noqa: ARG002
        if query != "told":
            raise KeyError(query)
        return [entry[0] for entry in self.told]


def _method(name: str) -> Callable[..., list[base.Output]]:
    def method(self: Toy, *arguments: Any) -> list[base.Output]:
        return self._answer(name, *arguments)

    return method


for _name in (
    "opened", "connected", "accepted", "received", "stream", "writable", "closed", "handle_timeout",
    "interface_changed", "next_hop_changed", "routes_changed", "bfd_changed", "clear", "stop",
):  # fmt: skip
    setattr(Toy, _name, _method(_name))


class World:
    """An engine, its toys, and what it has asked for."""

    def __init__(self, *, restarted: bool = False, **scripts: Mapping[str, Any]) -> None:
        self.toys: dict[str, list[Toy]] = {name: [] for name in scripts}
        self.absent: set[str] = set()
        kinds = [self._kind(name, script) for name, script in scripts.items()]
        surroundings = Surroundings(Random, restarted=restarted)
        self.engine = Engine("red", surroundings, (*KINDS[:1], *kinds))
        self.now = 100.0
        self.out: list[outputs.Output] = []
        self.fib: dict[str, Route] = {}

    def _kind(self, name: str, script: Mapping[str, Any]) -> Kind:
        def make(environment: base.Environment) -> base.Instance:
            toy = Toy(environment, script)
            self.toys[name].append(toy)
            return toy

        restarts = tuple(script.get("restarts", ()))
        return Kind(name, lambda _router: name not in self.absent, make, restarts)

    def toy(self, name: str) -> Toy:
        """The newest instance of a kind."""
        return self.toys[name][-1]

    def give(self, event: inputs.Input, after: float = 0) -> list[outputs.Output]:
        """Give an input some seconds later."""
        self.now += after
        self.out = self.engine.handle(event, self.now)
        for tables in self.find(outputs.Tables):
            for change in tables.changes:
                if change.route is None:
                    self.fib.pop(str(change.prefix), None)
                else:
                    self.fib[str(change.prefix)] = change.route
        return self.out

    def configure(self, config: RouterConfig = CONFIG, after: float = 0) -> list[outputs.Output]:
        return self.give(inputs.Configure(config, {"lan": 1, "wan": 2, "lo": 3}), after)

    def find(self, kind: type[_Kind]) -> list[_Kind]:
        return [output for output in self.out if isinstance(output, kind)]

    def asked(self) -> list[outputs.SocketRequest]:
        return [output.request for output in self.find(outputs.Socket)]


def route(prefix: str, protocol: Protocol, via: str = "10.0.0.9", metric: int = 0) -> Route:
    hop = Hop(HopKind.FORWARD, "", parse_address(via))
    return Route(parse_prefix(prefix), protocol, (hop,), 110, metric)
