"""manager.sock: what operators ask of the manager (vrouter.api.messages).  Root only, by the socket's mode.

The api process has a connection of its own, on which it may only look.
"""

from __future__ import annotations

import array
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from manager.peers import Result, listen
from manager.reactor import READ, WRITE, Reactor
from vrouter.api import messages
from vrouter.api.messages import ControlOp, ManagerOp

if TYPE_CHECKING:
    from manager.service import Service

MAX_CLIENTS: Final = 64
MAX_REQUEST: Final = 1 << 20
MAX_UNREAD: Final = 1 << 24

log = structlog.get_logger()


class _Client:
    """One connection."""

    def __init__(self, server: ApiServer, connection: socket.socket, allowed: frozenset[str]) -> None:
        self.connection = connection
        self.allowed = allowed
        self._server = server
        self._decoder = messages.Decoder()
        self._taken = 0
        self._output: list[tuple[bytes, list[int]]] = []

    def on_ready(self) -> None:
        """Send what waits, take what has come."""
        if self._output:
            self._flush()
            return
        try:
            data = self.connection.recv(1 << 16)
            requests = self._decoder.feed(data) if data else None
        except BlockingIOError:
            return
        except (OSError, messages.FrameError):
            requests = None
        self._taken = 0 if requests else self._taken + len(data)
        if requests is None or self._taken > MAX_REQUEST:
            self._server.drop(self)
            return
        for request in requests:
            self._server.answer(self, request)

    def send(self, message: dict[str, Any], fds: list[int]) -> None:
        """Queue a reply; the fds stay the caller's and must live until it is sent."""
        if self.connection.fileno() < 0:
            return
        framed = messages.encode_reply(message, lambda reason: log.error("a request failed", reason=reason))
        self._output.append((framed, fds))
        if sum(len(data) for data, _fds in self._output) > MAX_UNREAD:
            self._server.drop(self)
            return
        self._flush()

    def _flush(self) -> None:
        while self._output:
            data, fds = self._output[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = self.connection.sendmsg([data], rights)
            except BlockingIOError:
                break
            except OSError:
                self._server.drop(self)
                return
            if sent < len(data):
                self._output[0] = (data[sent:], [])
            else:
                self._output.pop(0)
        self._server.wait_for(self, READ | WRITE if self._output else READ)


class ApiServer:
    """Serves operators."""

    def __init__(self, reactor: Reactor, path: Path, service: Service) -> None:
        self._reactor = reactor
        self._path = path
        self._service = service
        self._clients: set[_Client] = set()
        self._listener = listen(path, socket.SOCK_STREAM, 0o600)
        reactor.add(self._listener.fileno(), READ, self._on_connection)

    def serve(self, connection: socket.socket, allowed: frozenset[ManagerOp]) -> None:
        """Serve a connection, which may ask for these things only."""
        connection.setblocking(False)
        client = _Client(self, connection, frozenset(str(op) for op in allowed))
        self._clients.add(client)
        self._reactor.add(connection.fileno(), READ, client.on_ready)

    def close(self) -> None:
        """Stop serving."""
        for client in list(self._clients):
            self.drop(client)
        self._reactor.remove(self._listener.fileno())
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def wait_for(self, client: _Client, events: int) -> None:
        """Change what a client's connection is watched for."""
        self._reactor.modify(client.connection.fileno(), events, client.on_ready)

    def drop(self, client: _Client) -> None:
        """Close a connection."""
        if client in self._clients:
            self._clients.remove(client)
            self._reactor.remove(client.connection.fileno())
            client.connection.close()

    def answer(self, client: _Client, request: dict[str, Any]) -> None:
        """Carry a request out; the reply may come later."""
        number = request.get("id")

        def reply(result: Any, fds: list[int] | None = None) -> None:
            client.send({"id": number, "result": result}, fds or [])

        def fail(message: str, kind: str, details: Any = None) -> None:
            client.send({"id": number, "error": {"message": message, "kind": kind, "details": details}}, [])

        if request.get("op") not in client.allowed:
            fail(f"unknown request: {request.get('op')}", "usage")
            return

        def answered(result: Any, error: str | None) -> None:
            if error is None:
                reply(result)
            else:
                fail(error, "failed")

        try:
            self._carry_out(request, reply, answered)
        except KeyError as error:
            fail(f"no such router, or it is down: {error.args[0]}", "failed")
        except ValueError as error:
            fail(str(error), "usage")
        except Exception as error:
            details = getattr(error, "details", None)
            if details is None:
                log.exception("a request failed")
            fail(str(error), "failed" if details is None else "config", details)

    def _carry_out(self, request: dict[str, Any], reply: Callable[..., None], answered: Result) -> None:
        service = self._service
        match request.get("op"):
            case ManagerOp.ROUTERS:
                reply(service.routers())
            case ManagerOp.STATUS:
                reply(service.status())
            case ManagerOp.PLAN:
                reply(service.plan().as_data())
            case ManagerOp.APPLY:
                plan = service.apply()
                service.when_settled(lambda: reply(plan.as_data()))
            case ManagerOp.ROUTER:
                service.act(str(request.get("action")), str(request.get("name")))
                service.when_settled(lambda: reply({}))
            case ManagerOp.SEGMENTS:
                reply({}, service.segments(str(request.get("name"))))
            case ManagerOp.SHOW | ManagerOp.CLEAR | ManagerOp.RECORD as op:
                fields = {key: request.get(key) for key in ("instance", "query", "arguments", "action")}
                service.ask_control(str(request.get("name")), ControlOp(str(op)), fields, answered)
            case other:
                raise ValueError(f"unknown request: {other}")

    def _on_connection(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _address = self._listener.accept()
                connection.setblocking(False)
                if len(self._clients) >= MAX_CLIENTS:
                    connection.close()
                    continue
                self.serve(connection, frozenset(ManagerOp))
