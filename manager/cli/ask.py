"""Questions to a router's control, by the manager: what its protocols know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from manager.cli.client import Manager
from manager.cli.errors import CliError
from manager.cli.segments import check_router
from vrouter.api.messages import ManagerOp

if TYPE_CHECKING:
    from manager.cli.main import Request

PATIENCE: Final = 10.0  # seconds: a control may just be at work on something large
PAGE: Final = 1000


def ask(request: Request, instance: str, query: str, **arguments: Any) -> Any:
    """Show what a protocol of the router `request["router"]` knows."""
    return _call(request, ManagerOp.SHOW, instance, query, arguments)


def clear(request: Request, instance: str, query: str, **arguments: Any) -> dict[str, Any]:
    """Have a protocol of a router do something."""
    _call(request, ManagerOp.CLEAR, instance, query, arguments)
    return {"router": request["router"], "protocol": instance, "cleared": query, **arguments}


def render_clear(data: dict[str, Any]) -> str:
    """Render what was cleared."""
    given = " ".join(
        str(value) for key, value in data.items() if key not in {"router", "protocol", "cleared"} and value
    )
    return f"{data['protocol']} of {data['router']}: {data['cleared']} {given}".rstrip() + " cleared"


def pages(request: Request, instance: str, query: str, key: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Give the rows of a large answer: each page is {key: rows, "after": what the next one is asked with, or None}."""
    after: Any = None
    while True:
        page = ask(request, instance, query, **arguments, after=after, limit=PAGE)
        yield from page[key]
        after = page["after"]
        if after is None:
            return


def _call(request: Request, op: ManagerOp, instance: str, query: str, arguments: dict[str, Any]) -> Any:
    name = request["router"]
    with Manager(request.run_dir) as manager:
        try:
            return manager.call(op, PATIENCE, name=name, instance=instance, query=query, arguments=arguments)
        except CliError:
            check_router(request.run_dir, name)  # a mistyped name gets the nearest one
            raise
