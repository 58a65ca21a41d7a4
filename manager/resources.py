"""What a VR owns while it is not down: namespace, uid, segments and listeners.

A forwarder that dies gets a successor on the same ones, and a control likewise; so all of them stay with the
manager.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from fastpath import segment
from manager import namespaces, uids
from manager.peers import listen


@dataclass
class Resources:
    """Fds unless they say otherwise."""

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

    def renew_segments(self, router_id: int, name: str) -> None:
        """Take fresh segments for a VR that begins anew.  Raises OSError; it has the old ones then."""
        with contextlib.ExitStack() as undo:
            fds = _make_segments(router_id, name)
            for fd in fds:
                undo.callback(os.close, fd)
            view = segment.Segment(fds[3], segment.KIND_STATE)
            undo.pop_all()
        self._close_segments()
        self.tables, self.state, self.tables_ro, self.state_ro = fds
        self.view = view

    def free(self, vr_path: Path, control_path: Path) -> None:
        """Give everything back; the VR's own fds stay its."""
        self._close_segments()
        for listener, path in ((self.vr_listener, vr_path), (self.control_listener, control_path)):
            listener.close()
            _remove(path)
        os.close(self.netns_fd)
        namespaces.delete(self.netns)
        uids.release(self.uid, self.uid_lock)

    def _close_segments(self) -> None:
        self.view.close()
        for fd in (self.tables, self.state, self.tables_ro, self.state_ro):
            os.close(fd)


def allocate(
    netns: str, router_id: int, name: str, uid_range: tuple[int, int], vr_path: Path, control_path: Path
) -> Resources:
    """Take what a VR needs; nothing when something cannot be had.  Raises OSError and NoFreeUidError."""
    namespaces.delete(netns)  # of a run whose devices the journal has brought home
    with contextlib.ExitStack() as undo:
        uid, lock = uids.lock(*uid_range)
        undo.callback(uids.release, uid, lock)
        netns_fd = namespaces.create(netns)
        undo.callback(namespaces.delete, netns)
        undo.callback(os.close, netns_fd)
        segments = _make_segments(router_id, name)
        for fd in segments:
            undo.callback(os.close, fd)
        listeners = []
        for path, kind, mode in (
            (vr_path, socket.SOCK_SEQPACKET, 0o666), (control_path, socket.SOCK_STREAM, 0o600)
        ):  # fmt: skip
            listeners.append(undo.enter_context(listen(path, kind, mode)))
            undo.callback(_remove, path)
        resources = Resources(netns, netns_fd, uid, lock, *segments, *listeners)
        undo.pop_all()
        return resources


def _make_segments(router_id: int, name: str) -> tuple[int, int, int, int]:
    """Make a VR's segments: tables and state to write, the same to read."""
    with contextlib.ExitStack() as undo:

        def kept(fd: int) -> int:
            undo.callback(os.close, fd)
            return fd

        tables = kept(segment.create(segment.KIND_TABLES, segment.TABLES_SIZE, router_id, name))
        state = kept(segment.create(segment.KIND_STATE, segment.STATE_SIZE, router_id, name))
        fds = tables, state, kept(segment.reopen_read_only(tables)), kept(segment.reopen_read_only(state))
        undo.pop_all()
        return fds


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # on a disk that has become read-only it stays
        path.unlink()
