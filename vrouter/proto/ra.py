"""Router advertisements of one VR (RFC 4861 section 6.2): IPv6 hosts find their gateway, prefixes and name servers.

    interval passed, solicitation, other configuration, new address ---> Advertisement to ff02::1
    configuration gone, stop -----------------------------------------> the same with lifetime 0

The first three advertisements follow each other after at most 16 s.  A solicitation is answered to all nodes after
up to 0.5 s, and not before 3 s have passed since the last one (section 6.2.6).  A prefix that is no longer announced
is announced for a while with a lifetime of 0, so that hosts stop to use it (section 6.2.8 and RFC 4862 section
5.5.4).

Not supported: answers by unicast, what other routers advertise (section 6.2.7), route information of RFC 4191.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from vrouter.config.ra import Ra, RaPrefix
from vrouter.net.address import IPV6, Address, Prefix, network, parse_address, parse_mac, parse_prefix
from vrouter.proto.base import (
    CloseSocket,
    Environment,
    InterfaceState,
    JoinGroup,
    LeaveGroup,
    Log,
    Meta,
    OpenSocket,
    Output,
    Reconfigured,
    Setting,
    Silent,
    SocketKind,
    Transmit,
)
from vrouter.wire import ra as wire

if TYPE_CHECKING:
    from random import Random

_SOCKET: Final = "icmp6"
_ICMPV6: Final = 58
_HOPS: Final = 255
_ALL_NODES: Final = parse_address("ff02::1")
_ALL_ROUTERS: Final = parse_address("ff02::2")
_RETRY: Final = 10.0
# RFC 4861 section 10.
_MAX_INITIAL_INTERVAL: Final = 16.0
_INITIAL_COUNT: Final = 3
_MIN_DELAY: Final = 3.0  # between two advertisements
_MAX_RESPONSE_DELAY: Final = 0.5
_MAX_LIFETIME: Final = 65535
_FAREWELLS: Final = 3  # advertisements that tell of a prefix that is gone
_PREFERENCES: Final = {
    "high": wire.Preference.HIGH,
    "medium": wire.Preference.MEDIUM,
    "low": wire.Preference.LOW,
}


@dataclass(slots=True)
class _Link:
    """An interface that is advertised on."""

    settings: Ra
    state: InterfaceState
    due: float = math.inf
    solicited: bool = False  # `due` answers a solicitation
    last: float = -math.inf
    initial: int = _INITIAL_COUNT
    joined: bool = False
    farewells: dict[Prefix, int] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def source(self) -> Address | None:
        """Give the link-local address, by which hosts know us."""
        if not self.state.up or self.state.loopback:
            return None
        return next((own.address for own in self.state.addresses if own.link_local), None)


class RouterAdvertisements(Silent):
    """All interfaces of a VR that are advertised on."""

    def __init__(self, environment: Environment) -> None:
        self._rng: Random = environment.rng
        self._states: dict[str, InterfaceState] = {}
        self._links: dict[str, _Link] = {}
        self._wanted = False  # the socket
        self._open = False
        self._retry_at = math.inf

    @property
    def deadline(self) -> float | None:
        """Give when the next advertisement is due."""
        due = min((link.due for link in self._links.values()), default=math.inf) if self._open else math.inf
        due = min(due, self._retry_at)
        return None if due == math.inf else due

    def configure(self, new: Setting, now: float) -> Reconfigured:
        """Begin, change and end advertising."""
        wanted = {each.name: each.ra for each in new.router.interfaces if each.ra is not None and each.ra.enabled}
        outputs: list[Output] = []
        for name in [name for name in self._links if name not in wanted]:
            outputs += self._farewell(name)
            del self._links[name]
        for name, settings in wanted.items():
            link = self._links.get(name)
            if link is None:
                link = _Link(settings, self._states.get(name, InterfaceState(name, up=False)))
                self._links[name] = link
                outputs += self._begin(link, now)
            elif link.settings != settings:
                before = self._prefixes(link)
                link.settings = settings
                self._changed(link, before, now)
        if self._links and not self._wanted:
            self._wanted = True
            outputs.append(self._open_socket())
        elif self._wanted and not self._links:
            outputs += self._close_socket()
        return Reconfigured(live=True, outputs=tuple(outputs))

    def stop(self, now: float) -> list[Output]:  # noqa: ARG002
        """Tell hosts that we are no router any more."""
        outputs: list[Output] = []
        for name in self._links:
            outputs += self._farewell(name)
        self._links.clear()
        return outputs + (self._close_socket() if self._wanted else [])

    def opened(self, socket: str, now: float) -> list[Output]:  # noqa: ARG002
        """Begin to advertise."""
        self._open = True
        outputs: list[Output] = []
        for link in self._links.values():
            outputs += self._begin(link, now)
        return outputs

    def closed(self, socket: str, error: int, now: float) -> list[Output]:  # noqa: ARG002
        """Try again later."""
        self._open = False
        for link in self._links.values():
            link.joined = False
        if not self._wanted:
            return []
        self._retry_at = now + _RETRY
        return [Log("warning", f"router advertisements: no ICMPv6 socket: error {error}")]

    def interface_changed(self, state: InterfaceState, now: float) -> list[Output]:
        """Take note of an interface: new addresses are announced soon."""
        self._states[state.name] = state
        link = self._links.get(state.name)
        if link is None:
            return []
        could, before = link.source is not None, self._prefixes(link)
        link.state = state
        if link.source is None:
            link.due, link.initial = math.inf, _INITIAL_COUNT
            joined, link.joined = link.joined, False
            return [LeaveGroup(_SOCKET, state.name, _ALL_ROUTERS)] if joined and self._open else []
        if not could:
            return self._begin(link, now)
        self._changed(link, before, now)
        return []

    def received(self, socket: str, packet: bytes, meta: Meta, now: float) -> list[Output]:  # noqa: ARG002
        """Answer a solicitation after a while (RFC 4861 sections 6.1.1 and 6.2.6)."""
        link = self._links.get(meta.interface)
        if link is None or link.source is None or not packet or packet[0] != wire.SOLICITATION:
            return []
        if meta.ttl != _HOPS:
            link.counters["bad-hop-limit"] += 1
            return []
        try:
            message = wire.decode(packet)
        except wire.RaError:
            link.counters["bad-message"] += 1
            return []
        if meta.source.value == 0 and isinstance(message, wire.Solicitation) and message.mac:
            link.counters["bad-message"] += 1
            return []
        link.counters["solicitations"] += 1
        if not link.solicited:
            at = max(now + self._rng.uniform(0, _MAX_RESPONSE_DELAY), link.last + _MIN_DELAY)
            if at < link.due:
                link.due, link.solicited = at, True
        return []

    def handle_timeout(self, now: float) -> list[Output]:
        """Send what is due."""
        outputs: list[Output] = []
        if now >= self._retry_at:
            self._retry_at = math.inf
            outputs.append(self._open_socket())
        if not self._open:
            return outputs
        for link in self._links.values():
            if now >= link.due:
                outputs += self._advertise(link, now)
        return outputs

    def show(self, query: str, arguments: Mapping[str, Any], now: float) -> Any:  # noqa: ARG002
        """Answer an operator: interfaces."""
        if query not in {"interfaces", "summary"}:
            raise KeyError(query)
        return [self._shown(name, link, now) for name, link in sorted(self._links.items())]

    def _open_socket(self) -> OpenSocket:
        return OpenSocket(_SOCKET, SocketKind.RAW, IPV6, protocol=_ICMPV6, ttl=_HOPS)

    def _close_socket(self) -> list[Output]:
        self._wanted = self._open = False
        self._retry_at = math.inf
        return [CloseSocket(_SOCKET)]

    def _begin(self, link: _Link, now: float) -> list[Output]:
        """Start with a few advertisements close to each other (RFC 4861 section 6.2.4)."""
        if not self._open or link.source is None:
            return []
        link.initial = _INITIAL_COUNT
        self._soon(link, now)
        if link.joined:
            return []
        link.joined = True
        return [JoinGroup(_SOCKET, link.state.name, _ALL_ROUTERS)]

    def _changed(self, link: _Link, before: tuple[wire.PrefixInformation, ...], now: float) -> None:
        """Tell hosts soon of what has changed, of what is gone too."""
        present = {info.prefix for info in self._prefixes(link)}
        for prefix in present:
            link.farewells.pop(prefix, None)
        for info in before:
            if info.prefix not in present:
                link.farewells[info.prefix] = _FAREWELLS
        if self._open and link.source is not None:
            link.initial = _INITIAL_COUNT
            self._soon(link, now)

    def _soon(self, link: _Link, now: float) -> None:
        at = max(now + self._rng.uniform(0, _MAX_RESPONSE_DELAY), link.last + _MIN_DELAY)
        link.due = min(link.due, at)

    def _advertise(self, link: _Link, now: float) -> list[Output]:
        link.last, link.solicited = now, False
        interval = link.settings.interval
        wait = self._rng.uniform(max(_MIN_DELAY, interval / 3), interval)
        if link.initial > 1:
            link.initial -= 1
            wait = min(wait, _MAX_INITIAL_INTERVAL)
        link.due = now + wait
        outputs = self._send(link, self._message(link))
        link.farewells = {prefix: count - 1 for prefix, count in link.farewells.items() if count > 1}
        return outputs

    def _farewell(self, name: str) -> list[Output]:
        """Tell hosts that we are no default router any more (RFC 4861 section 6.2.5); the prefixes stay theirs."""
        link = self._links[name]
        if not self._open or link.source is None:
            return []
        outputs: list[Output] = []
        if link.last > -math.inf:
            outputs += self._send(link, replace(self._message(link), lifetime=0))
        if link.joined:
            outputs.append(LeaveGroup(_SOCKET, name, _ALL_ROUTERS))
        return outputs

    def _send(self, link: _Link, message: wire.Advertisement) -> list[Output]:
        link.counters["advertisements"] += 1
        data = wire.encode(message)
        return [Transmit(_SOCKET, _ALL_NODES, data, interface=link.state.name, source=link.source)]

    def _message(self, link: _Link) -> wire.Advertisement:
        settings = link.settings
        times_three = min(math.ceil(3 * settings.interval), _MAX_LIFETIME)
        lifetime = times_three if settings.lifetime is None else int(settings.lifetime)
        dns_lifetime = times_three if settings.dns_lifetime is None else int(settings.dns_lifetime)
        servers = tuple(address for address in map(parse_address, settings.dns_servers) if address.family == IPV6)
        gone = tuple(wire.PrefixInformation(prefix, 0, 0) for prefix in sorted(link.farewells))
        return wire.Advertisement(
            min(lifetime, 9000),
            settings.hop_limit,
            settings.managed,
            settings.other,
            _PREFERENCES[settings.preference] if lifetime else wire.Preference.MEDIUM,
            round(settings.reachable_time * 1000),
            round(settings.retransmit_time * 1000),
            parse_mac(link.state.mac) if link.state.mac else b"",
            link.state.mtu if settings.mtu else 0,
            self._prefixes(link) + gone,
            (wire.DnsServers(dns_lifetime, servers),) if servers else (),
            (wire.DnsSearch(dns_lifetime, settings.dns_search),) if settings.dns_search else (),
        )

    def _prefixes(self, link: _Link) -> tuple[wire.PrefixInformation, ...]:
        """Give what hosts are told of prefixes: those of the interface, and those that the configuration adds."""
        chosen = {parse_prefix(text): settings for text, settings in link.settings.prefixes.items()}
        for own in link.state.addresses:
            if own.address.family == IPV6 and not own.link_local and own.length < 128:
                chosen.setdefault(network(own.address, own.length), RaPrefix(autonomous=own.length == 64))
        return tuple(
            wire.PrefixInformation(
                prefix,
                int(settings.valid_lifetime),
                min(int(settings.preferred_lifetime), int(settings.valid_lifetime)),
                settings.on_link,
                settings.autonomous,
            )
            for prefix, settings in sorted(chosen.items())
            if settings.announce and prefix.family == IPV6
        )

    def _shown(self, name: str, link: _Link, now: float) -> dict[str, Any]:
        message = self._message(link)
        return {
            "interface": name,
            "active": self._open and link.source is not None,
            "source": str(link.source) if link.source is not None else None,
            "interval": link.settings.interval,
            "lifetime": message.lifetime,
            "preference": link.settings.preference,
            "managed": message.managed,
            "other": message.other,
            "mtu": message.mtu or None,
            "next": max(0.0, link.due - now) if link.due < math.inf else None,
            "prefixes": [
                {
                    "prefix": str(info.prefix),
                    "valid": info.valid,
                    "preferred": info.preferred,
                    "on_link": info.on_link,
                    "autonomous": info.autonomous,
                }
                for info in message.prefixes
            ],
            "dns_servers": [str(address) for each in message.dns_servers for address in each.servers],
            "dns_search": [domain for each in message.dns_search for domain in each.domains],
            "counters": dict(sorted(link.counters.items())),
        }
