"""The library without a router: messages, addresses, ancillary data, and a broker that comes and goes."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import rsock
from rsock import addresses, ancillary, client, client_core
from rsock.wire import DATAGRAM, HEADER, MAGIC, STRUCTS, VERSION, Flag, Op, field_size, layout


def test_layouts_have_no_padding() -> None:
    for name, fields in STRUCTS.items():
        assert layout(name).size == sum(map(field_size, fields)), name
    assert HEADER.size == 32
    assert DATAGRAM.size == 64


def test_requests_are_numbered_and_repeatable() -> None:
    requests = client_core.Requests()
    first, frames = requests.broker(Op.LIST, {})
    second, _frames = requests.broker(Op.LIST, {})
    assert second == first + 1
    message = client_core.parse_frames(frames)
    assert (message.op, message.request, message.is_reply) == (Op.LIST, first, False)


def test_a_default_context_that_is_replaced_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections, which nobody would use again, were left to the collector of garbage, which warns of them."""
    closed: list[str] = []
    monkeypatch.setattr(client, "_default", [])
    monkeypatch.setattr(client.Context, "close", lambda context: closed.append(context.endpoint))
    monkeypatch.setenv("RSOCK_ENDPOINT", "ipc:///nowhere/a")
    first = client.default_context()
    assert client.default_context() is first
    monkeypatch.setenv("RSOCK_ENDPOINT", "ipc:///nowhere/b")
    assert client.default_context() is not first
    assert closed == ["ipc:///nowhere/a"]


@pytest.mark.parametrize("frames", [[], [b""], [b"x" * 31, b""], [b"\0" * 32, b""], [b"x" * 32, b"", b""]])
def test_broken_frames_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(client_core.ProtocolError):
        client_core.parse_frames(frames)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x01", b"\x81", b"\x91\x01"])
def test_broken_maps_are_refused(body: bytes) -> None:
    with pytest.raises(client_core.ProtocolError):
        client_core.unpack_map(body)


def test_an_error_without_a_number_is_still_an_error() -> None:
    header = HEADER.pack(MAGIC, Op.OPEN, Flag.REPLY | Flag.ERROR, 0, 1, 0, 0, 0)
    assert client_core.parse(header, b"").error == errno.EPROTO


def test_datagram_header_round_trip() -> None:
    raw = client_core.datagram_header(4, bytes([10, 0, 0, 1]).ljust(16, b"\0"), 53, 3, 7, bytes(16))
    header = client_core.parse_datagram(raw + b"payload")
    assert (header.family, header.port, header.interface, header.ttl, header.flags) == (4, 53, 3, 7, 1)
    for broken in (raw[:-1], bytes([VERSION + 1]) + raw[1:]):
        with pytest.raises(client_core.ProtocolError):
            client_core.parse_datagram(broken)


@pytest.mark.parametrize(
    ("family", "given", "shown"),
    [
        (socket.AF_INET, ("10.0.0.1", 53), ("10.0.0.1", 53)),
        (socket.AF_INET, ("", 0), ("0.0.0.0", 0)),
        (socket.AF_INET, ("<broadcast>", 9), ("255.255.255.255", 9)),
        (socket.AF_INET6, ("2001:db8::1", 53), ("2001:db8::1", 53, 0, 0)),
        (socket.AF_INET6, ("fe80::1", 53, 0, 4), ("fe80::1", 53, 0, 4)),
        (socket.AF_INET6, ("fe80::1%7", 53), ("fe80::1", 53, 0, 7)),
        (socket.AF_INET6, ("::ffff:1.2.3.4", 1), ("::ffff:1.2.3.4", 1, 0, 0)),
    ],
)
def test_addresses(family: int, given: tuple[Any, ...], shown: tuple[Any, ...]) -> None:
    assert addresses.show(addresses.parse(family, given)) == shown


@pytest.mark.parametrize(
    ("family", "given", "kind"),
    [
        (socket.AF_INET, ("example.com", 1), addresses.NameGivenError),
        (socket.AF_INET, ("::1", 1), addresses.NameGivenError),
        (socket.AF_INET6, ("1.2.3.4", 1), addresses.NameGivenError),
        (socket.AF_INET6, ("fe80::1%lan", 1), socket.gaierror),
        (socket.AF_INET, ("1.2.3.4", 65536), OverflowError),
        (socket.AF_INET, ("1.2.3.4", "1"), TypeError),
        (socket.AF_INET, "1.2.3.4", TypeError),
        (socket.AF_INET, (), TypeError),
    ],
)
def test_addresses_that_are_none(family: int, given: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        addresses.parse(family, given)


def test_ancillary_data_to_send() -> None:
    info = struct.pack("=i4s4s", 2, socket.inet_aton("10.0.0.1"), bytes(4))
    five = struct.pack("=i", 5)
    assert ancillary.to_send([(0, 8, info), (0, socket.IP_TTL, five), (0, socket.IP_TOS, five)]) == ancillary.Wishes(
        socket.inet_aton("10.0.0.1").ljust(16, b"\0"), 2, 5, 5
    )
    assert ancillary.to_send([(99, 1, b"another's")]) == ancillary.Wishes()
    for item in ((0, 8, b"short"), (0, 99, b"")):
        with pytest.raises(OSError, match="ancillary") as failure:
            ancillary.to_send([item])
        assert failure.value.errno == errno.EINVAL
    assert ancillary.fit([(0, 0, bytes(4))] * 3, 50) == ([(0, 0, bytes(4))] * 2, True)


def test_errors_are_those_of_the_kernel() -> None:
    from rsock.errors import error_of

    for number, kind in (
        (errno.EACCES, rsock.RsockDenied), (errno.EPERM, PermissionError), (errno.ENODEV, LookupError),
        (errno.ENETDOWN, rsock.VRDown), (errno.ECONNREFUSED, ConnectionRefusedError),
    ):  # fmt: skip
        assert isinstance(error_of(number), kind)
        assert error_of(number).errno == number


class Broker:
    """A broker that answers what it is told to, and may leave out the first requests."""

    def __init__(self, endpoint: str, answers: dict[Op, tuple[int, dict[str, Any]]], deaf: int = 0) -> None:
        self.seen: list[tuple[int, int]] = []
        self._answers, self._deaf, self._stop = answers, deaf, False
        self._endpoint = endpoint
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(self._endpoint)
            while not self._stop:
                if not router.poll(10):
                    continue
                peer, header, _body = router.recv_multipart()
                _magic, op, _flags, session, request, *_rest = HEADER.unpack(header)
                self.seen.append((op, request))
                if len(self.seen) <= self._deaf:
                    continue
                error, body = self._answers[Op(op)]
                flags = Flag.REPLY | (Flag.ERROR if error else 0)
                answer = HEADER.pack(MAGIC, op, flags, session, request, 0, error, 0)
                router.send_multipart([peer, answer, msgpack.packb(body)])

    def close(self) -> None:
        self._stop = True
        self._thread.join()


HELLO = {"version": VERSION, "session": 1, "epoch": 1}
VRS = {"vrs": [{"name": "red", "id": 1, "state": "up", "rights": 4}], "epoch": 1, "watching": True}


@contextmanager
def broker(folder: Path, deaf: int = 0, **answers: tuple[int, dict[str, Any]]) -> Iterator[tuple[Broker, str]]:
    endpoint = f"ipc://{folder}/rsock.sock"
    known: dict[Op, tuple[int, dict[str, Any]]] = dict.fromkeys((Op.LIST, Op.WATCH, Op.PING), (0, VRS))
    known[Op.HELLO] = (0, HELLO)
    made = Broker(endpoint, known | {Op[name]: answer for name, answer in answers.items()}, deaf)
    try:
        yield made, endpoint
    finally:
        made.close()


def test_lost_requests_are_repeated_with_the_same_number(tmp_path: Path) -> None:
    with broker(tmp_path, deaf=2) as (made, endpoint), rsock.Context(endpoint) as context:
        assert [(vr.name, vr.state) for vr in context.vrs()] == [("red", "up")]
        assert made.seen[0] == made.seen[1] == made.seen[2]
        with pytest.raises(rsock.VRNotFound):
            context.vr("blue")


@pytest.mark.quiet
def test_a_broker_that_comes_later_is_found(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/rsock.sock"
    with rsock.Context(endpoint, timeout=0.1) as context:
        with pytest.raises(rsock.BrokerGone) as failure:
            context.vrs()
        assert failure.value.errno == errno.ETIMEDOUT
        context.timeout = 20.0
        with broker(tmp_path):
            begin = time.monotonic()
            assert context.vrs()
            assert time.monotonic() - begin < 0.25


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        (errno.EACCES, socket.SOCK_DGRAM, errno.EACCES),
        (errno.EACCES, socket.SOCK_RAW, errno.EPERM),
        (errno.ENODEV, socket.SOCK_DGRAM, errno.ENODEV),
        (errno.ENETDOWN, socket.SOCK_DGRAM, errno.ENETDOWN),
    ],
)
def test_refused_tickets(tmp_path: Path, answer: int, kind: int, expected: int) -> None:
    with broker(tmp_path, TICKET=(answer, {})) as (_made, endpoint), rsock.Context(endpoint) as context:
        with pytest.raises(rsock.RsockError) as failure:
            rsock.socket(socket.AF_INET, kind, 1, vr="red", ctx=context)
        assert failure.value.errno == expected


def test_watch_begins_with_what_is_there_if_asked(tmp_path: Path) -> None:
    with broker(tmp_path) as (_made, endpoint), rsock.Context(endpoint) as context:
        with context.watch(initial=True) as watch:
            assert [watch.wait(1), watch.wait(1)] == [
                rsock.Event("created", "red", "initial"), rsock.Event("up", "red", "initial"),
            ]  # fmt: skip
        with context.watch() as watch:
            assert watch.wait(0.05) is None


def test_kernel_sockets_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RSOCK_VR", raising=False)
    with rsock.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain, rsock.socket(vr="kernel") as stream:
        assert (plain.vr, plain.family, plain.type) == ("kernel", socket.AF_INET, socket.SOCK_DGRAM)
        assert stream.type == socket.SOCK_STREAM
        plain.bind(("127.0.0.1", 0))
        plain.sendto(b"x", plain.getsockname())
        assert plain.recv(10) == b"x"
