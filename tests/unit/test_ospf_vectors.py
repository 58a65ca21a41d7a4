"""Packets of another project's tests: each decodes to what that project says, and encodes to the same bytes."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from vrouter.wire.ospf.authentication import NO_KEY, Algorithm, Key, sign, verify
from vrouter.wire.ospf.lsa import (
    Lsa,
    LsaHeader,
    OpaqueBody,
    RouterBody,
    SummaryBody,
    decode_grace,
    decode_lsa,
    encode_grace,
    encode_lsa,
)
from vrouter.wire.ospf.packet import Ack, Description, Hello, Request, Update, decode_body, decode_packet_header

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "holo-ospf.json").read_text())["cases"]


def number(text: str) -> int:
    return int(ipaddress.IPv4Address(text))


def header_matches(header: LsaHeader, expected: dict[str, Any]) -> None:
    shown = {
        "age": header.age,
        "options": header.options,
        "type": header.type,
        "id": str(ipaddress.IPv4Address(header.id)),
        "router": str(ipaddress.IPv4Address(header.router)),
        "sequence": header.sequence & 0xFFFFFFFF,
        "checksum": header.checksum,
        "length": header.length,
    }
    assert {key: shown[key] for key in shown if key in expected} == {k: expected[k] for k in shown if k in expected}


def lsa_matches(lsa: Lsa, expected: dict[str, Any]) -> None:
    header_matches(lsa.header, expected)
    if "links" in expected:
        assert isinstance(lsa.body, RouterBody)
        assert lsa.body.flags == expected["flags"]
        links = [(link.type, link.id, link.data, link.metric) for link in lsa.body.links]
        assert links == [(e["type"], number(e["id"]), number(e["data"]), e["metric"]) for e in expected["links"]]
    elif "mask" in expected:
        assert lsa.body == SummaryBody(number(expected["mask"]), expected["metric"])
    else:
        assert isinstance(lsa.body, OpaqueBody)
        if "grace" in expected:
            grace = decode_grace(lsa.body.data)
            assert (grace.period, grace.reason) == (expected["grace"]["period"], expected["grace"]["reason"])
            assert encode_grace(grace) == lsa.body.data


def body_matches(body: Any, expected: dict[str, Any]) -> None:
    if isinstance(body, Hello):
        addresses = {key: number(expected[key]) for key in ("mask", "dr", "bdr")}
        neighbors = tuple(map(number, expected["neighbors"]))
        assert body == Hello(**(expected | addresses | {"neighbors": neighbors}))
    elif isinstance(body, Request):
        assert body.keys == tuple((kind, number(i), number(r)) for kind, i, r in expected["keys"])
    elif isinstance(body, Update):
        for raw, wanted in zip(body.lsas, expected["lsas"], strict=True):
            lsa = decode_lsa(raw, strict=True)
            lsa_matches(lsa, wanted)
            assert encode_lsa(lsa) == raw
    else:
        assert isinstance(body, Description | Ack)
        for header, wanted in zip(body.headers, expected["headers"], strict=True):
            header_matches(header, wanted)
        if isinstance(body, Description):
            fields = ("mtu", "options", "flags", "sequence", "lls")
            assert {name: getattr(body, name) for name in fields} == {name: expected[name] for name in fields}


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] != "lsa"], ids=lambda case: case["name"])
def test_packet(case):
    raw = bytes.fromhex(case["hex"])
    header = decode_packet_header(raw)
    assert (header.router, header.area) == (number(case["router"]), number(case["area"]))
    key = NO_KEY
    keys = {}
    if "key" in case:
        key = Key(Algorithm(case["key"]["algorithm"]), case["key"]["id"], case["key"]["secret"].encode())
        keys = {key.id: key}
    sequence = verify(raw, header, keys)
    if "key" in case:
        assert sequence == case["key"]["sequence"]
    body = decode_body(header, raw, strict=True)
    assert type(body).__name__.lower() == case["kind"]
    body_matches(body, case["expected"])
    assert sign(body, header.router, header.area, key, sequence) == raw


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] == "lsa"], ids=lambda case: case["name"])
def test_lsa(case):
    raw = bytes.fromhex(case["hex"])
    lsa = decode_lsa(raw, strict=True)
    lsa_matches(lsa, case["expected"])
    assert encode_lsa(lsa) == raw
