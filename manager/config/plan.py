"""What applying a configuration would change, and what that disturbs.

Compared are typed values with defaults written out: another spelling of the same, or a default spelled
out, is no change.  A map entry that comes or goes is one change, whatever it holds.  A rename is
seen as one entry that goes and one that comes.

    ~ routers.red.interfaces.wan.mtu  9000 -> 1500  conf/vr/red.yaml:12  link (wan)
    + routers.green  conf/vr/green.yaml:1  start VR
    Plan: 1 router added, 1 changed, 0 removed. Sessions reset: 0. Apply? vr apply

Text is rendered from the plain data that also travels as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from manager.config.model import Field, Leaf, Map, Model, Sequence, Struct, Words, model
from vrouter.config.constraints import Duration, Span
from vrouter.config.option import Impact
from vrouter.config.schema import Config

if TYPE_CHECKING:
    from manager.config.merge import Marks

Action = Literal["add", "change", "remove"]
_SIGNS: Final = {"add": "+", "change": "~", "remove": "-"}
_PLAIN_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./-_:")
_RANKS: Final = {impact: rank for rank, impact in enumerate(Impact)}


@dataclass(frozen=True)
class Change:
    """One difference.  `old` and `new` are plain data as in YAML; None for what is not set."""

    action: Action
    path: tuple[str, ...]
    old: Any
    new: Any
    source: str  # "FILE:LINE"
    impact: Impact
    effect: str  # the impact in words
    router: str | None

    def as_data(self) -> dict[str, Any]:
        """Give plain data for JSON."""
        return {
            "action": self.action,
            "path": ".".join(self.path),
            "old": self.old,
            "new": self.new,
            "source": self.source,
            "impact": str(self.impact),
            "effect": self.effect,
            "router": self.router,
        }


@dataclass(frozen=True)
class Plan:
    """All differences between two configurations."""

    changes: tuple[Change, ...] = ()

    @property
    def empty(self) -> bool:
        """Tell whether applying would do nothing."""
        return not self.changes

    @property
    def impact(self) -> Impact:
        """Give the greatest impact among the changes."""
        return max((change.impact for change in self.changes), key=lambda impact: _RANKS[impact], default=Impact.NONE)

    def as_data(self) -> dict[str, Any]:
        """Give plain data for JSON."""
        whole = [change for change in self.changes if len(change.path) == 2 and change.path[0] == "routers"]
        return {
            "changes": [change.as_data() for change in self.changes],
            "routers_added": sum(change.action == "add" for change in whole),
            "routers_removed": sum(change.action == "remove" for change in whole),
            "changed": len(self.changes) - len(whole),
            "sessions_reset": sum(change.impact == Impact.SESSION for change in self.changes),
            "impact": str(self.impact),
            "empty": self.empty,
        }


def diff(old: Config | None, new: Config, marks: Marks | None = None) -> Plan:
    """Compare two configurations; without `old` everything is new.  `marks` are those of `new`."""
    return Plan(tuple(_Differ(marks).struct(model(), old or Config(), new, ())))


def render_plan(plan: dict[str, Any]) -> str:
    """Print a plan from its plain data."""
    lines = []
    for change in plan["changes"]:
        parts = [f"{_SIGNS[change['action']]} {change['path']}"]
        if change["action"] == "change":
            parts.append(f"{_flow(change['old'])} -> {_flow(change['new'])}")
        elif change["new"] is not None:
            parts.append(_flow(change["new"]))
        parts += [part for part in (change["source"], change["effect"]) if part]
        lines.append("  ".join(parts))
    if plan["empty"]:
        return "Plan: nothing to change.\n"
    added, removed = plan["routers_added"], plan["routers_removed"]
    lines.append(
        f"Plan: {added} router{'' if added == 1 else 's'} added, {plan['changed']} changed, {removed} removed. "
        f"Sessions reset: {plan['sessions_reset']}. Apply? vr apply"
    )
    return "\n".join(lines) + "\n"


class _Differ:
    """One comparison."""

    def __init__(self, marks: Marks | None) -> None:
        self._marks = marks

    def struct(self, described: Struct, old: Any, new: Any, path: tuple[str, ...]) -> Iterator[Change]:
        """Compare two dataclasses key by key."""
        for field in described.fields.values():
            before, after = getattr(old, field.name), getattr(new, field.name)
            here = (*path, field.key)
            if before == after or here == ("defaults",):
                continue  # defaults show where they take effect
            if isinstance(field.model, Struct) and before is not None and after is not None:
                yield from self.struct(field.model, before, after, here)
            elif isinstance(field.model, Map):
                yield from self._map(field, field.model, before, after, here)
            else:
                yield self._leaf(field, before, after, here)

    def _map(self, field: Field, described: Map, old: Any, new: Any, path: tuple[str, ...]) -> Iterator[Change]:
        for key in [*old, *(key for key in new if key not in old)]:
            here = (*path, key)
            if key not in new:
                yield self._entry("remove", field, described, old[key], here)
            elif key not in old:
                yield self._entry("add", field, described, new[key], here)
            elif isinstance(described.item, Struct):
                yield from self.struct(described.item, old[key], new[key], here)
            elif old[key] != new[key]:
                yield self._leaf(field, old[key], new[key], here, described.item)

    def _entry(self, action: Action, field: Field, described: Map, value: Any, path: tuple[str, ...]) -> Change:
        """Describe an entry of a map that comes or goes."""
        impact, effect = field.impact, str(field.impact)
        shown = plain(described.item, value)
        if path[:-1] == ("routers",):
            shown = None  # a router has files of its own to look at
            impact, effect = (Impact.LIVE, "start VR") if action == "add" else (Impact.VR_RESTART, "stop VR")
        elif path[-2] == "interfaces":
            impact, effect = Impact.LINK, f"link ({path[-1]})"
        old, new = (None, shown) if action == "add" else (shown, None)
        return Change(action, path, old, self._hidden(path, new), self._source(path), impact, effect, _router(path))

    def _leaf(self, field: Field, old: Any, new: Any, path: tuple[str, ...], described: Model | None = None) -> Change:
        before, after = plain(described or field.model, old), plain(described or field.model, new)
        action: Action = "add" if before is None else "remove" if after is None else "change"
        effect = str(field.impact)
        if field.impact is Impact.LINK and "interfaces" in path:
            effect = f"link ({path[path.index('interfaces') + 1]})"
        return Change(
            action, path, before, self._hidden(path, after), self._source(path), field.impact, effect, _router(path)
        )

    def _source(self, path: tuple[str, ...]) -> str:
        if self._marks is None:
            return ""
        inherited = ("defaults", path[-1])
        if not self._marks.has(path) and self._marks.has(inherited):
            return self._marks.source(inherited)
        return self._marks.source(path)

    def _hidden(self, path: tuple[str, ...], value: Any) -> Any:
        """Put a digest in the place of a secret."""
        if value is None or self._marks is None or not self._marks.secret(path):
            return value
        return "sha256:" + hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _router(path: tuple[str, ...]) -> str | None:
    return path[1] if len(path) > 1 and path[0] == "routers" else None


def plain(described: Model, value: Any) -> Any:
    """Give a typed value as plain data with YAML's keys; what equals its default is left out."""
    if value is None:
        return None
    match described:
        case Leaf(Span()):
            first, last = value
            return first if first == last else f"{first}-{last}"
        case Leaf(Duration()):
            return Duration.text(value)
        case Leaf() | Words():
            return value
        case Sequence():
            items = [plain(described.item, item) for item in value]
            return items[0] if described.one_or_many and len(items) == 1 else items
        case Map():
            return {key: plain(described.item, item) for key, item in value.items()}
        case Struct():
            fields = ((field, getattr(value, field.name)) for field in described.fields.values())
            return {
                field.key: plain(field.model, item) for field, item in fields if field.required or item != field.default
            }


def _flow(value: Any) -> str:
    """Print plain data as YAML in flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "-"
    text = str(value)
    return text if text and set(text) <= _PLAIN_WORD and text[-1] != ":" else json.dumps(text)
