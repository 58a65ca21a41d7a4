"""How the forwarder of a router works: its workers and the processors that they run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from vrouter.config.constraints import Duration, Integer, MaxLength
from vrouter.config.driver import DeviceDriver
from vrouter.config.option import Impact, option

# What fastpath/include/abi/limits.h has room for; a unit test compares.
MAX_WORKERS: Final = 4
MAX_CPU: Final = 1023


@dataclass(frozen=True, kw_only=True)
class Dataplane:
    """The forwarder of a router."""

    workers: Annotated[int, Integer(1, MAX_WORKERS)] = option(
        "Threads that forward, each with its share of the flows of every device.", Impact.VR_RESTART, 1, "2"
    )
    cpus: Annotated[tuple[Annotated[int, Integer(0, MAX_CPU)], ...], MaxLength(MAX_WORKERS)] = option(
        "Processors that the workers are pinned to, one for each in order; workers beyond the list run anywhere.",
        Impact.VR_RESTART,
        (),
        "[2, 3]",
    )
    driver: DeviceDriver = option(  # noqa: RUF009 - a field
        "How frames are exchanged with devices whose interfaces do not say it.", Impact.LINK, "auto", "af-packet"
    )
    busy_poll: Annotated[float, Duration("0s", "1ms")] = option(
        "How long the kernel may look for frames of an AF_XDP port in the forwarder's own calls, where nothing else"
        " takes them off the device; without it interrupts do.",
        Impact.LINK,
        0.0,
        "20us",
    )
