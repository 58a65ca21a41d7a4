"""Configuration files made worse at random: never a traceback, every error has a place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager.config import diff, load, render
from manager.config.model import Map, Model, Sequence, Struct, model
from manager.config.plan import render_plan
from manager.config.validate import suggest

VALID = """\
# yaml-language-server: $schema=schema.json
version: 1
demo: false
uid-range: 1900000000-1900065535
defaults: {mtu: 1500}
routers:
  red:
    interfaces: &shared
      lo: {addresses: [10.255.0.1/32]}
      lan:
        device: eth1
        vlan: 100
        netns: lab
        addresses: [10.0.0.1/24, '2001:db8:a:1::1/64']
        mac: 02:00:00:00:00:01
        driver: auto
        force: false
      wan: {device: eth2, addresses: [192.0.2.2/30], mtu: 9000}
      to-blue: {patch: blue/to-red, addresses: [169.254.0.0/31]}
    static:
      0.0.0.0/0: {via: 192.0.2.1}
      '2001:db8::/32': {via: 'fe80::1', interface: lan}
      172.16.50.0/24: {discard: true}
      10.1.0.0/16:
      - {via: 10.0.0.2, weight: 2}
      - {via: 10.0.0.3}
    rsock:
      rules:
      - {app: uid:nobody, allow: [connect, listen], ports: [179, 1024-65535]}
      - app: gid:0
        allow: all
        prefixes:
        - 10.0.0.0/8
  blue:
    interfaces:
      lan: {device: eth1, vlan: 200, netns: lab, addresses: [10.0.0.1/24]}
      to-red: {patch: red/to-blue, addresses: [169.254.0.1/31]}
"""
PIECES = [
    *"\t\n\r :-,{}[]&*!|>'\"%@`#?~\0\x85\u2028\ufeff\U0001f600",
    "<<: *shared", "*shared", "&x", "!secret a", "!!python/object:os.system", "---\n", "...\n", "? ", ": ",
    "- ", "\n  ", "null", "0",
    "-1", "99999999999999999999", "1e9", "0x10", "10.0.0.0/8", "::/0", "fe80::1%lo/64", "red",
    "blue/to-red",
    "[" * 40, "{a: " * 40, "x" * 300,
]  # fmt: skip


def check(text: bytes, root: Path) -> None:
    """Load it; whatever it is, it is either right or wrong somewhere."""
    (root / "a.yaml").write_bytes(text)
    loaded = load(root)
    assert (loaded.config is None) == bool(loaded.errors)
    lines = text.split(b"\n")
    for error in loaded.errors:
        assert error.file == str(root / "a.yaml")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        assert error.length >= 1
        assert error.message
        assert error.message.isprintable()
        assert error.help.isprintable()
        assert "Error" not in error.message
        assert "pydantic" not in error.message
    for form in ("text", "json", "gcc"):
        render(loaded.errors, form)
    if loaded.config is not None:
        assert diff(loaded.config, loaded.config, loaded.marks).empty
        render_plan(diff(None, loaded.config, loaded.marks).as_data())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conf")


def test_the_valid_one_is_valid(root: Path) -> None:
    (root / "a.yaml").write_text(VALID)
    assert render(load(root).errors) == ""


edits = st.lists(
    st.tuples(
        st.integers(0, len(VALID)), st.integers(0, 12), st.one_of(st.sampled_from(PIECES), st.text(max_size=4))
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip
quick = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(edits=edits)
def test_edits(root: Path, edits: list[tuple[int, int, str]]) -> None:
    text = VALID
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    check(text.encode(errors="surrogatepass"), root)


@quick
@given(order=st.lists(st.integers(0, VALID.count("\n") - 1), max_size=60))
def test_lines_in_any_order(root: Path, order: list[int]) -> None:
    lines = VALID.splitlines(keepends=True)
    check("".join(lines[number] for number in order).encode(), root)


@quick
@given(data=st.binary(max_size=200))
def test_bytes(root: Path, data: bytes) -> None:
    check(data, root)


scalars = st.one_of(st.none(), st.sampled_from(PIECES), st.text(max_size=8), st.integers().map(str))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.sampled_from(["via", "lan", "10.0.0.0/8", "mtu", "rules"]), st.text(max_size=5)),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


def flow(tree: object) -> str:
    """Write a tree so that YAML reads it back."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(flow, tree)) + "]"
    if tree is None:
        return "~"
    return '"' + "".join(f"\\U{ord(character):08x}" for character in str(tree)) + '"'


@quick
@given(
    where=st.sampled_from(["version", "uid-range", "defaults", "routers", "red", "interfaces", "static", "rsock"]),
    tree=trees,
)
def test_any_shape_anywhere(root: Path, where: str, tree: object) -> None:
    text = f"{where}: {flow(tree)}\n"
    if where == "red":
        text = f"routers: {{red: {flow(tree)}}}\n"
    elif where in {"interfaces", "static", "rsock"}:
        text = f"routers: {{red: {{interfaces: {{lan: {{device: e}}}}, {where}: {flow(tree)}}}}}\n".replace(
            "interfaces: {lan: {device: e}}, interfaces", "interfaces"
        )
    check(text.encode(errors="surrogatepass"), root)


def keys(described: Model) -> set[frozenset[str]]:
    """Give the keys of each struct."""
    if isinstance(described, Struct):
        found = {frozenset(described.fields)}
        for field in described.fields.values():
            found |= keys(field.model)
        return found
    return keys(described.item) if isinstance(described, Map | Sequence) else set()


def misspellings(word: str, chance: random.Random) -> set[str]:
    """Give some words that are one slip of a finger away."""
    letters = "abcdefghijklmnopqrstuvwxyz-_"
    found = set()
    for at in range(len(word)):
        found.add(word[:at] + word[at + 1 :])
        found.add(word[:at] + word[at] + word[at:])
        found.add(word[: max(at - 1, 0)] + word[at : at + 1] + word[max(at - 1, 0) : at] + word[at + 1 :])
        for letter in chance.sample(letters, 8):
            found.add(word[:at] + letter + word[at + 1 :])
            found.add(word[:at] + letter + word[at:])
    return found - {word, ""}


def test_of_keys_with_one_typo_nearly_all_are_recognized() -> None:
    chance = random.Random(7)
    total = right = 0
    for siblings in keys(model()):
        for key in sorted(siblings):
            for wrong in sorted(misspellings(key, chance) - siblings):
                total += 1
                right += key in suggest(wrong, sorted(siblings))
    print(f"{right} of {total} misspelled keys recognized: {right / total:.1%}")
    assert total > 1000
    assert right / total >= 0.95
