"""Builds the C core for Python: one set of headers, read by gcc and by cffi.

    include/abi/*.h --strip--> cdef --cffi--> fastpath/_core.abi3.so  (and its typed stub)
          |                      +----------> fastpath/_layout.py     (offsets as plain numbers)
          +-- FNV-1a of the stripped text --> ABI hash, compiled in and stored in each segment
          +-- enum drop_reason --------------> build/include/drop_names.h (the labels)
    rsock/wire.py --(rsock/c/header.py)------> build/include/rsock_wire.h

`setup.py` names `ffi` and `glance` as cffi modules; the second one is small, for the manager, which loads no
other C.  Run as a program, this regenerates what is derived and prints nothing.  The stub comes from cffi's parser,
whose attribute is private: cffi is pinned below 3.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any, Final

from cffi import FFI

ROOT: Final = Path(__file__).resolve().parent
ABI: Final = (
    "limits",
    "address",
    "segment",
    "drop_reason",
    "bfd",
    "filter",
    "police",
    "tables",
    "bypass",
    "tcp",
    "account",
    "state",
    "ring",
    "core",
    "spf",
    "bgp",
)
GENERATED: Final = ROOT.parent / "build" / "include"
SOURCES: Final = ("base", "wire", "table", "port", "forward", "host", "server", "bfd", "bulk", "policy", "bgp", "spf")
# _Alignas is silently ignored by cffi, attributes become variables: neither may slip in.
FORBIDDEN: Final = re.compile(r"_Alignas|__attribute__|_Static_assert|static\s+inline|#define\s+\w+\s+\(")
WARNINGS: Final = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla", "-Wmissing-prototypes")
# What cffi generates is not held to the rules of our own files.
_UNRULED: Final = (
    '#pragma GCC diagnostic ignored "-Wconversion"\n#pragma GCC diagnostic ignored "-Wmissing-prototypes"\n'
)


def strip(name: str) -> str:
    """Take guards, includes and comments off an ABI header; refuse what cffi misreads."""
    text = (ROOT / "include" / "abi" / f"{name}.h").read_text()
    text = re.sub(r"//[^\n]*", "", text)
    if found := FORBIDDEN.search(text):
        raise SystemExit(f"include/abi/{name}.h: cffi cannot read {found.group()!r}")
    kept = [
        line.rstrip()
        for line in text.splitlines()
        if line.strip() and not re.match(r"#(include|ifndef|endif)\b|#define \w+_H$", line)
    ]
    return "\n".join(kept) + "\n"


def abi_text() -> str:
    """Give all shared declarations, in the order of their dependence."""
    return "".join(strip(name) for name in ABI)


def abi_hash(text: str) -> int:
    """FNV-1a, 64 bit: not for security, only to tell two builds apart."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def write(path: Path, text: str) -> None:
    """Write a generated file, leaving its time alone when nothing changed."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _constants(parser_ffi: FFI) -> dict[str, int]:
    constants: dict[str, int] = {}
    for name, (kind, _quals) in parser_ffi._parser._declarations.items():
        if name.startswith(("enum ", "anonymous ")) and hasattr(kind, "enumerators"):
            constants.update(zip(kind.enumerators, kind.enumvalues, strict=True))
    constants |= {
        name: int(value) for name, value in parser_ffi._parser._int_constants.items() if isinstance(value, int)
    }
    return constants


def _field(parser_ffi: FFI, ctype: Any, offset: int) -> tuple[int, str, int, str]:
    """Describe one field: offset, struct code or nested struct, count, name of the struct."""
    count = 1
    if ctype.kind == "array":
        count = ctype.length or 0
        ctype = ctype.item
    if ctype.kind == "struct":
        return offset, "", count, ctype.cname.removeprefix("struct ")
    if ctype.kind == "union":  # which member is meant depends on other fields: bytes to us
        return offset, "s", parser_ffi.sizeof(ctype), ""
    if ctype.kind == "array":  # rows of a two-dimensional array are bytes to us
        return offset, "s", count * parser_ffi.sizeof(ctype), ""
    size = parser_ffi.sizeof(ctype)
    if ctype.cname == "char":
        return offset, "s", count, ""
    code = {1: "b", 2: "h", 4: "i", 8: "q"}[size]
    return offset, code if ctype.cname.startswith("int") else code.upper(), count, ""


def drop_names(parser_ffi: FFI) -> str:
    """Turn the names of the drop reasons into the labels that traces show."""
    enumerators = parser_ffi.typeof("enum drop_reason").elements
    labels = [enumerators[value].removeprefix("DROP_").lower() for value in sorted(enumerators)[:-1]]
    return "#define DROP_NAMES " + ", ".join(f'"{label}"' for label in labels) + "\n"


def layout_module(parser_ffi: FFI, hash_value: int) -> str:
    """Write sizes, offsets and constants as plain numbers, for readers that load no C."""
    out = ['"""Generated from include/abi by build.py: sizes, offsets and constants as plain numbers."""', ""]
    out += ["from typing import Final", "", f"ABI_HASH: Final = {hash_value:#x}", "SIZES: Final[dict[str, int]] = {"]
    structs = []
    for name in parser_ffi._parser._declarations:
        if name.startswith("struct "):
            ctype = parser_ffi.typeof(name)
            if ctype.fields is not None:
                structs.append((name.removeprefix("struct "), ctype))
    out += [f'    "{name}": {parser_ffi.sizeof(ctype)},' for name, ctype in structs]
    out += ["}", "# struct -> field -> (offset, struct code or '', count, nested struct)"]
    out += ["FIELDS: Final[dict[str, dict[str, tuple[int, str, int, str]]]] = {"]
    for name, ctype in structs:
        out.append(f'    "{name}": {{')
        for field_name, field in ctype.fields:
            offset, code, count, nested = _field(parser_ffi, field.type, field.offset)
            out.append(f'        "{field_name}": ({offset}, "{code}", {count}, "{nested}"),')
        out.append("    },")
    out += ["}", "CONSTANTS: Final[dict[str, int]] = {"]
    out += [f'    "{name}": {value},' for name, value in _constants(parser_ffi).items()]
    return "\n".join([*out, "}", ""])


def stub(parser_ffi: FFI) -> str:
    """Type the compiled module for mypy: constants and functions of `lib`."""
    out = ["# Generated from include/abi by build.py.", "from typing import Any", "", "ffi: Any", "", "class _Lib:"]
    out += [f"    {name}: int" for name in _constants(parser_ffi)]
    for name, (kind, _quals) in parser_ffi._parser._declarations.items():
        if name.startswith("function "):
            arguments = ", ".join(f"a{i}: {_python(argument)}" for i, argument in enumerate(kind.args))
            parameters = f"self, {arguments}" if arguments else "self"
            out.append(f"    def {name.removeprefix('function ')}({parameters}) -> {_python(kind.result)}: ...")
    return "\n".join([*out, "", "lib: _Lib", ""])


def _python(kind: Any) -> str:
    text = kind.get_c_name()
    if "*" in text or "[" in text:
        return "Any"
    return "None" if text.strip() == "void" else "int"


def sources() -> list[str]:
    """List the C files of the core, relative to the project."""
    files = sorted((ROOT / "src").glob("*.c")) + [
        file for folder in SOURCES for file in sorted((ROOT / "src" / folder).glob("*.c"))
    ]
    return [str(file.relative_to(ROOT.parent)) for file in files if file.exists()]


def _flags() -> tuple[list[str], list[str]]:
    """Give what the compiler and the linker are told."""
    sanitize = os.environ.get("ANABRANCH_SANITIZE", "")
    flags = ["-std=gnu11", "-O2", "-g", "-fno-strict-aliasing", "-fvisibility=hidden", *WARNINGS, "-Werror"]
    flags += (
        ["-fstack-protector-strong", "-Wno-unused-parameter"]
        if not sanitize
        # ThreadSanitizer knows no fences; what they order is atomic by itself.
        else [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", *(["-Wno-tsan"] if sanitize == "thread" else [])]
    )
    return flags, [f"-fsanitize={sanitize}"] if sanitize else ["-Wl,-z,relro,-z,now"]


def build() -> FFI:
    """Derive everything from the headers and describe the extension to setuptools."""
    text = abi_text()
    hash_value = abi_hash(text)
    write(GENERATED / "abi_hash.h", f"#define ABI_HASH {hash_value:#x}ull\n")
    write(GENERATED / "rsock_wire.h", runpy.run_path(str(ROOT.parent / "rsock" / "c" / "header.py"))["text"]())
    parser_ffi = FFI()
    parser_ffi.cdef(text)
    write(GENERATED / "drop_names.h", drop_names(parser_ffi))
    write(ROOT / "_layout.py", layout_module(parser_ffi, hash_value))
    write(ROOT / "_core.pyi", stub(parser_ffi))
    built = FFI()
    built.cdef(text)
    flags, links = _flags()
    built.set_source(
        "fastpath._core",
        _UNRULED + "".join(f'#include "abi/{name}.h"\n' for name in ABI),
        sources=sources(),
        include_dirs=[
            str((ROOT / "include").relative_to(ROOT.parent)),
            str((ROOT / "src").relative_to(ROOT.parent)),
            "build/include",
        ],
        depends=[str(path.relative_to(ROOT.parent)) for path in ROOT.rglob("*.h")],
        extra_compile_args=flags,
        extra_link_args=links,
        py_limited_api=True,
    )
    return built


def build_glance() -> FFI:
    """Describe the manager's extension."""
    built = FFI()
    built.cdef(strip("glance"))
    flags, links = _flags()
    built.set_source(
        "fastpath._glance",
        _UNRULED + '#include "abi/glance.h"\n',
        sources=[str((ROOT / "src" / "glance" / "glance.c").relative_to(ROOT.parent))],
        include_dirs=[str((ROOT / "include").relative_to(ROOT.parent))],
        depends=[str((ROOT / "include" / "abi" / "glance.h").relative_to(ROOT.parent))],
        extra_compile_args=flags,
        extra_link_args=links,
        py_limited_api=True,
    )
    return built


if __name__ != "__main__":
    ffi = build()
    glance = build_glance()
elif sys.argv[1:] == []:
    build()
