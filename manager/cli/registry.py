"""All commands of `vr`, in one table: the parser, the help, the completion and the manual's test read it.

Those of a topic stand in a module `commands_TOPIC.py` of this package, as a tuple COMMANDS; here are those of all
routers.  A command names the function that produces its data and the one that renders it as text, both as
"module:function" below manager.cli, so that a start imports only what it needs.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Final

import manager.cli
from manager.cli.command import ADDRESS, ROUTER, Argument, Command

__all__ = ["ADDRESS", "COMMANDS", "ROUTER", "Argument", "Command", "load"]


def load(reference: str) -> Callable[..., Any]:
    """Import the function that a command names."""
    module, _, function = reference.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"manager.cli.{module}"), function)
    return found


PACKETS: Final = Argument("-c --count", "stop after N requests", metavar="N", type="int", default=None)
FILTER: Final = Argument(
    "filter", "as tcpdump has: host A, net P, port N, src, dst, tcp, arp, and, or, not", metavar="FILTER", type="words"
)
WAIT: Final = Argument("-W --wait", "seconds to wait for each answer", metavar="SECONDS", type="float", default=1.0)

_COMMANDS: Final = (
    Command(("show", "routers"), "all virtual routers and their processes", "show:routers", "render:routers"),
    Command(
        ("show", "interfaces"),
        "interfaces of a router with their counters",
        "show:interfaces",
        "render:interfaces",
        (ROUTER,),
    ),
    Command(
        ("show", "neighbors"), "ARP and neighbor discovery entries", "show:neighbors", "render:neighbors", (ROUTER,)
    ),
    Command(
        ("show", "routes"), "routes that the control process has installed", "show:routes", "render:routes", (ROUTER,)
    ),
    Command(
        ("show", "fib"),
        "what the forwarder uses, read back from its look-up structure",
        "show:fib",
        "render:routes",
        (ROUTER,),
    ),
    Command(("show", "sockets"), "sockets that programs hold in a router", "show:sockets", "render:sockets", (ROUTER,)),
    Command(
        ("show", "apps"),
        "programs that hold sockets: who they are, what they hold, what they were denied",
        "apps:apps",
        "render:apps",
        (Argument("router", "name of a virtual router; all without it", values="routers", optional=True),),
    ),
    Command(
        ("show", "groups"), "multicast groups that programs have joined", "apps:groups", "render:groups", (ROUTER,)
    ),
    Command(
        ("show", "calls"), "how long the forwarder works on requests", "apps:call_times", "render:calls", (ROUTER,)
    ),
    Command(("show", "bfd"), "BFD sessions of a router", "bfd:sessions", "bfd:render", (ROUTER,)),
    Command(("show", "drops"), "dropped packets by reason", "show:drops", "render:drops", (ROUTER,)),
    Command(
        ("show", "route"),
        "the entry that would be used for an address",
        "show:route",
        "render:route",
        (ROUTER, ADDRESS),
    ),
    Command(("router", "start"), "start a router that was stopped", "control:start", "render:action", (ROUTER,)),
    Command(("router", "stop"), "stop a router and give its devices back", "control:stop", "render:action", (ROUTER,)),
    Command(("router", "restart"), "stop and start a router", "control:restart", "render:action", (ROUTER,)),
    Command(
        ("ping",),
        "send ICMP echo requests out of a router",
        "ping:ping",
        None,
        (
            ROUTER,
            ADDRESS,
            PACKETS,
            Argument("-i --interval", "seconds between requests", metavar="SECONDS", type="float", default=1.0),
            Argument("-s --size", "bytes of data in each request", metavar="BYTES", type="int", default=56),
            WAIT,
        ),
    ),
    Command(
        ("traceroute",),
        "find the routers on the way to an address",
        "traceroute:traceroute",
        None,
        (
            ROUTER,
            ADDRESS,
            Argument("-I --icmp", "probe with ICMP echo instead of UDP", type="flag"),
            Argument("-m --max-hops", "largest TTL tried", metavar="N", type="int", default=30),
            Argument("-q --queries", "probes for each hop", metavar="N", type="int", default=3),
            WAIT,
        ),
    ),
    Command(
        ("exec",),
        "run a program whose sockets live in a router",
        "execute:execute",
        None,
        (
            ROUTER,
            Argument(
                "-m --mode",
                "how calls are reached: rsock(1)",
                metavar="MODE",
                default="auto",
                choices=("auto", "preload", "seccomp"),
            ),
            Argument("words", "the program and its arguments", metavar="-- CMD ...", type="rest"),
        ),
    ),
    Command(
        ("trace",),
        "follow packets through the stages of a router",
        "trace:trace",
        None,
        (
            ROUTER,
            Argument("-n --packets", "stop after N packets", metavar="N", type="int", default=None),
            Argument("--drops", "only packets that are dropped", type="flag"),
            Argument("-i --interface", "only packets that come in here", metavar="IF", values="interfaces"),
            FILTER,
        ),
    ),
    Command(
        ("capture",),
        "capture the frames of an interface, as text or pcapng",
        "capture:capture",
        None,
        (
            ROUTER,
            Argument("interface", "one of the router's, or 'all'", metavar="IF", values="interfaces", optional=True),
            Argument("-w --write", "write pcapng to a file, or - for standard output", metavar="FILE"),
            Argument("-n --packets", "stop after N packets", metavar="N", type="int", default=None),
            Argument("-s --snap", "keep at most so many bytes of each frame", metavar="BYTES", type="int", default=0),
            Argument("-d --direction", "in, out or both", metavar="DIR", default="both", choices=("in", "out", "both")),
            Argument("--drops", "only frames that came in and were dropped; of all interfaces without IF", type="flag"),
            FILTER,
        ),
    ),
    Command(
        ("check",),
        "check a configuration without touching anything",
        "configuration:check",
        "render:check",
        (
            Argument(
                "directory", "configuration directory; without it the running manager's", metavar="DIR", optional=True
            ),
        ),
    ),
    Command(
        ("plan",), "what `apply` would do; exit 1 when it would change something", "configuration:plan", "render:plan"
    ),
    Command(
        ("apply",), "read the configuration again and carry out the difference", "configuration:apply", "render:applied"
    ),
    Command(("doctor",), "check this machine for what Anabranch needs", "doctor:doctor", "render:doctor"),
    Command(
        ("completion",),
        "print the completion script of a shell",
        "completion:completion",
        None,
        (Argument("shell", "bash, zsh or fish", choices=("bash", "zsh", "fish")),),
    ),
)


def _collected() -> list[Command]:
    """Give the commands of all topics, in the order of their modules' names."""
    modules = sorted(it.name for it in pkgutil.iter_modules(manager.cli.__path__) if it.name.startswith("commands_"))
    found: list[Command] = []
    for name in modules:
        found += importlib.import_module(f"manager.cli.{name}").COMMANDS
    return found


COMMANDS: Final = (*_COMMANDS, *_collected())
