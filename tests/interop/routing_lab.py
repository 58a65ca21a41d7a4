"""Virtual routers of a real manager between foreign daemons, each of them in a namespace of its own.

    with RoutingLab() as lab:
        lab.router("red", bgp={"asn": 65001, "neighbors": {"10.99.1.2": {"remote-as": 65002}}})
        lab.link("red", "wan", ["10.99.1.1/24"], "frr", ["10.99.1.2/24"])
        lab.start()
        frr = lab.run(Frr(lab["frr"], CONFIG))
        eventually(lambda: frr.json("show bgp summary json")["ipv4Unicast"]["peers"], 15, "a session")
        lab.routers["red"]["bgp"]["neighbors"]["10.99.1.2"]["hold-time"] = "30s"
        lab.apply()

A link joins an interface of a router to a device of the same name in the peer's namespace; `segment` makes an
Ethernet (a bridge) for several routers and peers.  Addresses are as everywhere: `10.0.0.1/24`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from lab import Lab, Namespace
from peers import Peers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers import AnyPeer


class RoutingLab(Lab):
    """A lab with routers, peers and the links between them; see the module."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.routers: dict[str, dict[str, Any]] = {}
        self.top: dict[str, Any] = {}  # keys of the top level: policy, defaults, ...
        self._peers = Peers()

    def __enter__(self) -> Self:
        """Make the namespace of the daemon."""
        super().__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Stop the peers, then everything else."""
        try:
            self._peers.__exit__(kind, None, None)
        finally:
            super().__exit__(kind, *rest)

    def __getitem__(self, name: str) -> Namespace:
        """Give the namespace of a peer; it is made when it is asked for first, and forwards as a router does."""
        if name not in self.namespaces:
            made = self.namespace(name)
            made.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        return self.namespaces[name]

    def router(self, name: str, **keys: Any) -> dict[str, Any]:
        """Give a router's part of the configuration, with these keys set (`_` stands for `-`)."""
        mine = self.routers.setdefault(name, {"interfaces": {}})
        mine.update({key.replace("_", "-"): value for key, value in keys.items()})
        return mine

    def link(
        self,
        router: str,
        interface: str,
        addresses: Sequence[str],
        peer: str,
        peer_addresses: Sequence[str] = (),
        **keys: Any,
    ) -> Namespace:
        """Join a router to a peer's namespace, where the device is called like the interface."""
        far = self[peer]
        device = f"{router}-{interface}"
        self.veth(device, None, far, interface)
        for address in peer_addresses:
            far.address(interface, address)
        self._interface(router, interface, device, addresses, keys)
        return far

    def segment(self, name: str) -> Namespace:
        """Make an Ethernet: a bridge in a namespace of its own, which floods multicast as a cheap switch does."""
        made = self.namespace(f"lan-{name}")
        made.ip("link", "add", "name", "bridge", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        made.ip("link", "set", "dev", "bridge", "up")
        return made

    def join(self, segment: str, router: str, interface: str, addresses: Sequence[str], **keys: Any) -> None:
        """Join a router to a segment."""
        device = f"{router}-{interface}"
        lan = self.namespaces[f"lan-{segment}"]
        self.veth(device, None, lan, device)
        lan.ip("link", "set", device, "master", "bridge")
        self._interface(router, interface, device, addresses, keys)

    def join_peer(self, segment: str, peer: str, device: str, addresses: Sequence[str]) -> Namespace:
        """Join a peer's namespace to a segment."""
        far, lan = self[peer], self.namespaces[f"lan-{segment}"]
        port = f"{peer}-{device}"
        self.veth(port, lan, far, device)
        lan.ip("link", "set", port, "master", "bridge")
        for address in addresses:
            far.address(device, address)
        return far

    def _interface(self, router: str, name: str, device: str, addresses: Sequence[str], keys: dict[str, Any]) -> None:
        own = {key.replace("_", "-"): value for key, value in keys.items()}
        self.router(router)["interfaces"][name] = {"device": device, "addresses": list(addresses), **own}

    def start(self, timeout: float = 60.0, *, wait: bool = True) -> None:
        """Write the configuration, and start the manager."""
        self.configure(self.routers, **self.top)
        super().start(timeout, wait=wait)

    def apply(self) -> dict[str, Any]:
        """Write the configuration as it is now, and apply it; gives what `vr apply` tells."""
        self.configure(self.routers, **self.top)
        told: dict[str, Any] = self.vr("apply")
        return told

    def run(self, peer: AnyPeer) -> AnyPeer:
        """Start a peer that ends with the lab."""
        return self._peers.run(peer)

    def show(self, what: str, router: str, *words: str) -> Any:
        """Give what `vr show` tells as JSON."""
        return self.vr("show", *what.split(), router, *words)
