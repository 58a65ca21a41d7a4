"""BGP in the configuration: what is refused, and what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager.config import load

BASE = """
version: 1
policy:
  route-policies: {all: [{then: accept}]}
routers:
  red:
    router-id: 10.0.0.1
    interfaces: {lan: {device: eth1, addresses: [10.0.0.1/24]}}
    bgp:
      asn: 65001
      networks: [10.0.0.0/24]
      redistribute: [static, {protocol: ospf, policy: all}]
      groups:
        transit: {remote-as: 65010, import: all, export: all, gtsm: 1, bfd: true, graceful-restart: {time: 60s}}
      neighbors:
"""


def errors(tmp_path: Path, neighbors: str) -> str:
    lines = "".join(f"        {line}\n" for line in neighbors.strip().splitlines())
    (tmp_path / "red.yaml").write_text(BASE + lines)
    return "\n".join(f"{error.message} {error.help}" for error in load(tmp_path).errors)


def test_a_full_configuration_is_taken(tmp_path: Path) -> None:
    text = "10.0.0.2: {group: transit, password: x, max-prefixes: {ipv4: 10, action: warn}, timers: {hold: 30s}}"
    assert errors(tmp_path, text) == ""


@pytest.mark.parametrize(
    ("neighbor", "told"),
    [
        ("10.0.0.2: {}", "nobody says in which AS 10.0.0.2 is"),
        ("10.0.0.2: {group: trasit}", "did you mean 'transit'"),
        ("10.0.0.2: {remote-as: 65002, import: al}", "did you mean 'all'"),
        ("'fe80::1': {remote-as: 65002}", "is link-local"),
        ("10.0.0.2: {remote-as: 65002, local-address: '2001:db8::1'}", "is not of IPv4"),
        ("10.0.0.2: {remote-as: 65001, role: peer}", "'role' is for neighbors in other ASes"),
        ("10.0.0.2: {remote-as: 65002, route-reflector-client: true}", "a client is in our own AS"),
        ("10.0.0.2: {group: transit, multihop: 2, gtsm: 1}", "exclude each other"),
        ("10.0.0.2: {remote-as: 65002, timers: {hold: 2s}}", "at least 3s"),
        ("10.0.0.2: {remote-as: 65002, interface: lam}", "did you mean 'lan'"),
        ("10.0.0.1: {remote-as: 65002}", "the neighbor 10.0.0.1 is an address of this router"),
    ],
)
def test_what_does_not_fit_is_told(neighbor: str, told: str, tmp_path: Path) -> None:
    assert told in errors(tmp_path, neighbor)
