"""The manager's side of the api process: there is one where the configuration has `api`.

It has a uid of its own.  `api.sock` (0660) is made here, and its listener kept, so that no client is refused while
the process is born again.  Its requests come by a socket pair, on which ApiServer answers what does no harm.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

from manager import uids
from manager.broker import Broker
from manager.child import Child, Zygote
from manager.member import Phase
from manager.peers import listen
from manager.reactor import Reactor
from vrouter.api.messages import ManagerOp
from vrouter.config.schema import Api

ALLOWED: Final = frozenset({ManagerOp.ROUTERS, ManagerOp.STATUS, ManagerOp.SEGMENTS, ManagerOp.SHOW})


class Web(Broker):
    """Starts the api process where one is wanted, and again when it dies."""

    _role: ClassVar[str] = "api"

    def __init__(self, reactor: Reactor, zygote: Zygote, run_dir: Path,
                 serve: Callable[[socket.socket, frozenset[ManagerOp]], None]) -> None:  # fmt: skip
        super().__init__(reactor, zygote, run_dir, self._ended)
        self._serve = serve
        self._wanted: Api | None = None
        self._listener: socket.socket | None = None
        self._path = run_dir / "api.sock"

    def configure(self, wanted: Api | None, uid_range: tuple[int, int]) -> None:
        """Be as the configuration says."""
        before, self._wanted = self._wanted, wanted
        if wanted is None:
            self.member.end()
            return
        if self._listener is None:
            self._listener = listen(self._path, socket.SOCK_STREAM, 0o660)
        if before is None:
            if self._lock < 0:
                self._uid, self._lock = uids.lock(*uid_range)
            self.member.start()
        elif wanted != before:
            self.member.fence("listens elsewhere")

    @property
    def absent(self) -> bool:
        """Tell whether there is no process."""
        return self.member.phase is Phase.ABSENT

    def end(self) -> None:
        """End it for good."""
        self._wanted = None
        super().end()

    def close(self) -> None:
        """Free what it had; after it has ended."""
        self._drop()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        if self._lock >= 0:
            uids.release(self._uid, self._lock)
            self._lock = -1

    def _ended(self) -> None:
        if self._wanted is not None:  # it was wanted again meanwhile
            self._drop()
            self.member.start()
        else:
            self.close()

    def _spawn(self, done: Callable[[Child], None]) -> None:
        assert self._listener is not None
        self._drop()
        self._socket, self._theirs = socket.socketpair()
        self._socket.setblocking(False)
        ours, asking = socket.socketpair()
        fds = {
            "control": self._theirs.fileno(), "uid_lock": self._lock, "manager": asking.fileno(),
            "listener": self._listener.fileno(),
        }  # fmt: skip
        self._zygote.spawn(
            self._role, "", uid=self._uid, gid=self._uid, run_dir=str(self._run_dir), fds=fds, done=done
        )  # fmt: skip
        asking.close()
        self._serve(ours, ALLOWED)

    def _opening(self) -> list[dict[str, Any]]:
        endpoint = None if self._wanted is None else self._wanted.listen
        return [{"op": "listen", "endpoint": endpoint}, {"op": "ping"}]
