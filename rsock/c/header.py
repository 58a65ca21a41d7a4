"""Turns the definitions of rsock/wire.py into a C header, rsock_wire.h, for the core and for the C client."""

from __future__ import annotations

import runpy
from pathlib import Path

_NUMBERS = (
    "MAGIC",
    "VERSION",
    "MAX_MESSAGE",
    "MAX_BODY",
    "STREAM_APP_BUFFER",
    "STREAM_FILLER",
    "STREAM_FULL",
    "STREAM_CONNECTED_BUFFER",
)


def text() -> str:
    """Give the header."""
    wire = runpy.run_path(str(Path(__file__).resolve().parent.parent / "wire.py"))
    out = ["// Generated from rsock/wire.py by rsock/c/header.py.", "#ifndef RSOCK_WIRE_H", "#define RSOCK_WIRE_H", ""]
    out += [
        "#include <stdint.h>",
        "",
        *(f"#define RSOCK_{name} {wire[name]}" for name in _NUMBERS),
    ]
    for enum_name, prefix in (
        ("Op", "RSOCK_OP_"),
        ("Flag", "RSOCK_FLAG_"),
        ("Right", "RSOCK_RIGHT_"),
        ("DatagramFlag", "RSOCK_DATAGRAM_"),
        ("State", "RSOCK_STATE_"),
        ("Filter", "RSOCK_FILTER_"),
        ("Side", "RSOCK_SIDE_"),
    ):
        members = ", ".join(f"{prefix}{member.name} = {int(member)}" for member in wire[enum_name])
        out.append(f"enum {{ {members} }};")
    ctypes = {"B": "uint8_t", "H": "uint16_t", "I": "uint32_t", "Q": "uint64_t"}
    for name, fields in wire["STRUCTS"].items():
        out.append(f"struct {name} {{")
        for field in fields:
            declaration = (
                f"uint8_t {field.name}[{field.code[:-1]}]"
                if field.code.endswith("s")
                else f"{ctypes[field.code]} {field.name}"
            )
            out.append(f"\t{declaration};{' // ' + field.help if field.help else ''}")
        out.append("} __attribute__((packed));")
    return "\n".join([*out, "", "#endif", ""])
