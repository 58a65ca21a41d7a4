"""The sending and the listening neighbor of a BGP benchmark: handshake in Python, the bulk in one `send` and in C.

speaker = Speaker(namespace, "10.98.1.2", "10.98.1.1", asn=65010, afi=1)
speaker.connect(timeout=30)
start = speaker.send(table.announce)       # seconds of time.monotonic() at the first byte
speaker.announced, speaker.withdrawn       # what came from the other side
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bgp_routes import HEADER, MARKER, message

from tests.unit.c_build import build

if TYPE_CHECKING:
    from lab import Namespace

OPEN, NOTIFICATION, KEEPALIVE = 1, 3, 4
HOLD_TIME: Final = 240
KEEPALIVE_SECONDS: Final = 15.0
DECLARATIONS: Final = """
struct count {
	volatile uint64_t announced, withdrawn, messages, bytes, ends_of_rib, last_ns;
	volatile uint64_t announce_target, announce_ns, withdraw_target, withdraw_ns;
	volatile int stop, ended, notification;
	uint8_t *kept;
	uint64_t kept_room;
	volatile uint64_t kept_size;
};
void count_run(struct count *c, int fd);
"""


def counter() -> Any:
    """Give the counting reader, compiled."""
    return build("bgp_count", (), DECLARATIONS, (Path(__file__).parent / "bgp_count.c").read_text())


def open_message(asn: int, router_id: str, afi: int) -> bytes:
    """Encode an OPEN with one family and 4-byte AS numbers."""
    capabilities = struct.pack(">BBHBB", 1, 4, afi, 0, 1) + struct.pack(">BBI", 65, 4, asn)
    optional = struct.pack(">BB", 2, len(capabilities)) + capabilities
    body = struct.pack(">BHH", 4, asn, HOLD_TIME) + ipaddress.ip_address(router_id).packed
    return message(OPEN, body + bytes((len(optional),)) + optional)


class Speaker:
    """One end of a session; see the module."""

    def __init__(self, namespace: Namespace, local: str, remote: str, *, asn: int, afi: int, keep: int = 0) -> None:
        """Take its addresses; `keep` is how many bytes of UPDATEs are kept for `kept`."""
        self._namespace, self._local, self._remote = namespace, local, remote
        self._open = open_message(asn, "10.98.255." + str(asn % 250 + 1), afi)
        self._module = counter()
        self._keep = keep
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._said = 0.0
        self.count: Any = None
        self.established = 0.0

    def connect(self, timeout: float = 60.0) -> None:
        """Connect until the other side takes it, and do the handshake; then count what comes."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._socket = self._handshake()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"no session with {self._remote}: {error}") from error
                time.sleep(0.05)
        self.established = self._said = time.monotonic()
        self.count = self._module.ffi.new("struct count *")
        if self._keep:
            self._kept = self._module.ffi.new("uint8_t[]", self._keep)
            self.count.kept, self.count.kept_room = self._kept, self._keep
        self._thread = threading.Thread(
            target=self._module.lib.count_run, args=(self.count, self._socket.fileno()), daemon=True
        )
        self._thread.start()

    def _handshake(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._local else socket.AF_INET
        made = self._namespace.socket(family, socket.SOCK_STREAM)
        try:
            made.settimeout(5)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.bind((self._local, 0))
            made.connect((self._remote, 179))
            made.sendall(self._open)
            while (kind := _message(made)) != KEEPALIVE:
                if kind == OPEN:
                    made.sendall(message(KEEPALIVE, b""))
            made.settimeout(None)
        except BaseException:
            made.close()
            raise
        return made

    def send(self, data: bytes) -> float:
        """Send all of it; give the time of the first byte."""
        assert self._socket is not None
        start = time.monotonic()
        self._socket.sendall(data)
        self._said = time.monotonic()
        return start

    def stay(self) -> None:
        """Say that we are there, if that is due."""
        if time.monotonic() - self._said > KEEPALIVE_SECONDS:
            self.send(message(KEEPALIVE, b""))

    def expect(self, *, announced: int = 0, withdrawn: int = 0) -> None:
        """Take the time when so many more have been announced or withdrawn."""
        self.count.announce_ns = self.count.withdraw_ns = 0
        self.count.announce_target = self.count.announced + announced if announced else 0
        self.count.withdraw_target = self.count.withdrawn + withdrawn if withdrawn else 0

    @property
    def announced_at(self) -> float:
        """When the expected announcements were all there; 0: not yet."""
        self._alive()
        return float(self.count.announce_ns) / 1e9

    @property
    def withdrawn_at(self) -> float:
        """When the expected withdrawals were all there; 0: not yet."""
        self._alive()
        return float(self.count.withdraw_ns) / 1e9

    @property
    def heard(self) -> int:
        """How many bytes have come in."""
        self._alive()
        return int(self.count.bytes)

    def kept(self) -> bytes:
        """Give the UPDATEs that were kept."""
        return bytes(self._module.ffi.buffer(self.count.kept, self.count.kept_size))

    def _alive(self) -> None:
        if self.count.ended:
            code = int(self.count.notification)
            raise AssertionError(f"the session with {self._remote} ended: notification {code >> 8}/{code & 255}")

    def close(self) -> float:
        """End the connection at once, without a word; give the time."""
        start = time.monotonic()
        if self._socket is not None:
            self.count.stop = 1
            self._socket.shutdown(socket.SHUT_RDWR)
            start = time.monotonic()
            assert self._thread is not None
            self._thread.join()
            self._socket.close()
            self._socket = None
        return start


def _message(stream: socket.socket) -> int:
    """Read one message; give its type."""
    header = _exactly(stream, HEADER)
    assert header[:16] == MARKER
    body = _exactly(stream, int.from_bytes(header[16:18], "big") - HEADER)
    if header[18] == NOTIFICATION:
        raise OSError(f"notification {body[0]}/{body[1]}")
    return header[18]


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise OSError("closed")
        data += piece
    return data
