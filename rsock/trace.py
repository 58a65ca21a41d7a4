"""RSOCK_TRACE=1: one line on stderr for each call to a forwarder, with what it took.

    rsock.trace red BIND slot 17: 84 us
    rsock.trace red OPEN: EACCES after 61 us

The lines go through `logging`, so that a program that configures the logger `rsock.trace` has them where it wants.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rsock.link import Link
from rsock.wire import Op

log: Final = logging.getLogger("rsock.trace")
_CALLS: Final = ("call", "call_fd", "wait", "wait_fd")


def wanted() -> bool:
    """Tell whether the environment asks for it."""
    return os.environ.get("RSOCK_TRACE", "") not in {"", "0"}


def install() -> None:
    """Trace all calls from now on."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(logging.DEBUG)
    for name in _CALLS:
        setattr(Link, name, _timed(getattr(Link, name)))


def _timed(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def timed(link: Link, op: Op, *arguments: Any, **more: Any) -> Any:
        began = time.perf_counter_ns()
        failure = ""
        try:
            return call(link, op, *arguments, **more)
        except OSError as error:
            failure = f" {errno.errorcode.get(error.errno or 0, type(error).__name__)} after"
            raise
        finally:
            slot = f" slot {more['slot']}" if more.get("slot") else ""
            took = (time.perf_counter_ns() - began) // 1000
            log.debug("%s %s%s:%s %d us", Path(link.path).stem, op.name, slot, failure, took)

    return timed
