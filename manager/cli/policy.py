"""`vr show policy` and `vr explain policy`: what the router's control tells of its route policies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from manager.cli.ask import ask
from manager.cli.client import Manager
from manager.cli.errors import CliError, Exit
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from manager.cli.main import Request

_OPTIONS: Final = (
    "protocol",
    "as_path",
    "next_hop",
    "neighbor",
    "interface",
    "origin",
    "local_pref",
    "med",
    "metric",
    "tag",
)
_LISTS: Final = {"community": "communities", "large_community": "large", "extended_community": "extended"}


def policies(request: Request) -> Any:
    """Show the route policies that a router sees, or one of them."""
    return ask(request, "policy", "list", policy=request["policy"])


def explain(request: Request) -> Any:
    """Try a policy on a route that the arguments describe."""
    arguments = {"policy": request["policy"], "prefix": request["prefix"]}
    arguments |= {name: request[name] for name in _OPTIONS if request[name] is not None}
    arguments |= {field: request[name].split(",") for name, field in _LISTS.items() if request[name] is not None}
    router = request["router"] or _some_router(request)
    asked = replace(request, arguments=request.arguments | {"router": router})
    return ask(asked, "policy", "explain", **arguments)


def _some_router(request: Request) -> str:
    """Give a router that runs: what is shared is the same in all."""
    with Manager(request.run_dir) as manager:
        running = [router["name"] for router in manager.call(ManagerOp.ROUTERS) if router["state"] == "up"]
    if not running:
        raise CliError("no router runs that could be asked", "no-router", Exit.NEGATIVE)
    return str(min(running))


# --- as text ---


def render_policies(data: list[dict[str, Any]]) -> str:
    """Render `show policy`."""
    if not data:
        return "no route policies"
    lines = []
    for policy in data:
        lines.append(f"{policy['policy']}:")
        lines += (f"  {term['term']}: {_term(term)}" for term in policy["terms"])
    return "\n".join(lines)


def render_explain(data: dict[str, Any]) -> str:
    """Render `explain policy`."""
    lines = [f"route: {_pairs(data['route'])}"]
    for step in data["steps"]:
        if step["term"] is None:
            lines.append("end of the list: reject")
        elif step["matched"]:
            lines.append(f"{step['term']}: matches{_after(' ', step['does'])} -> {step['result']}")
        else:
            lines.append(f"{step['term']}: does not match, not {step['failed']}")
    if data["accept"]:
        lines.append(f"{data['policy']} accepts: {_pairs(data['result'])}")
        next_hop = data["changes"].get("next_hop")
        if next_hop in {"self", "peer", "discard"}:
            lines.append(f"next hop: {next_hop}")
    else:
        lines.append(f"{data['policy']} rejects")
    return "\n".join(lines)


def _term(term: dict[str, Any]) -> str:
    conditions = f"if {{{', '.join(term['conditions'])}}} " if term["conditions"] else ""
    return f"{conditions}then {', '.join([*term['does'], term['result']])}"


def _after(separator: str, items: list[str]) -> str:
    return f",{separator}{', '.join(items)}" if items else ""


def _pairs(route: dict[str, Any]) -> str:
    rest = (f"{key.replace('_', '-')} {_text(value)}" for key, value in route.items() if key != "prefix")
    return ", ".join([route["prefix"], *rest])


def _text(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
