"""What does not fit together in a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager.config import load

LAN = "interfaces: {lan: {device: eth1, addresses: [10.0.0.1/24, '2001:db8::1/64']}, lo: {addresses: [10.9.9.9/24]}}"
TWO = "interfaces: {a: {device: a, addresses: [10.0.0.1/24]}, b: {device: b, addresses: [10.0.1.1/24]}}"


def messages(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "a.yaml").write_text(text)
    return [error.message for error in load(tmp_path).errors]


def one(tmp_path: Path, *lines: str) -> list[str]:
    return messages(tmp_path, "routers:\n  red:\n" + "".join(f"    {line}\n" for line in lines))


STATIC = [
    ("0.0.0.0/0: {via: 10.0.0.2}", None),
    ("0.0.0.0/0: {via: 192.0.2.1}", "the next hop 192.0.2.1 is on no connected prefix"),
    ("0.0.0.0/0: {via: 192.0.2.1, interface: lan}", None),
    ("0.0.0.0/0: {via: 10.9.9.1}", "the next hop 10.9.9.1 is on no connected prefix"),
    ("0.0.0.0/0: {via: 10.0.0.1}", "the next hop 10.0.0.1 is an address of this router"),
    ("0.0.0.0/0: {via: 10.9.9.9}", "the next hop 10.9.9.9 is an address of this router"),
    ("'::/0': {via: 10.0.0.2}", "the next hop 10.0.0.2 is not IPv6, as the prefix ::/0 is"),
    ("0.0.0.0/0: {via: '2001:db8::2'}", "the next hop 2001:db8::2 is not IPv4, as the prefix 0.0.0.0/0 is"),
    ("'::/0': {via: 'fe80::1'}", "the next hop fe80::1 is link-local"),
    ("'::/0': {via: 'fe80::1', interface: lan}", None),
    ("10.1.0.0/16: {interface: nal}", "no interface 'nal'"),
    ("10.1.0.0/16: {interface: lo}", "'lo' is a loopback: nothing can leave by it"),
    ("10.1.0.0/16: {interface: lan}", None),
    ("10.1.0.0/16: {}", "the route to 10.1.0.0/16 has no next hop"),
    ("10.1.0.0/16: ", "the route to 10.1.0.0/16 has no next hop"),
    ("10.1.0.0/16: []", "the route to 10.1.0.0/16 has no next hop"),
    ("10.1.0.0/16: {discard: true, via: 10.0.0.2}", "'discard' excludes 'via' and 'interface'"),
    ("10.1.0.0/16: [{discard: true}, {via: 10.0.0.2}]", "'discard' cannot be one of several next hops"),
    ("10.1.0.0/16: [{via: 10.0.0.2}, {via: 10.0.0.2, weight: 3}]", "this next hop stands here twice"),
    ("10.1.0.0/16: [{via: 10.0.0.2}, {via: 10.0.0.3}]", None),
    ("10.1.0.0/16: {via: 10.1.0.1}", "the next hop 10.1.0.1 is on no connected prefix"),
    ("{192.0.2.0/24: {via: 10.0.0.2}, 10.1.0.0/16: {via: 192.0.2.1}}", None),
    (
        "{192.0.2.0/24: {discard: true}, 10.1.0.0/16: {via: 192.0.2.1}}",
        "the next hop 192.0.2.1 is on no connected prefix",
    ),
    ("{0.0.0.0/0: {via: 10.0.0.2}, 10.1.0.0/16: {via: 192.0.2.1}}", "the next hop 192.0.2.1 is on no connected prefix"),
]


@pytest.mark.parametrize(("route", "message"), STATIC)
def test_static(tmp_path: Path, route: str, message: str | None) -> None:
    route = route if route.startswith("{") else f"{{{route}}}"
    assert one(tmp_path, LAN, f"static: {route}") == ([] if message is None else [message])


INTERFACES = [
    ("a: {device: e, addresses: [10.0.0.1/24, 10.0.0.1/16]}", ["the address 10.0.0.1 stands here already"]),
    (
        "a: {device: e, addresses: [10.0.0.1/24]}, b: {device: f, addresses: [10.0.0.1/24]}",
        ["the address 10.0.0.1 stands on interface 'a' already"],
    ),
    ("a: {device: e, addresses: ['fe80::1/64']}, b: {device: f, addresses: ['fe80::1/64']}", []),
    ("a: {device: e, mtu: 1279, addresses: ['2001:db8::1/64']}", ["an MTU of 1279 is too small for IPv6"]),
    ("a: {device: e, mtu: 1280, addresses: ['2001:db8::1/64']}", []),
    ("a: {device: e}, b: {device: e}", ["the device e belongs to red/a already"]),
    ("a: {device: e}, b: {device: e, netns: x}", []),
    ("a: {device: e}, b: {device: e, vlan: 5}", []),
    ("a: {device: e, vlan: 5}, b: {device: e, vlan: 5}", ["VLAN 5 of device e belongs to red/a already"]),
    ("a: {device: e, vlan: 5, mac: '02:00:00:00:00:01'}, b: {device: e, mac: '02:00:00:00:00:02'}",
     ["e has the MAC 02:00:00:00:00:01 already"]),
    ("a: {vlan: 5}", ["'vlan' does not go with a loopback"]),
    ("a: {mtu: 1500}", ["'mtu' does not go with a loopback"]),
    ("a: {driver: auto}", ["'driver' does not go with a loopback"]),
    ("a: {police: {in: 1Mbps}}", ["'police' does not go with a loopback"]),
    ("a: {device: e, police: {in: 1Mbps, out: {rate: 1000/s, burst: '50'}}}", []),
    ("a: {device: e, police: {in: 1MB}}", ["'1MB' is not a rate"]),
    ("a: {device: e, patch: red/b}", ["'patch' and 'device' exclude each other"]),
    ("a: {patch: red/a}", ["a patch link cannot end where it begins"]),
    ("a: {patch: red/b}, b: {patch: red/a}", []),
    ("a: {patch: red/b, force: true}, b: {patch: red/a}", ["'force' does not go with a patch link"]),
    ("a: {patch: rde/b}", ["no router 'rde'"]),
    ("a: {patch: red/b}", ["router 'red' has no interface 'b'"]),
    ("a: {patch: red/b}, b: {}", ["the other end, red/b, is no patch link"]),
    (
        "a: {patch: red/b}, b: {patch: red/c}, c: {patch: red/b}",
        ["the other end, red/b, says 'patch: red/c'"],
    ),
    (
        "a: {patch: red/b, mtu: 1400}, b: {patch: red/a, mtu: 1500}",
        ["the ends of this link differ in their MTU: 1400 and 1500"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("interfaces", "expected"), INTERFACES)
def test_interfaces(tmp_path: Path, interfaces: str, expected: list[str]) -> None:
    assert one(tmp_path, f"interfaces: {{{interfaces}}}") == expected


SHARED = [
    ("{device: e, vlan: 1}", "{device: e, vlan: 2}", []),
    ("{device: e, vlan: 1}", "{device: e, vlan: 1}", ["VLAN 1 of device e belongs to blue/a already"]),
    ("{device: e}", "{device: e}", ["the device e belongs to blue/a already"]),
    ("{device: e}", "{device: e, vlan: 1}", ["e belongs to blue/a as a whole"]),
    ("{device: e, vlan: 1}", "{device: e}", ["e cannot be taken whole: blue/a uses a VLAN of it"]),
    ("{device: e}", "{device: e, netns: other}", []),
    ("{patch: red/a}", "{patch: blue/a}", []),
]


@pytest.mark.parametrize(("blue", "red", "expected"), SHARED)
def test_two_routers(tmp_path: Path, blue: str, red: str, expected: list[str]) -> None:
    text = f"routers:\n  blue: {{interfaces: {{a: {blue}}}}}\n  red: {{interfaces: {{a: {red}}}}}\n"
    assert messages(tmp_path, text) == expected


def test_the_same_addresses_in_two_routers_are_what_this_is_for(tmp_path: Path) -> None:
    assert messages(tmp_path, f"routers:\n  a: {{{TWO}}}\n  b: {{{TWO.replace('device: ', 'device: x')}}}\n") == []


def test_users_and_groups_must_exist(tmp_path: Path) -> None:
    apps = ("uid:nobdoy", "gid:nix-da", "uid:4711")
    rules = ", ".join(f"{{app: {app}, allow: all}}" for app in apps) + ", {app: uid:0, allow: []}"
    (tmp_path / "a.yaml").write_text(f"routers: {{red: {{rsock: {{rules: [{rules}]}}}}}}\n")
    errors = load(tmp_path).errors
    assert [error.message for error in errors] == [
        "no user 'nobdoy' on this machine",
        "no group 'nix-da' on this machine",
        "the list is empty",
    ]
    assert errors[0].help == "did you mean 'nobody'?"


def test_the_uid_range_holds_all_routers(tmp_path: Path) -> None:
    assert messages(tmp_path, "uid-range: 5000\nrouters: {a: {}, b: {}}\n") == ["the range holds 1 ids for 2 routers"]


def test_references_into_a_file_that_cannot_be_read_are_not_called_wrong(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("routers: {blue: {\n")
    assert len(messages(tmp_path, "routers: {red: {interfaces: {a: {patch: blue/b}}}}\n")) == 1


def test_limits(tmp_path: Path) -> None:
    loopbacks = ", ".join(f"l{n}: {{}}" for n in range(256))
    ports = ", ".join(f"d{n}: {{device: d{n}}}" for n in range(128))
    assert one(tmp_path, f"interfaces: {{{loopbacks}}}") == ["the router has 256 interfaces"]
    assert one(tmp_path, f"interfaces: {{{ports}}}") == ["the router has 128 devices and patch links"]
