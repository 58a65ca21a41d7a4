"""RIP, router advertisements and leaking as operators write them, and what they read."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager.cli import rip as cli
from manager.config import load
from manager.resolve import resolve
from vrouter.config.leak import Leak
from vrouter.config.ra import Ra, RaPrefix
from vrouter.config.rip import RipAuthentication, RipDefault, RipInterface, RipKey, RipRedistribution

INTERFACES = """
      lo: {addresses: [10.255.0.1/32]}
      lan: {device: eth1, addresses: [10.0.0.1/24, '2001:db8::1/64'], ra: RA}
      to-blue: {patch: blue/to-red, addresses: [169.254.0.0/31], leak: LEAK}
"""


def written(tmp_path: Path, more: str = "", ra: str = "false", leak: str = "false") -> Path:
    interfaces = INTERFACES.replace("RA", ra).replace("LEAK", leak)
    text = f"""
policy:
  route-policies: {{some: [{{then: accept}}]}}
routers:
  red:
    interfaces: {interfaces}
    {more}
  blue: {{interfaces: {{to-red: {{patch: red/to-blue, addresses: [169.254.0.1/31]}}}}}}
"""
    (tmp_path / "a.yaml").write_text(text)
    return tmp_path


def messages(tmp_path: Path, more: str = "", **keys: str) -> list[str]:
    return [error.message for error in load(written(tmp_path, more, **keys)).errors]


def test_what_operators_write_reaches_the_router(tmp_path) -> None:
    loaded = load(
        written(
            tmp_path,
            "rip: {interfaces: {lan: {metric: 2, import: some, authentication: {hmac-sha-256: {key-id: 7, key: abc}}},"
            " lo: {passive: true}}, redistribute: [static, {protocol: bgp, metric: 5, policy: some}],"
            " default-information: true, timers: {update: 10s}}",
            ra="{interval: 30s, dns-servers: ['2001:db8::53'], prefixes: {'2001:db8::/64': {autonomous: false}}}",
            leak="{protocols: [static, leak], import: some}",
        )
    )
    assert loaded.errors == []
    assert loaded.config is not None
    plan = resolve(loaded.config)["red"]
    rip = plan.protocols["rip"]
    key = RipAuthentication(hmac_sha_256=(RipKey(key_id=7, key="abc"),))
    assert rip.interfaces == {
        "lan": RipInterface(metric=2, import_="some", authentication=key),
        "lo": RipInterface(passive=True),
    }
    assert rip.redistribute == (
        RipRedistribution(protocol="static"),
        RipRedistribution(protocol="bgp", metric=5, policy="some"),
    )
    assert (rip.default_information, rip.timers.update, rip.timers.timeout) == (RipDefault(), 10.0, 180.0)
    found = {interface.name: interface.protocols for interface in plan.interfaces}
    assert found["lan"]["ra"] == Ra(
        interval=30.0, dns_servers=("2001:db8::53",), prefixes={"2001:db8::/64": RaPrefix(autonomous=False)}
    )
    assert found["to-blue"]["leak"] == Leak(protocols=("static", "leak"), import_="some")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rip: {interfaces: {lna: {}}}", "no interface 'lna'"),
        ("rip: {interfaces: {lan: {import: none}}}", "no route policy 'none'"),
        ("rip: {interfaces: {lan: {neighbors: ['fe80::1']}}}", "the neighbor fe80::1 has no IPv4 address"),
        ("ripng: {interfaces: {lan: {neighbors: [10.0.0.2]}}}", "the neighbor 10.0.0.2 has no IPv6 address"),
        ("rip: {interfaces: {lan: {authentication: {}}}}", "no kind of authentication"),
        (
            "rip: {interfaces: {lan: {authentication: {password: a, md5: {key: b}}}}}",
            "'password' and 'md5' exclude each other",
        ),
        (
            "rip: {interfaces: {lan: {authentication: {hmac-sha-256: {key: a}, md5: {key: b}}}}}",
            "key 1 stands in 'md5' already",
        ),
        ("rip: {timers: {timeout: 30s}}", "routes would time out before they are heard again"),
        ("rip: {redistribute: [static, static]}", "'static' stands here twice"),
    ],
)
def test_what_does_not_fit_together(tmp_path, text, message) -> None:
    assert messages(tmp_path, text) == [message]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ra": "{prefixes: {10.0.0.0/24: {}}}"}, "10.0.0.0/24 is no IPv6 prefix"),
        ({"ra": "{dns-servers: [10.0.0.53]}"}, "10.0.0.53 is no IPv6 address"),
        ({"ra": "true", "leak": "true"}, None),
    ],
)
def test_interfaces(tmp_path, keys, message) -> None:
    assert messages(tmp_path, **keys) == ([] if message is None else [message])


def test_leaking_needs_a_patch_link(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("routers: {red: {interfaces: {lan: {device: eth1, leak: true, ra: true}}}}")
    assert sorted(error.message for error in load(tmp_path).errors) == [
        "'leak' needs a patch link",
        "the interface has no IPv6 address",
    ]


def test_what_operators_read() -> None:
    from tests.unit.datagram_world import World
    from tests.unit.test_leak import ALL, configure, pair, use
    from tests.unit.test_ra import start
    from tests.unit.test_rip import line

    world = World()
    nodes = line(world, 2)
    world.run(40)
    show = nodes[0].instance.show
    assert "3 routes, 1 neighbors on 3 interfaces" in cli.render_rip(show("summary", {}, world.now))
    assert "10.0.1.2" in cli.render_rip(show("neighbors", {}, world.now))
    assert "10.255.0.1/32" in cli.render_rip(show("routes", {}, world.now)["routes"])
    assert "networks only" in cli.render_rip(show("interfaces", {}, world.now))
    world, node = start()
    world.run(1)
    assert "2001:db8:a:1::/64" in cli.render_advertisements(node.instance.show("interfaces", {}, world.now))
    world = World()
    red, blue = pair(world)
    configure(red, **{"to-blue": ALL})
    configure(blue, **{"to-red": ALL})
    use(red, "10.1.0.0/16")
    world.run(8)
    assert "established" in cli.render_leaks(blue.instance.show("links", {}, world.now))
    assert "10.1.0.0/16" in cli.render_leaks(blue.instance.show("routes", {}, world.now)["routes"])
    assert cli.render_leaks([]) == cli.render_rip([]) == "nothing"
