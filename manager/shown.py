"""How a VR is told of: its line of routers.json and of `vr -j show routers`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manager.unit import Unit


def describe(unit: Unit) -> dict[str, Any]:
    """Describe a VR as in `vr -j show routers`, and a little more for adoption."""
    resources = unit.resources
    return {
        "name": unit.name,
        "state": str(unit.state),
        "id": unit.id,
        "pids": {"forwarder": unit.forwarder.pid, "control": unit.control.pid},
        "restarts": unit.restarts,
        "netns": resources.netns if resources else None,
        "uid": resources.uid if resources else None,
        "interfaces": dict(_interfaces(unit)),
    }


def _interfaces(unit: Unit) -> Iterator[tuple[str, dict[str, Any]]]:
    """Describe the interfaces for routers.json."""
    for interface in unit.plan.interfaces:
        port = unit.ports.get(interface.port) if interface.port else None
        plan = unit.plan.ports[interface.port] if interface.port else None
        yield (
            interface.name,
            {
                "device": (plan.device or plan.peer) if plan else None,
                "netns": plan.netns if plan else None,
                "driver": port.driver if port else "loopback" if plan is None else None,
                "driver_reason": port.why if port else "",
                "queues": port.queue_count if port else 0,
                "port": port.id if port else 0,
                "key": interface.port,
                "link": bool(port and port.present and port.link_up) if plan else True,
                "problem": port.problem if port else "",
                "offload": unit.offload_told(port) if interface.port in unit.plan.offloaded else "",
                "offload_kind": unit.plan.offloaded.get(interface.port or "", ""),
            },
        )
