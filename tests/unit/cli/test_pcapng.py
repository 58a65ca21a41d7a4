"""pcapng: what tshark and capinfos read back is what was written."""

from __future__ import annotations

import io
import json
import struct
import subprocess

from manager.cli import pcapng
from tests.conftest import require_program

FRAME = bytes.fromhex("020000000002020000000001080045000020000100004011f97a0a0000010a000002303930390cffffff") + b"hello"


def _written() -> bytes:
    out = io.BytesIO()
    writer = pcapng.Writer(out, "test")
    writer.interface(3, "lan", "interface lan", 0)
    writer.interface(7, "wan", "interface wan", 64)
    writer.packet(7, 1_700_000_000_123_456_789, FRAME, len(FRAME), outgoing=False)
    writer.packet(3, 1_700_000_001_000_000_001, FRAME[:40], 1500, outgoing=True, lost=5)
    return out.getvalue()


def test_blocks_are_framed_and_padded() -> None:
    data = _written()
    kinds = []
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        kinds.append(kind)
        data = data[length:]
    assert kinds == [pcapng.SECTION_HEADER, 1, 1, 6, 6]


def test_tshark_reads_it_back() -> None:
    tshark = require_program("tshark")
    fields = ("frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_name", "frame.packet_flags_direction")
    command = [tshark, "-r", "-", "-T", "json", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(command, input=_written(), capture_output=True, check=True)
    first, second = (packet["_source"]["layers"] for packet in json.loads(done.stdout))
    assert first["frame.time_epoch"] == ["1700000000.123456789"]
    assert first["frame.interface_name"] == ["wan"]
    assert first["frame.packet_flags_direction"] == ["0x00000001"]
    assert (second["frame.len"], second["frame.cap_len"]) == (["1500"], ["40"])
    assert second["frame.interface_name"] == ["lan"]
    assert second["frame.packet_flags_direction"] == ["0x00000002"]
