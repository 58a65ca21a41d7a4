"""`vr show acl`, `show filters`, `show counters`, `explain acl`: from the segments, and from control's own twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastpath import filters, stats
from fastpath.interfaces import names
from manager.cli.ask import ask, clear
from manager.cli.errors import CliError, Exit
from manager.cli.render import table
from manager.cli.segments import open_segments
from manager.cli.words import unknown
from vrouter.config.dscp import dscp_text

if TYPE_CHECKING:
    from fastpath.segment import Segment
    from manager.cli.main import Request

_OPTIONS: Final = (
    "source", "destination", "protocol", "source_port", "destination_port", "icmp_type", "tcp_flags", "dscp",
    "fragment",
)  # fmt: skip
_END: Final = "end of the list: deny"
_NUMBERS: Final = ("ENTRY", "PACKETS", "BYTES")


def lists(request: Request) -> list[dict[str, Any]]:
    """Show the lists that interfaces have, or one of them."""
    wanted = request["acl"]
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        found, called = filters.published(tables), names(tables)
        known = [each.name for each in found.lists]
        if wanted is not None and wanted not in known:
            raise CliError(unknown("list bound to an interface", wanted, known), "no-acl", Exit.NEGATIVE)
        return [_list(each, found, called, state) for each in found.lists if wanted in {None, each.name}]


def _list(each: filters.List, found: filters.Filters, called: dict[int, str], state: Segment) -> dict[str, Any]:
    counted = filters.counts(state, each.entries)
    bound = [
        {"interface": called.get(binding.interface, f"#{binding.interface}"), "direction": direction}
        for binding in found.bindings
        for direction, name in (("in", binding.acl_in), ("out", binding.acl_out))
        if name == each.name
    ]
    entries = [
        {"entry": number, "text": entry.text, "action": entry.action, "packets": count.packets, "bytes": count.bytes}
        for number, (entry, count) in enumerate(zip(each.entries[:-1], counted[:-1], strict=True), 1)
    ]
    end = {"packets": counted[-1].packets, "bytes": counted[-1].bytes}
    return {"acl": each.name, "bound": bound, "entries": entries, "end": end}


def bindings(request: Request) -> list[dict[str, Any]]:
    """Show what each interface has."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        called = names(tables)
        return [_binding(each, called, state) for each in filters.published(tables).bindings]


def _binding(each: filters.Binding, called: dict[int, str], state: Segment) -> dict[str, Any]:
    drops = stats.interface_counters(state, each.interface)["drops"]
    return {
        "interface": called.get(each.interface, f"#{each.interface}"),
        "acl": {"in": each.acl_in, "out": each.acl_out},
        "rpf": each.rpf,
        "allow_default": each.rpf_default if each.rpf != "off" else None,
        "dscp": {"in": _changes(each.dscp_in), "out": _changes(each.dscp_out)},
        "drops": {reason: drops.get(reason, 0) for reason in ("acl_in", "acl_out", "rpf")},
    }


def _changes(codes: bytes) -> dict[str, str]:
    return {dscp_text(before): dscp_text(after) for before, after in enumerate(codes) if before != after}


def counters(request: Request) -> list[dict[str, Any]]:
    """Show the counted prefixes."""
    with open_segments(request.run_dir, request["router"]) as (tables, state):
        entries = filters.published(tables).prefixes
        counted = filters.counts(state, entries)
        return [
            {"prefix": entry.text, "packets": count.packets, "bytes": count.bytes}
            for entry, count in zip(entries, counted, strict=True)
        ]


def clear_hits(request: Request) -> dict[str, Any]:
    """Have a list count from 0."""
    return clear(request, "acl", "hits", acl=request["acl"])


def explain(request: Request) -> Any:
    """Try a list on a packet that the arguments describe."""
    given = {name: request[name] for name in _OPTIONS if request[name] is not None}
    return ask(request, "acl", "explain", acl=request["acl"], **given)


# --- as text ---


def render_lists(data: list[dict[str, Any]]) -> str:
    """Render `show acl`."""
    if not data:
        return "no interface has an access control list"
    parts = []
    for each in data:
        places = ", ".join(f"{bound['interface']} {bound['direction']}" for bound in each["bound"])
        rows = [[str(it["entry"]), str(it["packets"]), str(it["bytes"]), it["text"]] for it in each["entries"]]
        rows.append(["", str(each["end"]["packets"]), str(each["end"]["bytes"]), _END])
        parts.append(f"{each['acl']} ({places}):\n" + table(["ENTRY", "PACKETS", "BYTES", "WHAT"], rows, _NUMBERS))
    return "\n\n".join(parts)


def render_bindings(data: list[dict[str, Any]]) -> str:
    """Render `show filters`."""
    if not data:
        return "no interface has a filter"
    rows = []
    for each in data:
        rpf = each["rpf"]
        if each["allow_default"] is not None:
            rpf += " (default route counts)" if each["allow_default"] else " (default route does not count)"
        marks = [f"{way}: {_marks(each['dscp'][way])}" for way in ("in", "out") if each["dscp"][way]]
        dropped = [f"{reason} {count}" for reason, count in each["drops"].items() if count]
        rows.append([
            each["interface"], each["acl"]["in"] or "-", each["acl"]["out"] or "-", rpf, "; ".join(marks) or "-",
            ", ".join(dropped) or "-",
        ])  # fmt: skip
    return table(["INTERFACE", "ACL IN", "ACL OUT", "RPF", "DSCP", "DROPS"], rows)


def _marks(changes: dict[str, str]) -> str:
    common = max(set(changes.values()), key=list(changes.values()).count)
    several = list(changes.values()).count(common) > len(changes) // 2 > 1
    shown = [f"{before}={after}" for before, after in changes.items() if not several or after != common]
    return " ".join([*shown, *([f"others {common}"] if several else [])])


def render_counters(data: list[dict[str, Any]]) -> str:
    """Render `show counters`."""
    if not data:
        return "no prefix is counted"
    rows = [[each["prefix"], str(each["packets"]), str(each["bytes"])] for each in data]
    return table(["PREFIX", "PACKETS", "BYTES"], rows, _NUMBERS)


def render_explain(data: dict[str, Any]) -> str:
    """Render `explain acl`."""
    lines = []
    for step in data["steps"]:
        outcome = "matches" if step["matches"] else f"no: {step['failed']}"
        lines.append(f"{step['entry']:>5}  {step['text']}  -> {outcome}")
    if data["entry"] is None:
        lines.append("end of the list: " + (
            "neighbor discovery passes" if data["action"] == "permit" else "deny"
        ))  # fmt: skip
    else:
        mark = f", marked {data['set_dscp']}" if data["set_dscp"] else ""
        lines.append(f"{data['acl']}: {data['action']} by entry {data['entry']}{mark}")
    return "\n".join(lines)
