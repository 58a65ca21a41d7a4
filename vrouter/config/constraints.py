"""Constraints on configuration values, as markers for `typing.Annotated`.

Each marker reads the text of one YAML scalar and gives the typed value in its canonical form, or
raises `InvalidError` with words for the operator; and it describes itself as JSON Schema.  The text is
what stands in the file: YAML's own idea of types (10:20:30:40:50:10 as a base-60 number, `no` as
False, 010 as 8) never touches it.  Addresses have a module of their own, address.py.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final, Protocol

# What fastpath/include/abi/limits.h has room for; a unit test compares.
MAX_NAME: Final = 31
_GLOB: Final = re.compile(r"[a-z0-9*?][a-z0-9*?-]*")
MAX_ROUTER_INTERFACES: Final = 255
MAX_ROUTER_ADDRESSES: Final = 4096
MAX_ROUTER_PORTS: Final = 127
MAX_HOPS: Final = 64
MAX_RULES: Final = 1023  # the forwarder's MAX_RULES, but for the relay's
MAX_RULE_PORTS: Final = 16
MAX_RULE_PREFIXES: Final = 16

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
# Units of time in microseconds, from the smallest.
_UNITS: Final = {"us": 1, "ms": 1000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_DURATION: Final = re.compile(r"([0-9]{1,9})(\.[0-9]{1,6})?(us|ms|s|m|h|d)")
_DEVICE_SIZE: Final = 15  # IFNAMSIZ without the NUL
_PATH_SIZE: Final = 4096  # PATH_MAX
MAX_DOMAIN: Final = 253
MAX_NAME_SERVERS: Final = 3  # as resolv.conf(5)
MAX_SEARCH: Final = 6
_LABEL: Final = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_DOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_Z85: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


class InvalidError(ValueError):
    """A value that a constraint refuses; `help` says how to put it right."""

    def __init__(self, message: str, help_text: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.help = help_text


class Constraint(Protocol):
    """What every marker offers."""

    def parse(self, text: str) -> Any:
        """Give the typed value.  Raises InvalidError."""

    def json_schema(self) -> dict[str, Any]:
        """Describe the text as JSON Schema."""


@dataclass(frozen=True)
class Boolean:
    """`true` or `false`, no other spelling."""

    def parse(self, text: str) -> bool:
        """Give the truth value."""
        if text in {"true", "false"}:
            return text == "true"
        meant = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}
        word = meant.get(text.lower(), text.lower())
        hint = f"write '{word}'" if word in {"true", "false"} else ""
        raise InvalidError(f"'{clip(text)}' is neither true nor false", hint)

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Integer:
    """A decimal number within bounds."""

    low: int
    high: int

    def parse(self, text: str) -> int:
        """Give the number."""
        if not _INTEGER.fullmatch(text):
            raise InvalidError(
                f"'{clip(text)}' is not a number", f"write a decimal number from {self.low} to {self.high}"
            )
        value = int(text)
        if not self.low <= value <= self.high:
            bounds = (
                f"within {self.low} to {self.high}" if self.low < self.high else f"{self.low}, the only one allowed"
            )
            raise InvalidError(f"{value} is not {bounds}")
        return value

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Span:
    """One number or a range of them, "179" or "1024-65535", as (first, last)."""

    low: int
    high: int

    def parse(self, text: str) -> tuple[int, int]:
        """Give the first and the last number."""
        first, dash, last = text.partition("-")
        number = Integer(self.low, self.high)
        span = (number.parse(first.strip()), number.parse((last if dash else first).strip()))
        if span[0] > span[1]:
            raise InvalidError(f"the range {text} ends before it begins", f"write {span[1]}-{span[0]}")
        return span

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        number = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [number, {"type": "string", "pattern": "^[0-9]+( *- *[0-9]+)?$"}]}


@dataclass(frozen=True)
class Duration:
    """A time with its unit, "300ms", "2s", "1h", as seconds; bounds and step are written in the same way."""

    low: str
    high: str
    step: str = "1us"

    def parse(self, text: str) -> float:
        """Give the seconds, whole microseconds of them."""
        time = _microseconds(text)
        if time is None:
            hint = f"write {clip(text)}s or {clip(text)}ms" if re.fullmatch(r"[0-9.]{1,12}", text) else "as 300ms or 2s"
            raise InvalidError(f"'{clip(text)}' is not a time with its unit", hint)
        low, high, step = (_microseconds(bound) for bound in (self.low, self.high, self.step))
        assert low is not None
        assert high is not None
        assert step is not None
        if not low <= time <= high:
            raise InvalidError(f"{text} is not within {self.low} to {self.high}")
        if time % step:
            raise InvalidError(f"{text} is not a multiple of {self.step}")
        return time / 1e6

    @staticmethod
    def text(seconds: float) -> str:
        """Write seconds with the largest unit that makes a whole number."""
        time = round(seconds * 1e6)
        unit = next(unit for unit in reversed(_UNITS) if not time % _UNITS[unit]) if time else "s"
        return f"{time // _UNITS[unit]}{unit}"

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": f"^{_DURATION.pattern}$"}


@dataclass(frozen=True)
class Name:
    """The name of a router or an interface."""

    what: str = "name"

    def parse(self, text: str) -> str:
        """Give the name."""
        if len(text) > MAX_NAME:
            raise InvalidError(
                f"the {self.what} '{clip(text)}' has {len(text)} characters", f"at most {MAX_NAME} are allowed"
            )
        if not _NAME.fullmatch(text):
            likely = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
            hint = "a to z, 0 to 9 and '-' are allowed, '-' not first"
            raise InvalidError(f"'{clip(text)}' is no {self.what}", hint + (f"; write '{likely}'" if likely else ""))
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": f"^{_NAME.pattern}$", "maxLength": MAX_NAME}


@dataclass(frozen=True)
class Glob:
    """Names of routers, with `*` and `?` as the shell has them."""

    def parse(self, text: str) -> str:
        """Give the pattern."""
        if len(text) > MAX_NAME or not _GLOB.fullmatch(text):
            raise InvalidError(f"'{clip(text)}' matches no router name", "a to z, 0 to 9, '-', '*' and '?' are allowed")
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": f"^{_GLOB.pattern}$", "maxLength": MAX_NAME}


@dataclass(frozen=True)
class Device:
    """The name of a network device of the kernel."""

    def parse(self, text: str) -> str:
        """Give the name, if the kernel's dev_valid_name() would take it."""
        if len(text.encode()) > _DEVICE_SIZE:
            raise InvalidError(f"the device name '{clip(text)}' is too long", f"the kernel allows {_DEVICE_SIZE} bytes")
        if not text.isprintable() or text in {"", ".", ".."} or set(text) & set("/: \t%"):
            raise InvalidError(
                f"'{clip(text)}' is no device name", "as `ip link` prints it, without '/', ':', '%' and blanks"
            )
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[^/:% ]+$", "maxLength": _DEVICE_SIZE}


@dataclass(frozen=True)
class File:
    """The absolute path of a file, with nothing in it that leads back or aside."""

    def parse(self, text: str) -> str:
        """Give the path."""
        parts = text.split("/")
        if not text.startswith("/") or len(text.encode()) >= _PATH_SIZE or not text.isprintable():
            raise InvalidError(f"'{clip(text)}' is no absolute path", "it begins with '/'")
        if len(parts) < 2 or any(part in {"", ".", ".."} for part in parts[1:]):
            raise InvalidError(f"'{clip(text)}' does not name a file plainly", "without '//', '/./' and '/../'")
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^/", "maxLength": _PATH_SIZE - 1}


@dataclass(frozen=True)
class Namespace:
    """The name of a network namespace, as `ip netns` knows it."""

    def parse(self, text: str) -> str:
        """Give the name."""
        if not text.isprintable() or text in {"", ".", ".."} or "/" in text or len(text.encode()) > 255:
            raise InvalidError(f"'{clip(text)}' is no namespace name", "as `ip netns` prints it")
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[^/]+$", "maxLength": 255}


@dataclass(frozen=True)
class Domain:
    """A domain name of RFC 1035, as hosts have them."""

    def parse(self, text: str) -> str:
        """Give it in lower case, without a dot at its end."""
        name = text.lower().removesuffix(".")
        if len(name) > MAX_DOMAIN or not _DOMAIN.fullmatch(name):
            hint = "labels of a to z, 0 to 9 and '-', with dots between"
            raise InvalidError(f"'{clip(text)}' is no domain name", hint)
        return name

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^[A-Za-z0-9.-]+$", "maxLength": MAX_DOMAIN + 1}


@dataclass(frozen=True)
class Patch:
    """The other end of a patch link, "ROUTER/INTERFACE"."""

    def parse(self, text: str) -> str:
        """Give the text."""
        router, slash, interface = text.partition("/")
        if not slash or not _NAME.fullmatch(router) or not _NAME.fullmatch(interface) or len(text) > 2 * MAX_NAME + 1:
            raise InvalidError(
                f"'{clip(text)}' names no interface of a router", "write ROUTER/INTERFACE, as blue/to-red"
            )
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": f"^{_NAME.pattern}/{_NAME.pattern}$"}


@dataclass(frozen=True)
class App:
    """Who an app is: "uid:NAME-OR-NUMBER", "gid:..." or "curve:KEY" (Z85, 40 characters)."""

    def parse(self, text: str) -> str:
        """Give the text; names are looked up later, on the machine that applies the file."""
        kind, colon, who = text.partition(":")
        if not colon or kind not in {"uid", "gid", "curve"} or not who:
            raise InvalidError(f"'{clip(text)}' names no app", "write uid:NAME, gid:NAME or curve:KEY")
        if kind == "curve":
            if not _Z85.fullmatch(who):
                raise InvalidError("this is no CURVE public key", "a key is 40 characters of Z85")
        elif who.isdecimal():
            Integer(0, 2**32 - 2).parse(who)
        elif not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}\$?", who):
            raise InvalidError(f"'{clip(who)}' is no name of a {'user' if kind == 'uid' else 'group'}")
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^(uid|gid|curve):.+$"}


@dataclass(frozen=True)
class Secret:
    """A key or password that two ends share: any text of at most `limit` bytes."""

    limit: int

    def parse(self, text: str) -> str:
        """Give the text; a refused one is not repeated."""
        if not 1 <= len(text.encode()) <= self.limit:
            raise InvalidError(f"the key has {len(text.encode())} bytes", f"1 to {self.limit} are allowed")
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "minLength": 1, "maxLength": self.limit}


@dataclass(frozen=True)
class Text:
    """Words for people, of at most `limit` bytes, on one line."""

    limit: int

    def parse(self, text: str) -> str:
        """Give the text."""
        if len(text.encode()) > self.limit:
            raise InvalidError(f"the text has {len(text.encode())} bytes", f"at most {self.limit} are allowed")
        if not text.isprintable():
            raise InvalidError(f"'{clip(text)}' holds what cannot be printed", "write one line of plain text")
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "maxLength": self.limit}


@dataclass(frozen=True)
class CurveKey:
    """A CURVE key (Z85, 40 characters)."""

    def parse(self, text: str) -> str:
        """Give the text; a refused one is not repeated, since it may be a secret."""
        if not _Z85.fullmatch(text):
            raise InvalidError("this is no CURVE key", "a key is 40 characters of Z85")
        return text

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "minLength": 40, "maxLength": 40}


@dataclass(frozen=True)
class TcpEndpoint:
    """Where to listen, "tcp://ADDRESS:PORT"; the address is numeric, or `*`."""

    def parse(self, text: str) -> str:
        """Give the text in its canonical form."""
        host, colon, port = text.removeprefix("tcp://").rpartition(":")
        if not text.startswith("tcp://") or not colon:
            raise InvalidError(f"'{clip(text)}' is no place to listen", "write tcp://ADDRESS:PORT")
        Integer(1, 65535).parse(port)
        if host == "*":
            return text
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise InvalidError(f"'{clip(host)}' is no IP address", "write tcp://ADDRESS:PORT") from None
        return f"tcp://[{address}]:{port}" if address.version == 6 else f"tcp://{address}:{port}"

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^tcp://.+:[0-9]+$"}


@dataclass(frozen=True)
class LocalEndpoint:
    """Where to listen for this machine alone, "127.0.0.1:9101" or "[::1]:9101"."""

    def parse(self, text: str) -> str:
        """Give the text in its canonical form."""
        host, colon, port = text.rpartition(":")
        if not colon:
            raise InvalidError(f"'{clip(text)}' is no place to listen", "write 127.0.0.1:PORT")
        Integer(1, 65535).parse(port)
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise InvalidError(f"'{clip(host)}' is no IP address", "write 127.0.0.1:PORT") from None
        if not address.is_loopback:
            raise InvalidError(f"{address} can be reached by others", "put a server before 127.0.0.1:PORT")
        return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"

    def json_schema(self) -> dict[str, Any]:
        """Describe it."""
        return {"type": "string", "pattern": "^.+:[0-9]+$"}


@dataclass(frozen=True)
class OneOrMany:
    """On a tuple: an item alone stands for a list of one."""


@dataclass(frozen=True)
class Shorthand:
    """On a struct: words that stand for a map, each with the keys and texts of that."""

    meanings: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class OrBoolean:
    """On a map that has the key `enabled`: `true` stands for a map without a key, `false` for {enabled: false}."""


@dataclass(frozen=True)
class OrKey:
    """On a map: a value alone stands for a map with this key."""

    key: str


@dataclass(frozen=True)
class OrAll:
    """On a tuple of words: `all` stands for every word."""


@dataclass(frozen=True)
class MaxLength:
    """On a tuple: so many items at most."""

    limit: int


def clip(text: str, limit: int = 60) -> str:
    """Make text that somebody else wrote fit to be printed within a message."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:limit])
    return shown + ("..." if len(text) > limit else "")


def _microseconds(text: str) -> int | None:
    """Read a time with its unit; None: it is none, or has a fraction of a microsecond."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    whole, fraction, unit = match.groups()
    digits = (fraction or ".")[1:]
    time, rest = divmod(int(whole + digits) * _UNITS[unit], 10 ** len(digits))
    return None if rest else time
