#!/usr/bin/env python3
"""A Prometheus blackbox prober that sees through any virtual router: `target=red/10.0.0.1:22`.

    Prometheus --GET /probe?module=ssh&target=red/10.0.0.1:22--> prober --(VR red)--> 10.0.0.1:22

One unprivileged process probes in all routers where it has rights, and in the kernel (`target=kernel/...`), with the
modules of a TOML file: tcp, http, icmp and dns.  The answers carry the metrics' names of the blackbox exporter, so
that dashboards and alerts for it work.

Not supported: probes by gRPC, redirects that lead to another host.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import http.client
import ipaddress
import os
import re
import secrets
import socket
import ssl
import struct
import sys
import time
import tomllib
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import rsock

DEFAULT_TIMEOUT: Final = 5.0
SCRAPE_MARGIN: Final = 0.5  # seconds before Prometheus gives up
MAX_BODY: Final = 1 << 20
ECHO_REQUEST, ECHO_REPLY, ECHO_REQUEST_6, ECHO_REPLY_6 = 8, 0, 128, 129
QUERY_TYPES: Final = {"A": 1, "NS": 2, "SOA": 6, "MX": 15, "TXT": 16, "AAAA": 28}


class BadRequestError(Exception):
    """A request that makes no sense; its text is for who asked."""


class FailedError(Exception):
    """A probe that did not find what it should; its text goes to the log."""


@dataclasses.dataclass(frozen=True)
class Module:
    """What to do with a target, as the file says."""

    prober: str
    timeout: float = DEFAULT_TIMEOUT
    # tcp
    tls: bool = False
    send: str = ""
    expect: str = ""  # a regular expression
    # http
    method: str = "GET"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    valid_status_codes: tuple[int, ...] = ()  # none: 200 to 299
    fail_if_body_matches: str = ""
    fail_if_body_not_matches: str = ""
    # tls and https
    insecure_skip_verify: bool = False
    server_name: str = ""
    # icmp
    payload_size: int = 56
    # dns
    query_name: str = "."
    query_type: str = "SOA"


STANDARD: Final = {
    "tcp_connect": Module("tcp"),
    "ssh_banner": Module("tcp", expect="^SSH-2.0-"),
    "http_2xx": Module("http"),
    "icmp": Module("icmp"),
    "dns_root": Module("dns"),
}


def read_modules(path: Path) -> dict[str, Module]:
    """Read the file.  Raises ValueError with the place."""
    with path.open("rb") as file:
        tables = tomllib.load(file).get("modules", {})
    known = {field.name for field in dataclasses.fields(Module)}
    modules = dict(STANDARD)
    for name, table in tables.items():
        if wrong := table.keys() - known:
            raise ValueError(f"{path}: modules.{name}: unknown key {min(wrong)!r}")
        if table.get("prober") not in PROBERS:
            raise ValueError(f"{path}: modules.{name}: prober must be one of {', '.join(PROBERS)}")
        if "valid_status_codes" in table:
            table["valid_status_codes"] = tuple(table["valid_status_codes"])
        modules[name] = Module(**table)
    return modules


@dataclasses.dataclass(frozen=True)
class Target:
    """Where to probe: `red/10.0.0.1:22`, `red/[2001:db8::1]:22`, `red/http://10.0.0.1/index.html`, `blue/host`."""

    vr: str
    rest: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read a target.  Raises BadRequestError."""
        vr, slash, rest = text.partition("/")
        if not slash or not vr or not rest or ":" in vr:
            raise BadRequestError(f"target {text!r} is not ROUTER/ADDRESS, as in red/10.0.0.1:22 or kernel/10.0.0.1:22")
        return cls(vr, rest)

    def host_and_port(self, default: int | None = None) -> tuple[str, int]:
        """Read HOST:PORT.  Raises BadRequestError."""
        try:
            parts = urllib.parse.urlsplit(f"//{self.rest}")
            host, port = parts.hostname, parts.port or default
        except ValueError as error:
            raise BadRequestError(f"target {self.rest!r}: {error}") from None
        if not host or port is None:
            raise BadRequestError(f"target {self.rest!r} has no port")
        return host, port


class Probe:
    """One probe: a deadline, and the figures that it gathers."""

    def __init__(self, module: Module, target: Target, timeout: float) -> None:
        self.module = module
        self.target = target
        self.deadline = time.monotonic() + timeout
        self.figures: list[tuple[str, dict[str, str], float]] = []

    def left(self) -> float:
        """Give the seconds that are left.  Raises TimeoutError."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return left

    def tell(self, name: str, value: float, **labels: str) -> None:
        """Add a figure."""
        self.figures.append((name, labels, value))

    @contextlib.contextmanager
    def phase(self, metric: str, phase: str) -> Iterator[None]:
        """Measure how long something takes."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.tell(metric, time.monotonic() - begin, phase=phase)

    def resolve(self, host: str, port: int, kind: int) -> tuple[int, tuple[Any, ...]]:
        """Find a host's address, in the router where it is."""
        begin = time.monotonic()
        family, _kind, _proto, _name, where = rsock.getaddrinfo(host, port, 0, kind, vr=self.target.vr)[0]
        self.tell("probe_dns_lookup_time_seconds", time.monotonic() - begin)
        self.tell("probe_ip_protocol", 4 if family == socket.AF_INET else 6)
        return family, where

    def open(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """Make a socket in the router."""
        made = rsock.socket(family, kind, proto, vr=self.target.vr)
        made.settimeout(self.left())
        return made

    def tls(self, plain: socket.socket, host: str) -> ssl.SSLSocket:
        """Speak TLS on a connection, and tell when the certificate ends."""
        context = ssl.create_default_context()
        if self.module.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        made = context.wrap_socket(plain, server_hostname=self.module.server_name or host)
        certificate = made.getpeercert() or {}
        if ends := certificate.get("notAfter"):
            self.tell("probe_ssl_earliest_cert_expiry", ssl.cert_time_to_seconds(str(ends)))
        self.tell("probe_tls_version_info", 1, version=made.version() or "")
        return made


def probe_tcp(probe: Probe) -> None:
    """Connect; if asked, say something and see whether the answer is the expected one."""
    host, port = probe.target.host_and_port()
    family, where = probe.resolve(host, port, socket.SOCK_STREAM)
    with contextlib.ExitStack() as stack:
        sock: socket.socket = stack.enter_context(probe.open(family, socket.SOCK_STREAM))
        sock.connect(where)
        if probe.module.tls:
            sock = stack.enter_context(probe.tls(sock, host))
        if probe.module.send:
            sock.sendall(probe.module.send.encode())
        if probe.module.expect:
            _expect(probe, sock, re.compile(probe.module.expect.encode(), re.MULTILINE))


def _expect(probe: Probe, sock: socket.socket, wanted: re.Pattern[bytes]) -> None:
    seen = b""
    while not wanted.search(seen):
        sock.settimeout(probe.left())
        data = sock.recv(4096)
        if not data or len(seen) > MAX_BODY:
            probe.tell("probe_failed_due_to_regex", 1)
            raise FailedError(f"the answer {seen[:100]!r} does not match")
        seen += data
    probe.tell("probe_failed_due_to_regex", 0)


def probe_http(probe: Probe) -> None:
    """Fetch a page and look at its status, and if asked at its text."""
    text = probe.target.rest if "://" in probe.target.rest else f"http://{probe.target.rest}"
    url = urllib.parse.urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise BadRequestError(f"target {text!r} is no http URL")
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    family, where = probe.resolve(url.hostname, port, socket.SOCK_STREAM)
    with contextlib.ExitStack() as stack:
        sock: socket.socket = stack.enter_context(probe.open(family, socket.SOCK_STREAM))
        with probe.phase("probe_http_duration_seconds", "connect"):
            sock.connect(where)
        if secure:
            with probe.phase("probe_http_duration_seconds", "tls"):
                sock = stack.enter_context(probe.tls(sock, url.hostname))
        probe.tell("probe_http_ssl", float(secure))
        connection = http.client.HTTPConnection(url.hostname, port)
        connection.sock = sock
        path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        with probe.phase("probe_http_duration_seconds", "processing"):
            connection.request(probe.module.method, path, headers={"User-Agent": "Blackbox", **probe.module.headers})
            answer = connection.getresponse()
        with probe.phase("probe_http_duration_seconds", "transfer"):
            body = _body(probe, sock, answer)
    _judge(probe, answer, body)


def _body(probe: Probe, sock: socket.socket, answer: http.client.HTTPResponse) -> bytes:
    body = b""
    while len(body) < MAX_BODY:
        sock.settimeout(probe.left())
        piece = answer.read1(65536)
        if not piece:
            break
        body += piece
    return body


def _judge(probe: Probe, answer: http.client.HTTPResponse, body: bytes) -> None:
    probe.tell("probe_http_status_code", answer.status)
    probe.tell("probe_http_version", answer.version / 10)
    probe.tell("probe_http_content_length", float(answer.headers.get("Content-Length", -1)))
    probe.tell("probe_http_uncompressed_body_length", len(body))
    good = probe.module.valid_status_codes or range(200, 300)
    if answer.status not in good:
        raise FailedError(f"status {answer.status}")
    unwanted, wanted = probe.module.fail_if_body_matches, probe.module.fail_if_body_not_matches
    failed = bool(unwanted and re.search(unwanted.encode(), body)) or bool(
        wanted and not re.search(wanted.encode(), body)
    )
    probe.tell("probe_failed_due_to_regex", float(failed))
    if failed:
        raise FailedError("the page's text")


def probe_icmp(probe: Probe) -> None:
    """Send an echo request (RFC 792, RFC 4443) and wait for its reply."""
    with probe.phase("probe_icmp_duration_seconds", "resolve"):
        family, where = probe.resolve(probe.target.rest.strip("[]"), 0, socket.SOCK_DGRAM)
    four = family == socket.AF_INET
    proto = socket.IPPROTO_ICMP if four else socket.IPPROTO_ICMPV6
    with probe.phase("probe_icmp_duration_seconds", "setup"):
        sock = probe.open(family, socket.SOCK_DGRAM, proto)
    payload = secrets.token_bytes(probe.module.payload_size)
    # The stack fills in identifier and checksum.
    request = struct.pack("!BBHHH", ECHO_REQUEST if four else ECHO_REQUEST_6, 0, 0, 0, 1) + payload
    with sock, probe.phase("probe_icmp_duration_seconds", "rtt"):
        sock.sendto(request, where)
        while True:
            sock.settimeout(probe.left())
            reply = sock.recv(65536)
            if reply[:1] == bytes([ECHO_REPLY if four else ECHO_REPLY_6]) and reply[8:] == payload:
                return


def probe_dns(probe: Probe) -> None:
    """Ask a name server (RFC 1035)."""
    host, port = probe.target.host_and_port(53)
    kind = QUERY_TYPES.get(probe.module.query_type)
    if kind is None:
        raise BadRequestError(f"query_type {probe.module.query_type!r} is none of {', '.join(QUERY_TYPES)}")
    labels = [label.encode("idna") for label in probe.module.query_name.strip(".").split(".") if label]
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    number = secrets.token_bytes(2)
    query = number + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 1)
    family, where = probe.resolve(host, port, socket.SOCK_DGRAM)
    with probe.open(family, socket.SOCK_DGRAM) as sock, probe.phase("probe_dns_duration_seconds", "request"):
        sock.connect(where)
        sock.send(query)
        while True:
            sock.settimeout(probe.left())
            answer = sock.recv(65536)
            if len(answer) >= 12 and answer[:2] == number and answer[12:].startswith(name):
                break
    flags, _questions, answers, authorities, additional = struct.unpack_from("!HHHHH", answer, 2)
    probe.tell("probe_dns_answer_rrs", answers)
    probe.tell("probe_dns_authority_rrs", authorities)
    probe.tell("probe_dns_additional_rrs", additional)
    if flags & 0xF:
        raise FailedError(f"rcode {flags & 0xF}")


PROBERS: Final[dict[str, Callable[[Probe], None]]] = {
    "tcp": probe_tcp, "http": probe_http, "icmp": probe_icmp, "dns": probe_dns,
}  # fmt: skip


def run(probe: Probe) -> tuple[bool, str]:
    """Carry a probe out; tell whether it succeeded, and if not, why."""
    begin = time.monotonic()
    reason = ""
    try:
        PROBERS[probe.module.prober](probe)
    except (OSError, FailedError, http.client.HTTPException, ssl.CertificateError) as error:
        reason = str(error) or type(error).__name__
    probe.tell("probe_success", float(not reason))
    probe.tell("probe_duration_seconds", time.monotonic() - begin)
    return not reason, reason


def render(figures: list[tuple[str, dict[str, str], float]]) -> bytes:
    """Write figures in Prometheus' text format."""
    lines = []
    for metric in dict.fromkeys(name for name, _labels, _value in figures):
        lines.append(f"# TYPE {metric} gauge")
        for name, labels, value in figures:
            if name == metric:
                text = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
                lines.append(f"{name}{{{text}}} {value:.9g}" if text else f"{name} {value:.9g}")
    return ("\n".join(lines) + "\n").encode()


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Handler(BaseHTTPRequestHandler):
    """Answers Prometheus."""

    server: Server
    timeout = 30
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        match url.path:
            case "/probe":
                self._probe(query)
            case "/-/healthy":
                self._answer(200, b"Healthy\n")
            case "/":
                text = "try /probe?module=tcp_connect&target=red/10.0.0.1:22\nmodules: "
                self._answer(200, (text + " ".join(self.server.modules) + "\n").encode())
            case _:
                self._answer(404, b"not found\n")

    def _probe(self, query: dict[str, str]) -> None:
        try:
            module = self.server.modules.get(query.get("module", "http_2xx"))
            if module is None:
                raise BadRequestError(f"there is no module {query.get('module')!r}")
            probe = Probe(module, Target.parse(query.get("target", "")), self._patience(module))
            good, reason = run(probe)
        except BadRequestError as error:
            self._answer(400, f"{error}\n".encode())
            return
        if not good:
            self.log_message("%s %s: %s", query.get("module", "http_2xx"), query["target"], reason)
        self._answer(200, render(probe.figures))

    def _patience(self, module: Module) -> float:
        told = self.headers.get("X-Prometheus-Scrape-Timeout-Seconds", "")
        try:
            return max(0.1, min(module.timeout, float(told) - SCRAPE_MARGIN))
        except ValueError:
            return module.timeout

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """The server of the prober itself, in the kernel or in a router."""

    daemon_threads = True

    def __init__(self, vr: str, address: tuple[str, int], modules: dict[str, Module]) -> None:
        self.modules = modules
        super().__init__(address, Handler, bind_and_activate=False)
        self.socket.close()
        family = socket.AF_INET6 if ipaddress.ip_address(address[0]).version == 6 else socket.AF_INET
        self.socket = rsock.create_server(address, family=family, vr=vr)
        self.server_address = self.socket.getsockname()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--listen", default="kernel/127.0.0.1:9115", help="ROUTER/ADDRESS:PORT (%(default)s)")
    parser.add_argument("--modules", type=Path, help="TOML file with modules beside the standard ones")
    arguments = parser.parse_args()
    try:
        modules = read_modules(arguments.modules) if arguments.modules else STANDARD
        place = Target.parse(arguments.listen)
        server = Server(place.vr, place.host_and_port(), modules)
    except (BadRequestError, OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    host, port = server.socket.getsockname()[:2]
    print(f"probes at http://{host}:{port}/probe?module=MODULE&target=ROUTER/ADDRESS", flush=True)
    with contextlib.suppress(KeyboardInterrupt), server:
        server.serve_forever()


if __name__ == "__main__":
    main()
