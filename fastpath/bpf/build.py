"""Compiles the BPF programs, and turns each into a file that can be loaded without a compiler or an ELF library.

    NAME.bpf.c --clang -target bpf--> ELF --> lib/NAME.json
                                              instructions (base64), maps, and which instructions take the fd of which
                                              map, the address of its value, or which constant

`setup.py` calls it beside the build of the core; as a program it builds into the directory that it is given.  Where
there is no clang nothing is built, and who needs a program says so (manager/bpf_objects.py).  One program a file, in
the section that tells its type, which calls helpers only.
"""

from __future__ import annotations

import base64
import json
import platform
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
INCLUDES: Final = (HERE.parent / "include", HERE.parent / "src")
LICENSE: Final = "Apache-2.0"  # no helper in use is for GPL-compatible programs only
WARNINGS: Final = ("-Wall", "-Wextra", "-Wshadow", "-Wvla", "-Wno-unused-parameter", "-Wno-unused-variable", "-Werror")
# Processors that do not let a load overtake another: there the programs need no barriers.
ORDERED: Final = ("x86_64", "s390x")
# Processors on which the verifier lets a program load a number from any address.
UNALIGNED: Final = ("x86_64", "s390x", "aarch64", "ppc64le")
# Sections of programs, and the type of each in linux/bpf.h.
TYPES: Final = {"socket": 1, "tc": 3, "xdp": 6}
MAPS: Final = "maps"
CONSTANT: Final = "constant_"
MAP_VALUE: Final = "value_"
MAP: Final = struct.Struct("=IIIII")
# ELF, 64 bit: file header, section header, symbol, relocation without addend.
_HEADER: Final = struct.Struct("=16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("=IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("=IBBHQQ")
_RELOCATION: Final = struct.Struct("=QQ")
_SYMTAB: Final = 2
_REL: Final = 9
_ABSOLUTE_64: Final = 1  # R_BPF_64_64: both words of a 64-bit load
_STEP: Final = 8  # bytes of an instruction


class ObjectError(Exception):
    """The compiler made something that a program of ours must not have."""


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    link: int
    target: int  # of relocations: the section that they are for
    data: bytes


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int  # 0: defined nowhere
    value: int


def flags() -> list[str]:
    """Give what every program is compiled with."""
    order = ["-DORDERED_LOADS"] if platform.machine() in ORDERED else []
    order += ["-DUNALIGNED_LOADS"] if platform.machine() in UNALIGNED else []
    includes = [f"-I{place}" for place in (*INCLUDES, HERE)]
    return ["-target", "bpf", "-mcpu=v3", "-O2", "-std=gnu11", "-ffreestanding", *includes, *order]


def sources() -> list[Path]:
    """List the programs."""
    return sorted(HERE.glob("*.bpf.c"))


def _text(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def _sections(data: bytes) -> list[_Section]:
    fields = _HEADER.unpack_from(data)
    offset, count, names = fields[6], fields[12], fields[13]
    headers = [_SECTION.unpack_from(data, offset + i * _SECTION.size) for i in range(count)]
    strings = data[headers[names][4] :]
    return [
        _Section(_text(strings, header[0]), header[1], header[6], header[7], data[header[4] : header[4] + header[5]])
        for header in headers
    ]


def _symbols(sections: list[_Section]) -> list[_Symbol]:
    table = next(section for section in sections if section.kind == _SYMTAB)
    strings = sections[table.link].data
    entries = _SYMBOL.iter_unpack(table.data)
    return [_Symbol(_text(strings, name), section, value) for name, _info, _other, section, value, _size in entries]


def convert(data: bytes) -> dict[str, Any]:
    """Take out of an ELF object what loading it needs."""
    sections = _sections(data)
    symbols = _symbols(sections)
    index = {section.name: number for number, section in enumerate(sections)}
    here = [name for name in TYPES if name in index]
    if len(here) != 1:
        raise ObjectError(f"a program is in one section of {', '.join(TYPES)}")
    program = index[here[0]]
    if unknown := index.keys() & {".text", ".rodata", ".data", ".bss"}:
        used = [name for name in unknown if sections[index[name]].data]
        if used:
            raise ObjectError(f"has {used}: a function that is not inlined, or a constant in memory")
    maps = {}
    places = {}
    for symbol in symbols:
        if symbol.section == index.get(MAPS, -1) and symbol.name:
            kind, key, value, entries, map_flags = MAP.unpack_from(sections[symbol.section].data, symbol.value)
            maps[symbol.name] = {"type": kind, "key": key, "value": value, "entries": entries, "flags": map_flags}
            places[symbol.value] = symbol.name
    uses: dict[str, list[tuple[int, str]]] = {"maps": [], "values": [], "constants": []}
    for section in sections:
        if section.kind != _REL or section.target != program:
            continue
        for offset, info in _RELOCATION.iter_unpack(section.data):
            symbol, kind = symbols[info >> 32], info & 0xFFFFFFFF
            if kind != _ABSOLUTE_64:
                raise ObjectError(f"calls {symbol.name}")
            if symbol.section == index.get(MAPS, -1):
                uses["maps"].append((offset // _STEP, places[symbol.value]))
            elif symbol.section == 0 and symbol.name.startswith(CONSTANT):
                uses["constants"].append((offset // _STEP, symbol.name.removeprefix(CONSTANT)))
            elif symbol.section == 0 and symbol.name.removeprefix(MAP_VALUE) in maps:
                uses["values"].append((offset // _STEP, symbol.name.removeprefix(MAP_VALUE)))
            else:
                raise ObjectError(f"refers to {symbol.name}")
    return {
        "license": LICENSE,
        "type": TYPES[here[0]],
        "instructions": base64.b64encode(sections[program].data).decode(),
        "maps": maps,
        "map uses": uses["maps"],
        "value uses": uses["values"],
        "constant uses": uses["constants"],
    }


def build(target: Path, objects: Path) -> None:
    """Build all programs into a directory, or nothing without clang."""
    compiler = shutil.which("clang")
    if compiler is None:
        print("no clang: built without BPF programs (driver af-xdp, offloads)", file=sys.stderr)  # noqa: T201
        return
    target.mkdir(parents=True, exist_ok=True)
    objects.mkdir(parents=True, exist_ok=True)
    for source in sources():
        name = source.name.removesuffix(".bpf.c")
        made = objects / f"{name}.o"
        subprocess.run([compiler, *flags(), *WARNINGS, "-c", str(source), "-o", str(made)], check=True)
        try:
            text = json.dumps(convert(made.read_bytes()), indent=1) + "\n"
        except ObjectError as error:
            raise SystemExit(f"{source}: {error}") from error
        fresh = target / f".{name}.json.new"
        fresh.write_text(text)
        fresh.replace(target / f"{name}.json")


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), HERE.parent.parent / "build" / "bpf")
