"""What is generated from the schema is what stands in the tree, and agrees with the validator."""

from __future__ import annotations

import json

import pytest

from fastpath._layout import CONSTANTS
from manager.config import schema_export
from manager.config.model import Leaf, Map, Model, Sequence, Struct, model
from vrouter.config import constraints, dataplane
from vrouter.config.option import Impact


def test_schema_file_is_current() -> None:
    assert schema_export.SCHEMA_FILE.read_text() == json.dumps(schema_export.json_schema(), indent=2) + "\n"


def test_reference_page_is_current() -> None:
    assert schema_export.PAGE_FILE.read_text() == schema_export.page()


def test_check_tells_what_is_stale(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert schema_export.main(["--check"]) == 0
    monkeypatch.setattr(schema_export, "SCHEMA_FILE", tmp_path / "deep" / "schema.json")
    assert schema_export.main(["--check"]) == 1
    assert "schema.json is out of date" in capsys.readouterr().err
    assert schema_export.main([]) == 0
    assert schema_export.main(["--check"]) == 0


def structs(described: Model):
    if isinstance(described, Struct):
        yield described
        for field in described.fields.values():
            yield from structs(field.model)
    elif isinstance(described, Map | Sequence):
        yield from structs(described.item)


def test_every_option_has_help_and_impact() -> None:
    for struct in structs(model()):
        for field in struct.fields.values():
            assert field.help.endswith("."), field.key
            assert isinstance(field.impact, Impact)
            assert f"| `{field.key}` |" in schema_export.page()


def test_examples_are_valid() -> None:
    for struct in structs(model()):
        for field in struct.fields.values():
            if field.example and isinstance(field.model, Leaf):
                field.model.constraint.parse(field.example)


def test_limits_are_those_of_the_abi() -> None:
    pairs = {
        "MAX_ROUTER_INTERFACES": CONSTANTS["MAX_INTERFACES"] - 1,
        "MAX_ROUTER_ADDRESSES": CONSTANTS["MAX_ADDRESSES"],
        "MAX_ROUTER_PORTS": CONSTANTS["MAX_PORTS"] - 1,
        "MAX_HOPS": CONSTANTS["MAX_GROUP_HOPS"],
        "MAX_RULES": CONSTANTS["MAX_RULES"] - 1,
        "MAX_RULE_PORTS": CONSTANTS["MAX_RULE_PORTS"],
        "MAX_RULE_PREFIXES": CONSTANTS["MAX_RULE_PREFIXES"],
        "MAX_NAME": CONSTANTS["INTERFACE_NAME_SIZE"] - 1,
    }
    assert {name: getattr(constraints, name) for name in pairs} == pairs
    assert CONSTANTS["ROUTER_NAME_SIZE"] == CONSTANTS["INTERFACE_NAME_SIZE"]
    assert CONSTANTS["MAX_WORKERS"] == dataplane.MAX_WORKERS


def test_the_schema_describes_a_list_of_rules() -> None:
    properties = schema_export.json_schema()["properties"]["routers"]["additionalProperties"]["properties"]
    rule = properties["rsock"]["properties"]["rules"]["items"]
    assert rule["required"] == ["app", "allow"]
    assert rule["properties"]["allow"]["anyOf"][0] == {"const": "all"}
    assert properties["interfaces"]["additionalProperties"]["properties"]["mtu"]["x-impact"] == "link"
