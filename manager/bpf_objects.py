"""Loads the BPF programs that the build has made (fastpath/bpf), and their maps, by bpf(2).

    lib/NAME.json --load()--> fd of the program, fds of its maps

No compiler, no ELF library, nothing pinned: a program lives as long as something runs it or holds its fd, a map as
long as a program uses it or somebody holds its fd or has it mapped.  All fds are closed on exec and are the caller's.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import fastpath
from manager.kernel import bpf

LIBRARY: Final = Path(fastpath.__file__).resolve().parent / "bpf" / "lib"
# enum bpf_cmd
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD = 0, 1, 2, 3, 5
_PROG_TEST_RUN, _PROG_BY_ID, _OBJECT_INFO = 10, 13, 15
# Of a load of 64 bits: what its first half's source register says of the number.
_LOAD_64: Final = 0x18
_MAP_BY_FD: Final = 1
_VALUE_BY_FD: Final = 2  # the address of an array's value
_ATTRIBUTE_SIZE: Final = 128
_LOG_SIZE: Final = 1 << 20
_LOG_LINES: Final = 3  # of the verifier's, the last ones tell
_NAME_SIZE: Final = 16
# Byte of struct bpf_prog_info where the name begins.
_INFO_NAME: Final = 64
NAME_PREFIX: Final = "ab_"  # of all our programs: tells them from a stranger's on a device


class NotBuiltError(Exception):
    """This installation was built without clang."""


@dataclass(frozen=True)
class MapKind:
    """What a map is made of."""

    type: int
    key: int
    value: int
    entries: int
    flags: int


@dataclass(frozen=True)
class Program:
    """A loaded program; the fds are the holder's."""

    fd: int
    maps: dict[str, int]  # those that were made for it

    def close(self) -> None:
        """Close the fds."""
        for fd in (self.fd, *self.maps.values()):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def available() -> bool:
    """Tell whether this installation has BPF programs."""
    return any(LIBRARY.glob("*.json"))


@cache
def _object(name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((LIBRARY / f"{name}.json").read_text())
    except FileNotFoundError:
        raise NotBuiltError("this installation was built without clang, and so without BPF programs") from None
    return found


def map_kind(program: str, name: str) -> MapKind:
    """Give what a program says of a map of its own."""
    return MapKind(**_object(program)["maps"][name])


def _call(command: int, *fields: bytes) -> int:
    return bpf(command, ctypes.create_string_buffer(b"".join(fields), _ATTRIBUTE_SIZE))


def create_map(kind: MapKind, name: str) -> int:
    """Make a map; its fd."""
    label = (NAME_PREFIX + name).encode()[: _NAME_SIZE - 1]
    head = struct.pack("=IIIII", kind.type, kind.key, kind.value, kind.entries, kind.flags)
    return _call(_MAP_CREATE, head, struct.pack("=II16s", 0, 0, label))


def _element(fd: int, key: int, value: Any) -> tuple[bytes, Any]:
    number = ctypes.c_uint32(key)
    address = ctypes.addressof(value) if value is not None else 0
    # The number is kept alive beside what holds its address.
    return struct.pack("=IIQQQ", fd, 0, ctypes.addressof(number), address, 0), number


def set_element(fd: int, key: int, value: bytes) -> None:
    """Store into a map whose keys are u32."""
    room = ctypes.create_string_buffer(value, len(value))
    fields, _kept = _element(fd, key, room)
    _call(_MAP_UPDATE, fields)


def get_element(fd: int, key: int, size: int) -> bytes | None:
    """Read from a map whose keys are u32; None: nothing is there."""
    room = ctypes.create_string_buffer(size)
    fields, _kept = _element(fd, key, room)
    try:
        _call(_MAP_LOOKUP, fields)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return room.raw


def delete_element(fd: int, key: int) -> None:
    """Remove from a map whose keys are u32; fine when nothing is there."""
    fields, _kept = _element(fd, key, None)
    try:
        _call(_MAP_DELETE, fields)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _patched(found: dict[str, Any], maps: Mapping[str, int], constants: Mapping[str, int]) -> bytearray:
    """Put the fds of maps and the values of constants into the instructions: each is a load of two halves."""
    code = bytearray(base64.b64decode(found["instructions"]))
    numbers = [(at, _MAP_BY_FD, maps[name]) for at, name in found["map uses"]]
    numbers += [(at, _VALUE_BY_FD, maps[name]) for at, name in found["value uses"]]
    numbers += [(at, 0, constants[name]) for at, name in found["constant uses"]]
    for at, source, value in numbers:
        opcode, registers = code[at * 8], code[at * 8 + 1]
        if opcode != _LOAD_64:
            raise ValueError("what the build has made is damaged")
        code[at * 8 + 1] = registers & 0x0F | source << 4
        struct.pack_into("=I", code, at * 8 + 4, value & 0xFFFFFFFF)
        struct.pack_into("=I", code, at * 8 + 12, value >> 32)
    return code


def _load(name: str, kind: int, code: bytearray, text: str) -> int:
    instructions = ctypes.create_string_buffer(bytes(code), len(code))
    granted = ctypes.create_string_buffer(text.encode())
    label = (NAME_PREFIX + name).encode()[: _NAME_SIZE - 1]

    def attempt(log: Any) -> int:
        room = (1, len(log), ctypes.addressof(log)) if log is not None else (0, 0, 0)
        return _call(_PROG_LOAD, struct.pack(
            "=IIQQIIQII16s", kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(granted),
            *room, 0, 0, label,
        ))  # fmt: skip

    try:
        return attempt(None)
    except OSError as refused:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return attempt(log)
        except OSError:
            lines = [line for line in log.value.decode(errors="replace").splitlines() if line.strip()]
            said = "; ".join(line for line in lines if not line.startswith("processed "))[-300:] if lines else ""
            said = said or refused.strerror or ""
            raise OSError(refused.errno, f"the kernel refused the BPF program {name}: {said}") from refused


def load(
    name: str,
    *,
    maps: Mapping[str, int] | None = None,
    entries: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    constants: Mapping[str, int] | None = None,
) -> Program:
    """Load a program by the name of its source file.

    `maps` are fds of maps that are there already; the others are made, with `entries` of them, and values of these
    `sizes`, where the source leaves that open, and are in the result.  OSError carries the verifier's last words.
    """
    found = _object(name)
    made: dict[str, int] = {}
    try:
        for label in found["maps"]:
            if label not in (maps or {}):
                kind = map_kind(name, label)
                if entries and label in entries:
                    kind = replace(kind, entries=entries[label])
                if sizes and label in sizes:
                    kind = replace(kind, value=sizes[label])
                made[label] = create_map(kind, label)
        code = _patched(found, {**made, **(maps or {})}, constants or {})
        return Program(_load(name, found["type"], code, found["license"]), made)
    except BaseException:
        for fd in made.values():
            os.close(fd)
        raise


def run_once(program: int, frame: bytes, room: int = 2048, context: bytearray | None = None) -> tuple[int, bytes]:
    """Run a program once on a frame: what it returned, and the frame after that.

    `context` is what goes in and comes out beside the frame (struct __sk_buff of filters and of programs at tc).
    """
    data, out = ctypes.create_string_buffer(frame, len(frame)), ctypes.create_string_buffer(room)
    beside = (ctypes.c_char * len(context)).from_buffer(context) if context is not None else None
    size, place = (len(beside), ctypes.addressof(beside)) if beside is not None else (0, 0)
    fields = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQQIIIIQQ", program, 0, len(frame), room, ctypes.addressof(data), ctypes.addressof(out), 1, 0,
            size, size, place, place,
        ),
        _ATTRIBUTE_SIZE,
    )  # fmt: skip
    bpf(_PROG_TEST_RUN, fields)
    _fd, result, _in, length = struct.unpack_from("=IIII", fields.raw)
    return result, out.raw[:length]


def kind_of(fd: int) -> MapKind:
    """Ask the kernel what a map is made of.  Raises OSError where the fd is no BPF object's."""
    info = ctypes.create_string_buffer(256)
    _call(_OBJECT_INFO, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
    kind, _number, key, value, entries, flags = struct.unpack_from("=6I", info)
    return MapKind(kind, key, value, entries, flags)


def program_name(number: int) -> str:
    """Give the name of a loaded program by its id; "" when it is gone."""
    try:
        fd = _call(_PROG_BY_ID, struct.pack("=III", number, 0, 0))
    except OSError:
        return ""
    try:
        info = ctypes.create_string_buffer(256)
        _call(_OBJECT_INFO, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
        return info.raw[_INFO_NAME : _INFO_NAME + _NAME_SIZE].split(b"\0")[0].decode(errors="replace")
    finally:
        os.close(fd)
