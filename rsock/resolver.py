"""Names in a virtual router: getaddrinfo and its relatives, asked of the VR's own name servers.

Queries go through sockets of the VR (UDP, each from a port of its own that the VR chooses at random, with a random
id; TCP where an answer does not fit), never through the kernel's resolver.  What is numeric, service names and the
shape of the results are the C library's, which asks nobody for those.  `localhost`, and this
host's own name, are the VR's loopback.

    getaddrinfo("www", 80, vr="red")  -> as socket.getaddrinfo
    RESOLV  next to the VR's socket, NAME.resolv.conf: nameserver, search, options ndots, timeout, attempts

A and AAAA are asked for at once.  Where both come, those that the VR has no route to stand last; else IPv6 stands
first (RFC 6724, the rules that matter between the families).
Not supported: DNSSEC, a cache, the kernel's hosts file, mDNS.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import ipaddress
import re
import secrets
import select
import socket as stdlib
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from rsock import dns
from rsock.base import KERNEL, choose
from rsock.client import Context, NameServers, default_context
from rsock.datagrams import DatagramSocket
from rsock.streams import StreamSocket

kernel_getaddrinfo: Final = _socket.getaddrinfo
_kernel_gethostbyname: Final = _socket.gethostbyname
_kernel_gethostbyname_ex: Final = _socket.gethostbyname_ex
_kernel_gethostbyaddr: Final = _socket.gethostbyaddr
_kernel_getnameinfo: Final = _socket.getnameinfo
_NUMERIC: Final = re.compile(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[0-9]+)?")
_PORT: Final = 53
_LENGTH: Final = struct.Struct(">H")
_CHAINS: Final = 8  # aliases that lead to another question
_LARGEST_DATAGRAM: Final = 65535
_LOCALHOST: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_LOOPBACKS: Final = {stdlib.AF_INET6: "::1", stdlib.AF_INET: "127.0.0.1"}
_KINDS: Final = {stdlib.AF_INET: dns.A, stdlib.AF_INET6: dns.AAAA}


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for."""

    canonical: str
    aliases: tuple[str, ...]
    addresses: tuple[str, ...]  # numeric


@dataclass(frozen=True, slots=True)
class _Place:
    """Where is asked: a VR, its servers, and until when."""

    vr: str
    ctx: Context
    servers: NameServers
    deadline: float


def getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0,  # noqa: A002
    *, vr: str | None = None, ctx: Context | None = None,
) -> list[tuple[Any, ...]]:  # fmt: skip
    """Resolve as socket.getaddrinfo does, in a VR.  Raises gaierror."""
    where = choose(vr)
    if where == KERNEL:
        return _shaped(kernel_getaddrinfo(_raw(host), port, family, type, proto, flags))
    if host is None:
        return _shaped(kernel_getaddrinfo(host, port, family, type, proto, flags))
    text = _text(host)
    with contextlib.suppress(stdlib.gaierror):
        return _shaped(_numeric(text, port, family, type, proto, flags))
    if flags & stdlib.AI_NUMERICHOST or family not in {stdlib.AF_UNSPEC, stdlib.AF_INET, stdlib.AF_INET6}:
        # It was numeric and wrong in another way; the C library says in which.
        return _shaped(kernel_getaddrinfo(text, port, family, type, proto, flags | stdlib.AI_NUMERICHOST))
    _check_service(port, type, proto, flags)
    found = _lookup(text, family, flags, where, ctx or default_context())
    infos: list[tuple[Any, ...]] = []
    for address in found.addresses:
        entries = _numeric(address, port, stdlib.AF_UNSPEC, type, proto, flags & ~stdlib.AI_CANONNAME)
        infos += _shaped(entries)
    if flags & stdlib.AI_CANONNAME and infos:
        infos[0] = (*infos[0][:3], found.canonical, infos[0][4])
    return infos


def _numeric(host: str, port: Any, family: int, kind: int, proto: int, flags: int) -> list[tuple[Any, ...]]:
    if "%" in host and not host.partition("%")[2].isdecimal():
        fail_name("a scope is the number of an interface of the router")
    return kernel_getaddrinfo(_raw(host), port, family, kind, proto, flags | stdlib.AI_NUMERICHOST)


def _raw(host: Any) -> Any:
    """Write an address as bytes: of a str Python makes a domain name first, which loads the tables of all scripts."""
    return host.encode() if isinstance(host, str) and _NUMERIC.fullmatch(host) else host


def _check_service(port: Any, kind: int, proto: int, flags: int) -> None:
    """Let the C library refuse a service or a type before anybody is asked."""
    kernel_getaddrinfo(b"127.0.0.1", port, stdlib.AF_UNSPEC, kind, proto, flags & ~stdlib.AI_CANONNAME)


def _shaped(infos: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(stdlib.AddressFamily(info[0]), stdlib.SocketKind(info[1]), *info[2:]) for info in infos]


def _text(host: Any) -> str:
    if isinstance(host, bytes | bytearray):
        return bytes(host).decode("ascii")
    if not isinstance(host, str):
        raise TypeError("getaddrinfo() argument 1 must be string or None")
    return host.encode("idna").decode("ascii") if not host.isascii() else host


def fail_name(text: str = "Name or service not known") -> NoReturn:
    """Raise that there is no such name."""
    raise stdlib.gaierror(stdlib.EAI_NONAME, text)


def _lookup(host: str, family: int, flags: int, vr: str, ctx: Context) -> Found:
    families: list[int] = [stdlib.AF_INET6, stdlib.AF_INET] if family == stdlib.AF_UNSPEC else [family]
    mapped = family == stdlib.AF_INET6 and flags & stdlib.AI_V4MAPPED
    if mapped:
        families = [stdlib.AF_INET6, stdlib.AF_INET]
    found = lookup(host, families, vr, ctx)
    addresses = list(found.addresses)
    if mapped:
        six = [address for address in addresses if ":" in address]
        four = [f"::ffff:{address}" for address in addresses if ":" not in address]
        addresses = six + four if flags & stdlib.AI_ALL else six or four
    elif len(families) > 1 and len({":" in address for address in addresses}) > 1:
        addresses = _by_reach(addresses, vr, ctx, configured_only=bool(flags & stdlib.AI_ADDRCONFIG))
    return Found(found.canonical, found.aliases, tuple(addresses))


def _by_reach(addresses: list[str], vr: str, ctx: Context, *, configured_only: bool) -> list[str]:
    """Put last, or leave out, those of a family where the VR has no way to any."""
    ways = {
        six: _has_way(next(address for address in addresses if (":" in address) is six), vr, ctx)
        for six in (True, False)
    }
    if configured_only and any(ways.values()):
        addresses = [address for address in addresses if ways[":" in address]]
    return sorted(addresses, key=lambda address: not ways[":" in address])


def _has_way(address: str, vr: str, ctx: Context) -> bool:
    family = stdlib.AF_INET6 if ":" in address else stdlib.AF_INET
    try:
        with DatagramSocket(family, stdlib.SOCK_DGRAM, vr=vr, ctx=ctx) as probe:
            probe.connect((address, _PORT))
    except OSError:
        return False
    return True


# --- the name, the list of domains to search, the servers ---


def lookup(host: str, families: list[int], vr: str, ctx: Context) -> Found:
    """Give the addresses of a name, those of the first family first.  Raises gaierror."""
    plain = host.removesuffix(".").lower()
    if plain in _LOCALHOST or plain.endswith(".localhost"):  # RFC 6761 section 6.3
        return Found("localhost", (), tuple(_LOOPBACKS[stdlib.AddressFamily(family)] for family in families))
    if plain == stdlib.gethostname().lower():
        return Found(plain, (), tuple(_LOOPBACKS[stdlib.AddressFamily(family)] for family in families))
    if not plain or "\0" in plain or any(character.isspace() for character in plain):
        fail_name()
    servers = ctx.name_servers(vr)
    if not servers.addresses:
        raise stdlib.gaierror(stdlib.EAI_AGAIN, f"the virtual router {vr} has no name servers")
    place = _Place(vr, ctx, servers, time.monotonic() + servers.timeout * servers.attempts * len(servers.addresses))
    problem: stdlib.gaierror | None = None
    for name in _candidates(host, servers):
        try:
            found = _resolve(name, families, place)
        except stdlib.gaierror as error:
            # What one server could not say now matters more than what does not exist elsewhere.
            if problem is None or error.errno == stdlib.EAI_AGAIN:
                problem = error
            continue
        return found
    raise problem or stdlib.gaierror(stdlib.EAI_NONAME, "Name or service not known")


def _candidates(host: str, servers: NameServers) -> Iterator[str]:
    """Give the names to try, as resolv.conf(5) orders them."""
    if host.endswith("."):
        yield host
        return
    first = host.count(".") >= servers.ndots
    if first:
        yield host
    for domain in servers.search:
        yield f"{host}.{domain}"
    if not first:
        yield host


def _resolve(name: str, families: list[int], place: _Place) -> Found:
    answers: dict[int, dns.Answer] = {}
    aliases: list[bytes] = []
    target = name.encode()
    for _hop in range(_CHAINS):
        answers = _ask(target, [_KINDS[stdlib.AddressFamily(family)] for family in families], place)
        aliases += [alias for answer in answers.values() for alias in answer.aliases if alias not in aliases]
        values = tuple(value for answer in answers.values() for value in answer.values)
        ends = {answer.canonical for answer in answers.values() if answer.canonical}
        if values:
            end = next(answer.canonical for answer in answers.values() if answer.values)
            return Found(_shown(end), tuple(map(_shown, aliases)), values)
        # The server gave an alias and not what it leads to: ask on.
        onward = [end for end in ends if end != target.lower().removesuffix(b".")]
        if not onward or any(answer.rcode == dns.NXDOMAIN for answer in answers.values()):
            break
        target = onward[0]
    if any(answer.rcode == dns.NXDOMAIN for answer in answers.values()):
        fail_name()
    raise stdlib.gaierror(stdlib.EAI_NODATA, "No address associated with hostname")


def _shown(name: bytes) -> str:
    return name.decode("ascii", "replace")


def _ask(name: bytes, kinds: list[int], place: _Place) -> dict[int, dns.Answer]:
    """Ask all kinds, server after server.  Raises gaierror where none answers."""
    try:
        dns.encode_name(name)
    except dns.DnsError as error:
        fail_name(str(error))
    answers: dict[int, dns.Answer] = {}
    for attempt in range(place.servers.attempts):
        for server in place.servers.addresses:
            until = min(time.monotonic() + place.servers.timeout, place.deadline)
            missing = [kind for kind in kinds if kind not in answers]
            with contextlib.suppress(OSError):
                answers |= _ask_server(server, name, missing, place, until, extended=attempt == 0)
            if len(answers) == len(kinds):
                return {kind: answers[kind] for kind in kinds}
    if answers and any(answer.values for answer in answers.values()):
        return answers
    raise stdlib.gaierror(stdlib.EAI_AGAIN, "Temporary failure in name resolution")


def _ask_server(
    server: str, name: bytes, kinds: list[int], place: _Place, until: float, *, extended: bool
) -> dict[int, dns.Answer]:  # fmt: skip
    """Ask one server by UDP, each kind through a socket of its own; what it does not answer is left out."""
    answers: dict[int, dns.Answer] = {}
    with contextlib.ExitStack() as sockets:
        waiting: dict[int, tuple[DatagramSocket, int, int]] = {}
        poll = select.poll()
        for kind in kinds:
            sock = sockets.enter_context(DatagramSocket(_family(server), vr=place.vr, ctx=place.ctx))
            sock.setblocking(False)
            sock.connect((server, _PORT))
            number = secrets.randbits(16)
            sock.send(dns.query(number, name, kind, extended=extended))
            waiting[sock.fileno()] = (sock, number, kind)
            poll.register(sock.fileno(), select.POLLIN)
        while waiting and (left := until - time.monotonic()) > 0:
            for fd, _event in poll.poll(left * 1000):
                sock, number, kind = waiting[fd]
                try:
                    answer = dns.parse_answer(sock.recv(_LARGEST_DATAGRAM), number, name, kind)
                except (dns.DnsError, BlockingIOError):
                    continue  # not from whom we asked, or not what: the right one may still come
                except OSError:
                    answer = dns.Answer(dns.SERVFAIL)
                poll.unregister(fd)
                del waiting[fd]
                if answer.truncated:
                    answer = _ask_by_stream(server, name, kind, place, until)
                if answer.rcode in {dns.NOERROR, dns.NXDOMAIN}:
                    answers[kind] = answer
    return answers


def _ask_by_stream(server: str, name: bytes, kind: int, place: _Place, until: float) -> dns.Answer:
    """Ask by TCP: RFC 1035 section 4.2.2, RFC 7766."""
    number = secrets.randbits(16)
    question = dns.query(number, name, kind)
    with StreamSocket(_family(server), vr=place.vr, ctx=place.ctx) as sock:
        sock.settimeout(max(until - time.monotonic(), 0.001))
        sock.connect((server, _PORT))
        sock.sendall(_LENGTH.pack(len(question)) + question)
        (length,) = _LENGTH.unpack(_read_exactly(sock, _LENGTH.size, until))
        try:
            return dns.parse_answer(_read_exactly(sock, length, until), number, name, kind)
        except dns.DnsError:
            return dns.Answer(dns.SERVFAIL)


def _read_exactly(sock: StreamSocket, count: int, until: float) -> bytes:
    data = b""
    while len(data) < count:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the name server did not answer in time")
        sock.settimeout(left)
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "the name server has ended the connection")
        data += part
    return data


def _family(server: str) -> int:
    return stdlib.AF_INET6 if ":" in server else stdlib.AF_INET


# --- the relatives of getaddrinfo ---


def first_address(host: str, family: int, kind: int, vr: str, ctx: Context) -> str:
    """Give the address that bind, connect and sendto take for a name."""
    infos = getaddrinfo(host, None, family, kind, vr=vr, ctx=ctx)
    return str(infos[0][4][0])


def gethostbyname(hostname: Any, *, vr: str | None = None, ctx: Context | None = None) -> str:
    """Give an IPv4 address of a name."""
    if choose(vr) == KERNEL:
        return _kernel_gethostbyname(hostname)
    return str(_four(hostname, vr, ctx)[0])


def gethostbyname_ex(
    hostname: Any, *, vr: str | None = None, ctx: Context | None = None
) -> tuple[str, list[str], list[str]]:  # fmt: skip
    """Give the name, its aliases and its IPv4 addresses."""
    where = choose(vr)
    if where == KERNEL:
        return _kernel_gethostbyname_ex(hostname)
    text = _text(hostname)
    if _is_numeric(text):
        return text, [], _four(text, vr, ctx)
    found = lookup(text, [stdlib.AF_INET], where, ctx or default_context())
    return found.canonical, list(found.aliases), list(found.addresses)


def _four(hostname: Any, vr: str | None, ctx: Context | None) -> list[str]:
    text = _text(hostname)
    if text == "":
        return ["0.0.0.0"]
    if text == "<broadcast>":
        return ["255.255.255.255"]
    infos = getaddrinfo(text, None, stdlib.AF_INET, stdlib.SOCK_DGRAM, vr=vr, ctx=ctx)
    return [str(info[4][0]) for info in infos]


def gethostbyaddr(
    ip_address: Any, *, vr: str | None = None, ctx: Context | None = None
) -> tuple[str, list[str], list[str]]:  # fmt: skip
    """Give the name of an address or of a name, its aliases and its addresses."""
    where = choose(vr)
    if where == KERNEL:
        return _kernel_gethostbyaddr(ip_address)
    text = _text(ip_address)
    address = text if _is_numeric(text) else first_address(text, 0, 0, where, ctx or default_context())
    try:
        name, aliases = _names_of(address, where, ctx or default_context())
    except stdlib.gaierror:
        raise stdlib.herror(1, "Unknown host") from None
    return name, aliases, [address]


def _is_numeric(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _names_of(address: str, vr: str, ctx: Context) -> tuple[str, list[str]]:
    plain = address.partition("%")[0]
    if ipaddress.ip_address(plain).is_loopback:
        return "localhost", []
    servers = ctx.name_servers(vr)
    place = _Place(vr, ctx, servers, time.monotonic() + servers.timeout * servers.attempts * len(servers.addresses))
    answer = _ask(dns.reverse_name(plain), [dns.PTR], place)[dns.PTR]
    if not answer.values:
        fail_name()
    return answer.values[0], list(answer.values[1:])


def getnameinfo(
    sockaddr: tuple[Any, ...], flags: int, *, vr: str | None = None, ctx: Context | None = None
) -> tuple[str, str]:  # fmt: skip
    """Give the names of a host and of a service."""
    where = choose(vr)
    if where == KERNEL:
        return _kernel_getnameinfo(sockaddr, flags)
    # With the numeric flag the C library asks nobody, and checks what we were given.
    host, service = _kernel_getnameinfo(sockaddr, (flags & ~stdlib.NI_NAMEREQD) | stdlib.NI_NUMERICHOST)
    if not flags & stdlib.NI_NUMERICHOST:
        try:
            host = _names_of(host, where, ctx or default_context())[0]
        except stdlib.gaierror:
            if flags & stdlib.NI_NAMEREQD:
                raise
    return host, service
