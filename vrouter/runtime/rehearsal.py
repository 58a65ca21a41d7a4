"""A control's life in small, lived by the zygote before it forks anybody.

CPython specialises code where it is run, fills caches and makes objects on first use.  Done here once,
all controls share the result; done in each control, it would be some hundred KiB and a millisecond more.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Final

from fastpath import segment
from vrouter.api.messages import ControlOp, Decoder, encode
from vrouter.config.codec import to_plain
from vrouter.config.router import Interface, RouterConfig, Rule, StaticHop, StaticRoute
from vrouter.runtime.logs import log_as
from vrouter.runtime.wiring import Wiring

# CPython 3.11 specialises a function at its eighth call, and then what it meets.
ROUNDS: Final = 12
_NAME: Final = "rehearsal"


def rehearse() -> None:
    """Configure routers that nobody hears of, over segments that are closed again."""
    log_as(_NAME)
    logging.disable()
    for step in range(ROUNDS):
        _play(step)
    logging.disable(logging.NOTSET)


def _play(step: int) -> None:
    tables = segment.create(segment.KIND_TABLES, segment.TABLES_SIZE, 1, _NAME)
    state = segment.create(segment.KIND_STATE, segment.STATE_SIZE, 1, _NAME)
    forwarder = _listener(socket.SOCK_SEQPACKET)
    listener = _listener(socket.SOCK_STREAM)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    manager.connect(listener.getsockname())
    wiring = Wiring(_NAME, tables, state, listener, forwarder.getsockname())
    wiring.forwarder.connect()
    accepted, _ = forwarder.accept()
    decoder = Decoder()
    for request in (
        {"op": ControlOp.PING},
        {"op": ControlOp.CONFIGURE, "router": to_plain(_config(step))},
        {"op": ControlOp.LINK, "port": 1, "up": True, "mtu": 1500},
        {"op": ControlOp.CONFIGURE, "router": to_plain(_config(step + 1))},
        {"op": ControlOp.LINK, "port": 1, "up": False, "mtu": 1500},
    ):
        manager.send(encode({"id": step, **request}))
        wiring.loop.step(0)
        wiring.loop.step(0)
        decoder.feed(manager.recv(1 << 16))
    wiring.fib.reclaim()
    wiring.close()
    wiring.writer.close()
    wiring.loop.close()
    for end in (manager, accepted, forwarder):
        end.close()
    os.close(tables)
    os.close(state)


def _listener(kind: int) -> socket.socket:
    """Make a listener with an abstract name that the kernel chooses."""
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind("")
    listener.listen(1)
    return listener


def _config(step: int) -> RouterConfig:
    interfaces = (
        Interface("lo", "loopback", addresses=("192.0.2.1/32", "2001:db8::1/128")),
        Interface("lan", "ethernet", 1, mac="02:00:00:00:00:01", addresses=(f"10.0.{step}.1/24", "2001:db8:1::1/64")),
        Interface("tagged", "vlan", 1, 7, mac="02:00:00:00:00:01", addresses=("10.1.0.1/24",)),
    )
    static = (
        StaticRoute("0.0.0.0/0", (StaticHop(f"10.0.{step}.2"), StaticHop("10.1.0.2", weight=2))),
        StaticRoute("2001:db8:2::/48", (StaticHop("2001:db8:1::2", "lan"),)),
        StaticRoute(f"198.51.{step}.0/24", (StaticHop(discard=True),)),
    )
    rules = (Rule("uid", 1000, operations=1, ports=((1, 1023),), prefixes=("10.0.0.0/8",)), Rule("gid", 1000))
    return RouterConfig(_NAME, 1, interfaces, static, rules)
