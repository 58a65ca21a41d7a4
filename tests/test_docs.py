"""What exists is written down: drop reasons, configuration keys, commands."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import typing
from pathlib import Path

import pytest

from fastpath.stats import DROP_REASONS
from manager.cli.main import find
from manager.cli.registry import COMMANDS
from tests.conftest import require_program
from vrouter.config.schema import Config

ROOT = Path(__file__).resolve().parent.parent


def _keys(cls: type) -> set[str]:
    """Give all keys that the schema knows, through maps and tuples of dataclasses."""
    found: set[str] = set()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        found.add(field.name.removesuffix("_").replace("_", "-"))
        pending = [hints[field.name]]
        while pending:
            hint = pending.pop()
            if dataclasses.is_dataclass(hint) and isinstance(hint, type):
                found |= _keys(hint)
            pending += [part for part in typing.get_args(hint) if part is not Ellipsis]
    return found


def test_every_drop_reason_is_documented() -> None:
    documented = set(re.findall(r"`([a-z0-9_]+)`", (ROOT / "docs" / "drops.md").read_text()))
    reasons = set(DROP_REASONS) - {"none"}
    assert reasons - documented == set()


def test_every_configuration_key_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    keys = _keys(Config)
    assert {"uid-range", "addresses", "via", "rules", "demo"} <= keys
    assert {
        key for key in keys if f"`{key}`" not in text and f"`{key}:" not in text and f".{key}`" not in text
    } == set()


@pytest.mark.parametrize("place", ["docs/cli.md", "man/vr.1"])
def test_every_command_is_documented(place: str) -> None:
    text = (ROOT / place).read_text().replace("\\", "")
    for command in COMMANDS:
        assert f"vr {command.name}" in text, f"{place} does not know vr {command.name}"
        for argument in command.arguments:
            if argument.is_option:
                assert argument.name.split()[0] in text, f"{place}: {command.name} {argument.name}"


def test_documents_know_no_command_that_does_not_exist() -> None:
    groups = {command.words[0] for command in COMMANDS if len(command.words) > 1}
    for place in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for words in re.findall(r"`vr ((?:[a-z]+(?:-[a-z]+)* ?)+)", place.read_text()):
            if words.strip() not in groups:
                assert find(words.split()) is not None, f"{place.name}: vr {words}"


def test_links_between_documents_lead_somewhere() -> None:
    for place in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", place.read_text()):
            assert (place.parent / target).exists(), f"{place.name} links to {target}"


@pytest.mark.parametrize("page", sorted(page.name for page in (ROOT / "man").iterdir()))
def test_manual_pages_render_without_complaint(page: str) -> None:
    groff = require_program("groff")
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", str(ROOT / "man" / page)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
