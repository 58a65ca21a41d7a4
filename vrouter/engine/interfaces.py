"""What protocols are told of interfaces, made from the configuration and the links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from vrouter.config.router import Interface
from vrouter.engine.outputs import Root
from vrouter.proto.base import InterfaceState, OwnAddress


def states(root: Root, is_up: Callable[[Interface], bool], indices: Mapping[str, int]) -> dict[str, InterfaceState]:
    """Give the state of each interface by its name."""
    return {
        interface.name: InterfaceState(
            name=interface.name,
            up=is_up(interface),
            mtu=interface.mtu,
            addresses=tuple(
                OwnAddress(entry.address, entry.length, entry.link_local)
                for entry in root.addresses
                if entry.interface == interface.name
            ),
            loopback=interface.kind == "loopback",
            mac=interface.mac,
            index=indices.get(interface.name, 0),
        )
        for interface in root.interfaces
    }


def changes(told: Mapping[str, InterfaceState], present: Mapping[str, InterfaceState]) -> Iterator[InterfaceState]:
    """Give what one who was told something must be told now; what is gone is down and has no address."""
    for name in [name for name in told if name not in present]:
        yield InterfaceState(name, up=False)
    for name, state in present.items():
        if told.get(name) != state:
            yield state
