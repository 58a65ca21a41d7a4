"""Watches network namespaces for changes of their devices (RTM_NEWLINK, RTM_DELLINK).

What has changed is not read from the message: the ports look themselves, so that a lost message does
no harm.  An audit each second covers what no message tells: namespaces that are new, and devices that went without
a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from manager import namespaces
from manager.netlink import GROUP_LINK, Netlink
from manager.reactor import READ, Reactor

AUDIT_INTERVAL: Final = 1.0
FOLLOW_EVERY: Final = 5  # audits, to find out whether a namespace has been replaced
# Devices come and change in bursts of messages: wait for the rest of one.
SETTLE: Final = 0.005


class Watch:
    """Calls back when a device in one of the namespaces has changed; and each second, with the number of seconds."""

    def __init__(self, reactor: Reactor, changed: Callable[[], None], audit: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._changed = changed
        self._on_audit = audit
        self._audits = 0
        self._sockets: dict[int, Netlink] = {}  # by inode of the namespace
        self._due = False
        self._paths: frozenset[Path] = frozenset()

    def start(self) -> None:
        """Audit from now on."""
        self._reactor.after(AUDIT_INTERVAL, self._audit)

    def follow(self, paths: Iterable[Path]) -> None:
        """Watch exactly these namespaces; those that do not exist yet are tried again at each audit."""
        self._paths = frozenset(paths)
        wanted = {inode: path for path in self._paths if (inode := namespaces.identity(path)) is not None}
        for inode in self._sockets.keys() - wanted.keys():
            netlink = self._sockets.pop(inode)
            self._reactor.remove(netlink.fileno())
            netlink.close()
        for inode in wanted.keys() - self._sockets.keys():
            try:
                fd = namespaces.open_path(wanted[inode])
            except OSError:
                continue
            netlink = Netlink(fd, GROUP_LINK)
            os.close(fd)
            self._sockets[inode] = netlink
            self._reactor.add(netlink.fileno(), READ, partial(self._on_events, netlink))

    def expect(self, paths: Iterable[Path]) -> None:
        """Watch exactly these, without a look whether those watched already are still the same."""
        if frozenset(paths) != self._paths:
            self.follow(paths)

    def close(self) -> None:
        """Watch nothing more."""
        self.follow(())

    def _on_events(self, netlink: Netlink) -> None:
        netlink.drain()
        if not self._due:
            self._due = True
            self._reactor.after(SETTLE, self._look)

    def _look(self) -> None:
        self._due = False
        self._changed()

    def _audit(self) -> None:
        self._reactor.after(AUDIT_INTERVAL, self._audit)
        self._audits += 1
        if len(self._sockets) < len(self._paths) or self._audits % FOLLOW_EVERY == 0:
            self.follow(self._paths)
        self._on_audit(self._audits)
