"""One VR's control: configuration and links in, tables out.

    CONFIGURE --> addresses, derived routes --+
                  static routes --------------+--> RIB --> FibSync --> tables segment
    LINK -------> ports that are down --------+

A request is answered once the tables say what it asked for.  After a restart nothing is touched until
the first CONFIGURE; it is then applied over what the predecessor left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from vrouter.config.codec import from_plain
from vrouter.config.router import Interface, RouterConfig
from vrouter.net.address import Prefix
from vrouter.proto.base import Output, RouteAdd, RouteDel
from vrouter.proto.static import Static
from vrouter.rib import connected
from vrouter.rib.connected import InterfaceAddress
from vrouter.rib.rib import Rib
from vrouter.rib.route import Protocol, Route
from vrouter.runtime.fib_sync import FibSync, Root
from vrouter.runtime.manager_link import RequestError
from vrouter.sockets.rules import RuleEntry, entries

log = logging.getLogger(__name__)
_TIDY_AFTER: Final = 0.5  # readers have gone on by then
_RouteKey = tuple[Prefix, Protocol, str]


class Control:
    """The state of a VR's control."""

    def __init__(self, name: str, fib: FibSync, call_later: Callable[[float, Callable[[], None]], object],
                 published: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        """Work on `fib`; `call_later(seconds, callback)` is the loop's, `published` is called after each change."""
        self._call_later = call_later
        self._published = published
        self._tidying = False
        self._name = name
        self._fib = fib
        self._rib = Rib()
        self._static = Static()
        self._config: RouterConfig | None = None
        self._derived: dict[_RouteKey, Route] = {}
        self._addresses: tuple[InterfaceAddress, ...] = ()
        self._rules: tuple[RuleEntry, ...] = ()
        self._links: dict[int, tuple[bool, int]] = {}  # port -> up, MTU

    @property
    def rib(self) -> Rib:
        """The routing table, to look at."""
        return self._rib

    def configure(self, message: dict[str, Any], now: float) -> dict[str, Any]:
        """Take a whole configuration; what equals the present one is not touched."""
        try:
            config = from_plain(message["router"])
            config = replace(config, interfaces=connected.with_loopback(config.interfaces))
            addresses = (
                *(entry for interface in config.interfaces for entry in connected.addresses(interface)),
                *connected.own_addresses(config.interfaces),
            )
            derived = {_key(route): route for entry in addresses for route in connected.routes(entry)}
            rules = entries(config.rules, config.relay_uid)
            if config.name != self._name:
                raise ValueError(f"this is the configuration of '{config.name}'")
            if config == self._config and self._fib.synchronous:
                return {"changed": False}
            outputs = self._static.configure(config.static, now).outputs
        except (KeyError, ValueError, AttributeError) as error:
            raise RequestError("bad-config", str(error)) from error
        self._update_derived(derived)
        self._take(outputs)
        self._config, self._addresses, self._rules = config, addresses, rules
        self._update_links()
        self._flush()
        return {"changed": True}

    def link(self, message: dict[str, Any]) -> dict[str, Any]:
        """Take the state of a port; one that is not configured yet is remembered."""
        port, up, mtu = message.get("port"), message.get("up"), message.get("mtu")
        if not isinstance(port, int) or not isinstance(mtu, int | None):
            raise RequestError("bad-request", "a link needs port, up and mtu")
        state = (bool(up), mtu or 0)
        if self._links.get(port) == state:
            return {}
        self._links[port] = state
        if self._config is not None:
            self._update_links()
            self._flush()
        return {}

    def _update_derived(self, derived: dict[_RouteKey, Route]) -> None:
        gone = [route for key, route in self._derived.items() if key not in derived]
        changed = [route for key, route in derived.items() if self._derived.get(key) != route]
        self._rib.update(changed, gone)
        self._derived = derived

    def _take(self, outputs: Iterable[Output]) -> None:
        """Carry out what a protocol asks for."""
        for output in outputs:
            if isinstance(output, RouteAdd):
                self._rib.update(output.routes)
            elif isinstance(output, RouteDel):
                self._rib.update((), output.routes)

    def _update_links(self) -> None:
        assert self._config is not None
        for interface in self._config.interfaces:
            up, _ = self._links.get(interface.port, (True, 0)) if interface.port else (True, 0)
            self._rib.link(interface.name, up=up)

    def _flush(self) -> None:
        """Bring the tables in line, and look after them once more a little later."""
        assert self._config is not None
        if not self._tidying:
            self._tidying = True
            self._call_later(_TIDY_AFTER, self._tidy)
        interfaces = tuple(self._with_link_mtu(interface) for interface in self._config.interfaces)
        changes = self._rib.flush()
        self._fib.apply(Root(interfaces, self._addresses, self._rules), changes, self._rib.installed)
        self._published()

    def _tidy(self) -> None:
        """Give memory back; where the tables had no room for everything, try again."""
        self._tidying = False
        try:
            self._fib.reclaim()
            if not self._fib.synchronous:
                self._flush()
        except OSError as error:
            log.warning("the tables are not up to date: %s", error)

    def _with_link_mtu(self, interface: Interface) -> Interface:
        """Keep packets within what the device can carry now."""
        _, mtu = self._links.get(interface.port, (True, 0)) if interface.port else (True, 0)
        return replace(interface, mtu=mtu) if 0 < mtu < interface.mtu else interface


def _key(route: Route) -> _RouteKey:
    return route.prefix, route.protocol, route.source
