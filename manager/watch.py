"""Watches network namespaces for changes of their devices (RTM_NEWLINK, RTM_DELLINK).

What has changed is not read from the message: the ports look themselves, so that a lost message does
no harm.  An audit each second covers what no message tells.
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
# Devices come and change in bursts of messages: wait for the rest of one.
SETTLE: Final = 0.005


class Watch:
    """Calls back when a device in one of the namespaces has changed, and each second."""

    def __init__(self, reactor: Reactor, changed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._changed = changed
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
        self.follow(self._paths)
        self._changed()
