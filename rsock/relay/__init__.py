"""The relay: lets apps on other hosts, known by their CURVE keys, use the virtual routers of this one.

main --> doors: who may come in (ZAP)        --> apps: one session of an app --> sockets: its sockets here
     --> directory: which VRs a key may see                                  --> forwarder: requests to a VR
"""

from rsock.relay.main import main

__all__ = ["main"]
