"""What kind of program a command is: whether a preloaded library reaches its calls.

It does not reach programs without a dynamic loader (static ones), of another word size or machine, and those that the
loader runs in secure mode (setuid, file capabilities: ld.so(8)); and Go's make their system calls themselves.  Scripts
are what their interpreter is.  The ELF header is all that is read: elf(5).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import sys
from pathlib import Path
from typing import BinaryIO, Final

_INTERPRETERS: Final = 5  # as many as the kernel follows
_HEADER: Final = 4096
_PT_INTERP: Final = 3
_PT_NOTE: Final = 4
_CAPABILITIES: Final = "security.capability"
_NOTE: Final = struct.Struct("=III")
_ELF64: Final = 2


def find(command: str) -> Path:
    """Find a command as the shell does.  Raises FileNotFoundError or PermissionError."""
    found = shutil.which(command)
    if found is not None:
        return Path(found)
    known = "/" in command and Path(command).exists()
    code = errno.EACCES if known else errno.ENOENT
    raise OSError(code, os.strerror(code), command)


def obstacle(path: Path) -> str:
    """Say why a preloaded library would not do for a program; "" where it does."""
    try:
        for _depth in range(_INTERPRETERS):
            with path.open("rb") as file:
                if problem := _privileges(path, file):
                    return problem
                head = file.read(_HEADER)
                if head[:4] == b"\x7fELF":
                    return _elf(head, file)
                if head[:2] != b"#!":
                    return "neither ELF nor a script"
                path = find(os.fsdecode(head[2:].split(b"\n", 1)[0].split()[0]))
    except (OSError, IndexError, struct.error) as error:
        return f"not readable: {error}"
    return "too many interpreters"


def _privileges(path: Path, file: BinaryIO) -> str:
    if os.fstat(file.fileno()).st_mode & (stat.S_ISUID | stat.S_ISGID):
        return "setuid or setgid"
    try:
        os.getxattr(path, _CAPABILITIES)
    except OSError:
        return ""
    return "has file capabilities"


def _elf(head: bytes, file: BinaryIO) -> str:
    order = "<" if head[5] == 1 else ">"
    if head[4] != _ELF64 or sys.byteorder != ("little" if order == "<" else "big"):
        return "of another word size or byte order"
    if head[18:20] != _own_machine():
        return "for another machine"
    (table,) = struct.unpack_from(order + "Q", head, 32)
    size, count = struct.unpack_from(order + "HH", head, 54)
    file.seek(table)
    entries = [file.read(size) for _ in range(min(count, 128))]
    kinds = [struct.unpack_from(order + "I", entry)[0] for entry in entries]
    if _PT_INTERP not in kinds:
        return "statically linked"
    for kind, entry in zip(kinds, entries, strict=True):
        if kind == _PT_NOTE:
            offset, length = struct.unpack_from(order + "Q", entry, 8)[0], struct.unpack_from(order + "Q", entry, 32)[0]
            file.seek(offset)
            if _is_go(file.read(min(length, _HEADER))):
                return "written in Go"
    return ""


def _own_machine() -> bytes:
    with Path("/proc/self/exe").open("rb") as file:
        return file.read(20)[18:20]


def _is_go(notes: bytes) -> bool:
    while len(notes) >= _NOTE.size:
        name, description, _kind = _NOTE.unpack_from(notes)
        if notes[_NOTE.size : _NOTE.size + name] == b"Go\0\0":
            return True
        notes = notes[_NOTE.size + -(-name // 4) * 4 + -(-description // 4) * 4 :]
    return False
