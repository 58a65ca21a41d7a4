"""Which drivers go with which interfaces, as the operator is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from manager.config import load
from tests.unit.test_config_crosscheck import one

if TYPE_CHECKING:
    from pathlib import Path

ONE = [
    ("a: {device: e, driver: auto}", []),
    ("a: {device: e, driver: af-packet}", []),
    ("a: {device: e, driver: af-packet-v3}", []),
    ("a: {device: e, driver: tap}", []),
    ("a: {driver: tap}", ["'driver' does not go with a loopback"]),
    ("a: {device: e, driver: tap, gro: true}", ["'gro' does not go with 'driver: tap'"]),
    ("a: {device: e, driver: tap, force: true}", ["'force' does not go with 'driver: tap'"]),
    ("a: {device: e, vlan: 1, driver: tap}, b: {device: e, vlan: 2, driver: tap}", []),
    (
        "a: {device: e, vlan: 1, driver: tap}, b: {device: e, vlan: 2, driver: af-packet}",
        ["e has 'driver: tap' already, for red/a"],
    ),
    ("a: {device: e, vlan: 1, driver: tap}, b: {device: e, vlan: 2}", []),
    ("a: {device: e, vlan: 1}, b: {device: e, vlan: 2, driver: af-packet}", []),
    ("a: {device: eth1, driver: af-packet-v3, offload: tc}", []),
    ("a: {device: eth1, driver: af-xdp, offload: tc}", ["'offload: tc' does not go with the driver 'af-xdp'"]),
    ("a: {pcap: {in: /x}}", []),
    ("a: {pcap: {in: /x, out: /y, speed: real}, driver: pcap, mac: '02:00:00:00:00:01', mtu: 1400}", []),
    ("a: {pcap: {}}", ["'pcap' names no file"]),
    ("a: {pcap: {in: /x, out: /x}}", ["'in' and 'out' are one file"]),
    ("a: {pcap: {in: x}}", ["'x' is no absolute path"]),
    ("a: {pcap: {in: /a/../x}}", ["'/a/../x' does not name a file plainly"]),
    ("a: {pcap: {in: /x}, device: e}", ["'pcap' and 'device' exclude each other"]),
    ("a: {pcap: {in: /x}, vlan: 5}", ["'vlan' does not go with capture files"]),
    ("a: {pcap: {in: /x}, driver: tap}", ["'driver: tap' does not go with capture files"]),
    ("a: {device: e, driver: pcap}", ["'driver: pcap' needs 'pcap'"]),
    ("a: {device: e, driver: tap}, b: {device: e, netns: x, driver: af-packet}", []),
]


@pytest.mark.parametrize(("interfaces", "expected"), ONE)
def test_one_router(tmp_path: Path, interfaces: str, expected: list[str]) -> None:
    assert one(tmp_path, f"interfaces: {{{interfaces}}}") == expected


def test_a_tap_has_one_router(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "routers:\n"
        "  red: {interfaces: {a: {device: e, vlan: 1, driver: tap}}}\n"
        "  blue: {interfaces: {a: {device: e, vlan: 2, driver: tap}}}\n"
    )
    (error,) = load(tmp_path).errors
    assert (error.line, error.message) == (3, "the TAP e is made for red/a")


def test_the_driver_of_each_interface(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "routers:\n"
        "  red:\n"
        "    dataplane: {driver: af-packet-v3}\n"
        "    interfaces:\n"
        "      said: {device: a, driver: af-packet}\n"
        "      unsaid: {device: b}\n"
        "      one: {device: c, vlan: 1}\n"
        "      other: {device: c, vlan: 2, driver: tap}\n"
        "      files: {pcap: {in: /x}}\n"
        "      lo: {addresses: [10.9.9.9/32]}\n"
        "  blue: {interfaces: {a: {device: d}}}\n"
    )
    config = load(tmp_path).config
    assert config is not None
    drivers = {name: each.driver for router in config.routers.values() for name, each in router.interfaces.items()}
    assert drivers == {
        "said": "af-packet", "unsaid": "af-packet-v3", "one": "tap", "other": "tap", "files": "pcap", "lo": None,
        "a": "auto",
    }  # fmt: skip
