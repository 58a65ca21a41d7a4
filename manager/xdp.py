"""XDP programs on devices: attached, replaced and taken off, by rtnetlink.

A program that was attached by netlink stays on its device when whoever attached it dies, unlike one on a bpf_link
whose fd goes with its holder: routers outlive the manager, and so must their programs.  A successor finds a program
of ours by its name, and puts its own in its place in one step, so that no frame passes unseen.  A stranger's program
is never replaced or taken off.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Final, Literal

from manager import bpf_objects
from manager.netlink import Netlink

IF_NONE: Final = 1  # XDP_FLAGS_UPDATE_IF_NOEXIST
GENERIC: Final = 2  # XDP_FLAGS_SKB_MODE
NATIVE: Final = 4  # XDP_FLAGS_DRV_MODE
NOTHING: Final = -1

Mode = Literal["native", "generic"]
_FLAGS: Final[dict[Mode, int]] = {"native": NATIVE, "generic": GENERIC}
# IFLA_XDP_ATTACHED: XDP_ATTACHED_DRV, XDP_ATTACHED_SKB; anything else is beyond us.
_MODES: Final[dict[int, Mode]] = {1: "native", 2: "generic"}


class ForeignProgramError(OSError):
    """Somebody else's XDP program is on the device."""

    def __init__(self) -> None:
        super().__init__(errno.EBUSY, "another XDP program is on the device")


def attached(netlink: Netlink, index: int) -> tuple[Mode | None, int]:
    """Give the mode and the id of the program on a device; (None, 0) where there is none."""
    kind, number = netlink.xdp(index)
    if kind and kind not in _MODES:
        raise ForeignProgramError
    return _MODES.get(kind), number


def is_ours(number: int) -> bool:
    """Tell whether a loaded program is one of ours."""
    return bpf_objects.program_name(number).startswith(bpf_objects.NAME_PREFIX)


def attach(netlink: Netlink, index: int, program: int, mode: Mode) -> None:
    """Put a program on a device, in place of one of ours."""
    before, number = attached(netlink, index)
    if number and not is_ours(number):
        raise ForeignProgramError
    if before is not None and before != mode:
        netlink.set_xdp(index, NOTHING, _FLAGS[before])
        before = None
    netlink.set_xdp(index, program, _FLAGS[mode] | (0 if before else IF_NONE))


def attach_best(netlink: Netlink, index: int, program: int) -> Mode:
    """The same in native mode or, where the driver cannot, in generic mode; tell which."""
    try:
        attach(netlink, index, program, "native")
    except ForeignProgramError:
        raise
    except OSError:
        attach(netlink, index, program, "generic")
        return "generic"
    return "native"


def detach(netlink: Netlink, index: int) -> None:
    """Take our program off; fine when there is none, or the device is gone."""
    with contextlib.suppress(ForeignProgramError):
        mode, number = attached(netlink, index)
        if mode is not None and is_ours(number):
            try:
                netlink.set_xdp(index, NOTHING, _FLAGS[mode])
            except OSError as error:
                if error.errno not in {errno.ENODEV, errno.ENOENT}:
                    raise
