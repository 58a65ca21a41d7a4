"""Every kind of error in a configuration, as it is printed."""

from __future__ import annotations

import ipaddress
import json
import textwrap
from pathlib import Path

import pytest

from manager.config import load, render
from manager.config.errors import MAX_ERRORS


def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> str:
    conf = tmp_path / "conf"
    conf.mkdir(exist_ok=True)
    (conf / "red.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    monkeypatch.chdir(tmp_path)
    loaded = load("conf")
    assert (loaded.config is None) == bool(loaded.errors)
    return render(loaded.errors)


def red(*lines: str) -> str:
    return "routers:\n  red:\n" + "".join(f"    {line}\n" for line in lines)


LAN = "interfaces: {lan: {device: eth1, addresses: [10.0.0.1/24]}}"

WHOLE = [
    pytest.param(
        red("interfaces:", "  lan:", "    device: eth1", "    addreses: [10.0.0.1/24]"),
        """\
conf/red.yaml:6:9: error: unknown key 'addreses'
      6 |         addreses: [10.0.0.1/24]
        |         ^^^^^^^^
        = help: did you mean 'addresses'? allowed here: device, netns, vlan, addresses, mtu, mac, driver, offload, pcap, gro, force, patch, acl, rpf, dscp, police, ra, leak
""",  # noqa: E501 - a line as it is shown
        id="unknown-key",
    ),
    pytest.param(
        red("static:", "  10.0.0.0/8: {discard: true}", "  10.0.0.0/8: {discard: true}"),
        """\
conf/red.yaml:5:7: error: duplicate key '10.0.0.0/8' (first at line 4)
      5 |       10.0.0.0/8: {discard: true}
        |       ^^^^^^^^^^
""",
        id="duplicate-key",
    ),
    pytest.param(
        red("static: {10.9.1.0/8: {discard: true}}"),
        """\
conf/red.yaml:3:14: error: the prefix 10.9.1.0/8 has host bits set
      3 |     static: {10.9.1.0/8: {discard: true}}
        |              ^^^^^^^^^^
        = help: write 10.0.0.0/8
""",
        id="host-bits",
    ),
    pytest.param(
        red(LAN, "static: {0.0.0.0/0: {via: 10.0.0.2, interface: lna}}"),
        """\
conf/red.yaml:4:52: error: no interface 'lna'
      4 |     static: {0.0.0.0/0: {via: 10.0.0.2, interface: lna}}
        |                                                    ^^^
        = help: did you mean 'lan'? interfaces here: lan
""",
        id="unknown-interface",
    ),
    pytest.param(
        "routers:\n\tred: {}\n",
        """\
conf/red.yaml:2:1: error: a tab indents this line
      2 |  red: {}
        | ^
        = help: indent with spaces
""",
        id="tab",
    ),
    pytest.param(
        "routers: {red: {interfaces: {" + "x" * 200 + ": {}, lan: {mtu: 1}}}}\n",
        f"""\
conf/red.yaml:1:30: error: the interface name '{"x" * 60}...' has 200 characters
      1 | routers: {{red: {{interfaces: {{{"x" * 131}
        |                              {"^" * 131}
        = help: at most 31 are allowed
conf/red.yaml:1:247: error: 1 is not within 68 to 65535
      1 | {"x" * 63}: {{}}, lan: {{mtu: 1}}}}}}}}
        | {" " * 80}^
""",
        id="long-line",
    ),
]


@pytest.mark.parametrize(("text", "expected"), WHOLE)
def test_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    assert printed(tmp_path, monkeypatch, text) == expected


# What stands after "conf/red.yaml:" in the first line of each error, and its help.
KINDS = [
    # The file
    ("version: 1\n---\nversion: 1\n", ["2:1: error: a second document begins here"]),
    (b"version: 1\0\n", ["1:11: error: the character NUL is not allowed here"]),
    (b"version: 1\n# \x85\n", ["2:3: error: the byte 0x85 is not UTF-8"]),
    ("version: 1\n# \x85\n", ["2:3: error: the character U+0085 is not allowed here"]),
    ("version: 1\rdemo: true\n", ["1:11: error: the character U+000D is not allowed here"]),
    ("\ufeffversion: 1\n", ["1:1: error: the file begins with a byte order mark"]),
    ("- version\n", ["1:1: error: a map is expected here"]),
    ("a: " + "[" * 40 + "]" * 40, ["1:35: error: nested deeper than 32 levels"]),
    ("routers: {red: {\n", ["1:17: error: not YAML: did not find expected node content"]),
    (red("static: {}") + "   rsock: {}\n", ["4:4: error: this does not fit the lines before it"]),
    ('version: "1\n', ["1:12: error: the file ends within a value"]),
    # Tags, anchors, aliases, keys
    ("version: !!int 1\n", ["1:10: error: the tag 'tag:yaml.org,2002:int' is not allowed"]),
    ("routers: !!map {}\n", ["1:10: error: the tag 'tag:yaml.org,2002:map' is not allowed"]),
    ("version: !secret ../a\n", ["1:10: error: '../a' is no name of a secret"]),
    ("version: !secret nix\n", ["1:10: error: conf/secrets/nix: No such file or directory"]),
    ("routers:\n  red: *nope\n", ["2:8: error: no anchor '&nope' stands before this alias"]),
    ("routers: &r\n  red: *r\n", ["2:8: error: an alias cannot stand within what it names"]),
    ("routers:\n  red: &r {}\n  blue:\n    <<: *r\n", ["4:5: error: merge keys ('<<') are not supported"]),
    ("routers: {? [a] : b}\n", ["1:13: error: a key must be a word"]),
    ("routers: {~: {}}\n", ["1:11: error: a key is empty"]),
    ("routers: {!x red: {}}\n", ["1:11: error: a key takes neither tag nor anchor"]),
    # Shapes
    ("routers: [red]\n", ["1:10: error: a map is expected here"]),
    ("routers: {red: hello}\n", ["1:16: error: a map is expected here"]),
    (red("static: {10.0.0.0/8: {discard: true, bfd: maybe}}"), ["3:47: error: 'maybe' is not allowed here"]),
    ("version: [1]\n", ["1:10: error: one value is expected here, not a list"]),
    ("version:\n", ["1:1: error: a value is missing"]),
    (red("interfaces: {lan: {device: eth1, addresses: 10.0.0.1/24}}"), ["3:49: error: a list is expected here"]),
    (red("rsock: {rules: [{app: uid:0}]}"), ["3:21: error: 'allow' is missing"]),
    (red("rsock: {rules: [{app: uid:0, alow: all}]}"), ["3:34: error: unknown key 'alow'"]),
    (red("rsock: {rules: [{app: uid:0, allow: udp}]}"), ["3:41: error: a list or 'all' is expected here"]),
    (red("static: {10.0.0.0/8: word}"), ["3:26: error: a map, or a list of maps, is expected here"]),
    (
        red("rsock: {rules: [{app: uid:0, allow: all, ports: [" + ", ".join(map(str, range(17))) + "]}]}"),
        ["3:53: error: the list has 17 items"],
    ),
    # Values
    ("version: 2\n", ["1:10: error: 2 is not 1, the only one allowed"]),
    ("version: 01\n", ["1:10: error: '01' is not a number"]),
    ("demo: yes\n", ["1:7: error: 'yes' is neither true nor false"]),
    ("uid-range: 70000-60000\n", ["1:12: error: the range 70000-60000 ends before it begins"]),
    ("uid-range: 5-6\n", ["1:12: error: 5 is not within 1000 to 4294967294"]),
    ("routers: {Red_1: {}}\n", ["1:11: error: 'Red_1' is no router name"]),
    (red("interfaces: {lan: {device: a/b}}"), ["3:32: error: 'a/b' is no device name"]),
    (
        red("interfaces: {lan: {device: abcdefghijklmnop}}"),
        ["3:32: error: the device name 'abcdefghijklmnop' is too long"],
    ),
    (red("interfaces: {lan: {device: a, netns: ..}}"), ["3:42: error: '..' is no namespace name"]),
    (red("interfaces: {lan: {device: a, driver: dpdk}}"), ["3:43: error: 'dpdk' is not allowed here"]),
    (red("interfaces: {lan: {device: a, mac: 1:2:3}}"), ["3:40: error: '1:2:3' is not a MAC address"]),
    (
        red("interfaces: {lan: {device: a, mac: '01:00:00:00:00:01'}}"),
        ["3:40: error: 01:00:00:00:00:01 is a group address"],
    ),
    (
        red("interfaces: {lan: {device: a, mac: '00:00:00:00:00:00'}}"),
        ["3:40: error: 00:00:00:00:00:00 is no address of an interface"],
    ),
    (red("interfaces: {lan: {patch: blue}}"), ["3:31: error: 'blue' names no interface of a router"]),
    (red("rsock: {rules: [{app: root, allow: all}]}"), ["3:27: error: 'root' names no app"]),
    (red("rsock: {rules: [{app: 'curve:abc', allow: all}]}"), ["3:27: error: this is no CURVE public key"]),
    (red("rsock: {rules: [{app: 'uid:a b', allow: all}]}"), ["3:27: error: 'a b' is no name of a user"]),
    (red("rsock: {rules: [{app: uid:0, allow: [upd]}]}"), ["3:42: error: 'upd' is not allowed here"]),
    (
        red("rsock: {rules: [{app: uid:0, allow: all, ports: [65536]}]}"),
        ["3:54: error: 65536 is not within 0 to 65535"],
    ),
    (
        red("rsock: {rules: [{app: uid:0, allow: all, prefixes: [10.0.0.1]}]}"),
        ["3:57: error: '10.0.0.1' has no prefix length"],
    ),
    (
        red("static: {'2001:DB8::/32': {discard: true}, '2001:db8::/32': {discard: true}}"),
        ["3:48: error: '2001:db8::/32' is the same as '2001:DB8::/32'"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), KINDS)
def test_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, expected: list[str]) -> None:
    lines = [line for line in printed(tmp_path, monkeypatch, text).splitlines() if line.startswith("conf/")]
    assert lines == [f"conf/red.yaml:{line}" for line in expected]


ADDRESSES = [
    ("10.0.0.0/24", "10.0.0.0/24 is the network address of 10.0.0.0/24"),
    ("10.0.0.255/24", "10.0.0.255/24 is the broadcast address of 10.0.0.0/24"),
    ("10.0.0.1", "'10.0.0.1' has no prefix length"),
    ("010.0.0.1/8", "'010.0.0.1' is not an IP address"),
    ("300.1.1.1/8", "'300.1.1.1' is not an IP address"),
    ("10.0.0.1/33", "'/33' is not a prefix length"),
    ("10.0.0.1/255.0.0.0", "'/255.0.0.0' is not a prefix length"),
    ("224.0.0.1/24", "224.0.0.1 is a multicast address"),
    ("0.0.0.0/0", "0.0.0.0 is the unspecified address"),
    ("0.1.2.3/8", "0.1.2.3 is in a reserved block"),
    ("240.0.0.1/8", "240.0.0.1 is in a reserved block"),
    ("127.0.0.1/8", "127.0.0.1 is a loopback address of hosts"),
    ("::1/128", "::1 is a loopback address of hosts"),
    ("::/0", ":: is the unspecified address"),
    ("ff02::1/64", "ff02::1 is a multicast address"),
    ("::ffff:10.0.0.1/128", f"{ipaddress.ip_address('::ffff:10.0.0.1')} is an IPv4-mapped address"),
    ("fe80::1%eth0/64", "'fe80::1%eth0' has a scope"),
    ("x", "'x' is not an IP address"),
]


@pytest.mark.parametrize(("address", "message"), ADDRESSES)
def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str) -> None:
    text = red(f"interfaces: {{lan: {{device: eth1, addresses: ['{address}']}}}}")
    assert printed(tmp_path, monkeypatch, text).splitlines()[0] == f"conf/red.yaml:3:50: error: {message}"


@pytest.mark.parametrize("address", ["10.0.0.0/31", "10.0.0.1/31", "10.0.0.0/32", "2001:db8::/64", "2001:db8::/127"])
def test_addresses_that_look_odd_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert printed(tmp_path, monkeypatch, red(f"interfaces: {{lan: {{device: e, addresses: ['{address}']}}}}")) == ""


def test_what_yaml_would_take_for_something_else_stays_text(tmp_path: Path) -> None:
    text = red("interfaces: {on: {device: no, mac: 10:20:30:40:50:10, addresses: [10.0.0.1/24]}, '010': {device: 0x1}}")
    (tmp_path / "a.yaml").write_text(text)
    loaded = load(tmp_path)
    assert loaded.errors == []
    assert loaded.config is not None
    interfaces = loaded.config.routers["red"].interfaces
    assert list(interfaces) == ["on", "010"]
    assert (interfaces["on"].device, interfaces["on"].mac) == ("no", "10:20:30:40:50:10")
    assert interfaces["010"].device == "0x1"


def test_all_errors_come_at_once_sorted(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("routers:\n  b: {interfaces: {x: {mtu: a}}}\n  c: {patch: q}\n")
    (tmp_path / "a.yaml").write_text("demo: 7\nversion: 3\n")
    errors = load(tmp_path).errors
    places = [(Path(error.file).name, error.line, error.column) for error in errors]
    assert places == [("a.yaml", 1, 7), ("a.yaml", 2, 10), ("b.yaml", 2, 29), ("b.yaml", 3, 7)]


def test_a_router_without_errors_is_cross_checked_beside_a_bad_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "routers:\n"
        "  bad: {interfaces: {x: {patch: good/x, mtu: a}}}\n"
        "  good:\n"
        "    interfaces: {x: {patch: bad/x}}\n"
        "    static: {10.0.0.0/8: {via: 192.0.2.1}}\n"
    )
    assert [error.line for error in load(tmp_path).errors] == [2, 5]


def test_a_flood_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("".join(f"key{number}: 1\n" for number in range(1000)))
    errors = load(tmp_path).errors
    assert len(errors) == MAX_ERRORS + 1
    assert errors[-1].message == f"{1000 - MAX_ERRORS} more errors from here on"


def test_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed(tmp_path, monkeypatch, "demo: yes\n")
    errors = load("conf").errors
    assert render(errors, "gcc") == "conf/red.yaml:1:7: error: 'yes' is neither true nor false\n"
    assert json.loads(render(errors, "json")) == [
        {
            "file": "conf/red.yaml",
            "line": 1,
            "column": 7,
            "severity": "error",
            "message": "'yes' is neither true nor false",
            "help": "write 'true'",
        }
    ]


def test_wide_characters_keep_the_caret_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(tmp_path, monkeypatch, "{'\u6771\u4eac': 1, demo: yes}\n").splitlines()
    assert lines[2].index("^") == len("        | ") + 1
    assert lines[2].count("^") == 6  # two quotes, and two characters of two cells
    assert lines[6].index("^") == lines[5].index("yes") + 2


def test_one_error_does_not_hide_another(tmp_path: Path) -> None:
    """What is wrong in one part is said beside what does not fit in the others, without echoes of either."""
    text = """
        routers:
          red:
            interfaces:
              lan: {device: eth0, addreses: [10.0.0.1/24]}
              wan: {device: eth1, addresses: [192.0.2.1/24]}
              to-blue: {patch: blue/to-red, mtu: 1}
            static:
              198.51.100.0/24: {via: 10.0.0.2}
              198.51.101.0/24: {interface: lan}
              198.51.102.0/24: {interface: lna}
              198.51.103.0/24: {via: 192.0.2.2, discard: true}
            rsock: {rules: [{app: uid:no-such-user, allow: [udp, fly]}, {app: nobody, allow: []}]}
          blue:
            interfaces:
              to-red: {patch: red/to-blue, addresses: [169.254.0.1/31]}
              to-rde: {patch: red/to-bleu}
              eth: {device: eth1, addresses: [10.0.0.1/24]}
    """
    (tmp_path / "a.yaml").write_text(textwrap.dedent(text).lstrip())
    found = [(error.line, error.message) for error in load(tmp_path).errors]
    assert [line for line, _message in found] == [4, 6, 10, 11, 12, 12, 12, 12, 16, 17]
    assert [message for line, message in found if line == 10] == ["no interface 'lna'"]
    messages = [message for line, message in found if line == 12]
    assert any("no user 'no-such-user'" in message for message in messages)
    assert any("'fly' is not allowed here" in message for message in messages)
