"""A peer that sends malformed UPDATEs to a router, over TCP in a namespace: RFC 7606 decides what they end."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final, Self

import pytest
from peers import eventually
from routing_lab import RoutingLab

pytestmark = [pytest.mark.in_order, pytest.mark.root, pytest.mark.interop]

MARKER: Final = b"\xff" * 16
KEEPALIVE: Final = MARKER + b"\0\x13\x04"
OPEN: Final = MARKER + bytes.fromhex("002b01 04 fdea 005a 0a000002 0e 020c 010400010001 41040000fdea")
GOOD: Final = {1: "40010100", 2: "4002060201 0000fdea", 3: "4003040a630102"}
WITHDRAW: Final = (
    "40010105",  # ORIGIN
    "400200",  # an empty AS_PATH from another AS
    "40020602010000fdea00",
    "4003030a0000",  # NEXT_HOP
    "c00803000000",  # COMMUNITIES
    "c02003010203",  # LARGE_COMMUNITIES
    "c023020102",  # ONLY_TO_CUSTOMER
    "80040100",  # MULTI_EXIT_DISC
)


class Speaker:
    """A BGP speaker of few words."""

    def __init__(self, lab: RoutingLab) -> None:
        self.socket = lab["speaker"].socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        try:
            self.socket.connect(("10.99.1.1", 179))
            self.socket.sendall(OPEN + KEEPALIVE)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def update(self, attributes: bytes, nlri: str, withdrawn: str = "") -> None:
        gone, told = bytes.fromhex(withdrawn), bytes.fromhex(nlri)
        body = struct.pack("!H", len(gone)) + gone + struct.pack("!H", len(attributes)) + attributes + told
        self.socket.sendall(MARKER + struct.pack("!HB", 19 + len(body), 2) + body)

    def hears(self, wanted: int) -> bytes:
        """The body of the next message of a type; empty: the connection ends before."""
        with contextlib.suppress(ConnectionResetError):
            while header := self.socket.recv(19, socket.MSG_WAITALL):
                length, kind = struct.unpack("!HB", header[16:])
                body = self.socket.recv(length - 19, socket.MSG_WAITALL) if length > 19 else b""
                if kind == wanted:
                    return body
        return b""


@pytest.fixture(scope="module")
def lab() -> Iterator[RoutingLab]:
    with RoutingLab() as lab:
        neighbor: dict[str, Any] = {"remote-as": 65002, "passive": True, "require-policy": False}
        neighbor["timers"] = {"connect-retry": "1s"}
        neighbor["graceful-restart"] = False
        lab.router("red", router_id="10.0.0.1", bgp={"asn": 65001, "neighbors": {"10.99.1.2": neighbor}})
        lab.link("red", "wan", ["10.99.1.1/24"], "speaker", ["10.99.1.2/24"])
        lab.start()
        yield lab


def state(lab: RoutingLab) -> str:
    (line,) = lab.show("bgp summary", "red")["neighbors"]
    return str(line["state"])


def prefixes(lab: RoutingLab) -> set[str]:
    return {row["prefix"] for row in lab.show("bgp table", "red") if row["best"]}


def greeted(lab: RoutingLab) -> Speaker:
    """A speaker with a session, once the router takes one again."""
    eventually(lambda: state(lab) == "active", 20, "red waits for the speaker")
    speaker: Speaker = eventually(lambda: _speaker(lab), 30, "a connection")
    eventually(lambda: state(lab) == "established", 30, "a session")
    return speaker


def spoil(speaker: Speaker, attribute: str) -> None:
    """Announce a route with one attribute spoiled, or added."""
    data = bytes.fromhex(attribute)
    parts = [bytes.fromhex(text) for kind, text in GOOD.items() if kind != data[1]]
    speaker.update(b"".join([*parts, data]), "100a05")


def test_malformed_attributes_withdraw_and_end_nothing_else(lab: RoutingLab) -> None:
    both = {"10.5.0.0/16", "10.6.0.0/16"}
    with greeted(lab) as speaker:
        for attribute in WITHDRAW:
            speaker.update(b"".join(map(bytes.fromhex, GOOD.values())), "100a05 100a06")
            eventually(lambda: prefixes(lab) == both, 30, "two routes")
            spoil(speaker, attribute)
            eventually(lambda: prefixes(lab) == {"10.6.0.0/16"}, 30, f"one route, after {attribute}")
        spoil(speaker, "c0630401020304")  # unknown, optional, transitive
        eventually(lambda: prefixes(lab) == both, 30, "two routes")
        assert state(lab) == "established"
        (told,) = lab.show("bgp neighbor", "red")  # its counters have got as far as the command line
        withdrawn = told["counters"]["malformed"]["withdrawn"]
        assert withdrawn.keys() >= {"origin", "as-path", "communities", "large-communities"}


@pytest.mark.parametrize(("attribute", "told"), [("40630401020304", "0302"), ("900e00050001010000", "0309")])
def test_what_cannot_be_read_ends_the_session(attribute: str, told: str, lab: RoutingLab) -> None:
    with greeted(lab) as speaker:
        spoil(speaker, attribute)
        assert speaker.hears(3)[:2].hex() == told
        eventually(lambda: not prefixes(lab), 30, "no route")


def _speaker(lab: RoutingLab) -> Speaker:
    try:
        return Speaker(lab)
    except OSError as error:
        raise AssertionError(str(error)) from error


def test_garbage_ends_nothing_else(lab: RoutingLab) -> None:
    with greeted(lab) as speaker:
        speaker.socket.sendall(bytes(range(256)) * 20)
        assert speaker.hears(3)[:2] == b"\1\1"
    with greeted(lab):
        assert not prefixes(lab)
