"""The few BPF programs of the manager, assembled here and attached at clsact (tc-bpf(8), direct action).

    whole device     ingress: drop                    the kernel's IP stack never sees what the tap saw
                     (with `offload: tc` another program in its place: offload_tc.py)
    shared NIC       ingress: our VLAN? pop, redirect to the veth of the VR that owns it; else go on
    veth, our end    ingress: tagged? drop; push the VLAN, redirect to the NIC

A VR behind a veth cannot name a VLAN: a tagged frame of its own is dropped, so no frame leaves with a
tag that its own end of the veth does not stand for.  Works without the kernel's VLAN module.
Not supported: 802.1ad outer tags on a shared NIC.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from typing import Final

from manager.kernel import bpf
from manager.netlink import Netlink

TC_ACT_UNSPEC: Final = -1  # not mine: ask the next classifier
TC_ACT_SHOT: Final = 2
PROG_LOAD: Final = 5
PROG_TYPE_SCHED_CLS: Final = 3
VLAN_ID: Final = 0x0FFF
PRIORITY: Final = 7  # of our filters on a NIC that is not ours alone
WHOLE_DEVICE: Final = 1  # handle of the filter on a device that is
# struct __sk_buff
VLAN_PRESENT, VLAN_TCI, VLAN_PROTOCOL = 20, 24, 28
# helpers
VLAN_PUSH, VLAN_POP, REDIRECT = 18, 19, 23

Instruction = bytes


def _op(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> Instruction:
    registers = destination | source << 4 if sys.byteorder == "little" else destination << 4 | source
    return struct.pack("=BBhi", code, registers, offset, immediate)


def move(destination: int, value: int) -> Instruction:
    """Assemble rD = value."""
    return _op(0xB7, destination, immediate=value)


def copy(destination: int, source: int) -> Instruction:
    """Assemble rD = rS."""
    return _op(0xBF, destination, source)


def load(destination: int, source: int, offset: int) -> Instruction:
    """Assemble rD = *(u32 *)(rS + offset)."""
    return _op(0x61, destination, source, offset)


def mask(destination: int, value: int) -> Instruction:
    """Assemble rD &= value."""
    return _op(0x57, destination, immediate=value)


def skip_if_equal(register: int, value: int, count: int) -> Instruction:
    """Assemble: if rD == value, leave out `count` instructions."""
    return _op(0x15, register, offset=count, immediate=value)


def skip_unless_equal(register: int, value: int, count: int) -> Instruction:
    """Assemble: if rD != value, leave out `count` instructions."""
    return _op(0x55, register, offset=count, immediate=value)


def call(helper: int) -> Instruction:
    """Assemble r0 = helper(r1 .. r5)."""
    return _op(0x85, immediate=helper)


EXIT: Final = _op(0x95)


def drop_program() -> list[Instruction]:
    """Drop everything."""
    return [move(0, TC_ACT_SHOT), EXIT]


def _redirect(ifindex: int) -> list[Instruction]:
    return [move(1, ifindex), move(2, 0), call(REDIRECT), EXIT]


def to_router_program(vlan: int, ifindex: int) -> list[Instruction]:
    """On a NIC: take the frames of one VLAN, untagged, to a device.  VLAN 0: the untagged ones.

    A tag with VLAN id 0 carries a priority only (802.1Q section 6.9) and counts as untagged.
    """
    not_mine = [move(0, TC_ACT_UNSPEC), EXIT]
    take = [copy(1, 6), call(VLAN_POP), *_redirect(ifindex)]
    if vlan == 0:
        return [
            copy(6, 1),
            load(2, 6, VLAN_PRESENT),
            skip_if_equal(2, 0, 5),  # to the redirect, past the pop
            load(2, 6, VLAN_TCI),
            mask(2, VLAN_ID),
            skip_unless_equal(2, 0, 6),
            copy(1, 6),
            call(VLAN_POP),
            *_redirect(ifindex),
            *not_mine,
        ]
    return [
        copy(6, 1),
        load(2, 6, VLAN_PRESENT),
        skip_if_equal(2, 0, len(take) + 5),
        load(2, 6, VLAN_PROTOCOL),
        skip_unless_equal(2, socket.htons(0x8100), len(take) + 3),
        load(2, 6, VLAN_TCI),
        mask(2, VLAN_ID),
        skip_unless_equal(2, vlan, len(take)),
        *take,
        *not_mine,
    ]


def from_router_program(vlan: int, ifindex: int) -> list[Instruction]:
    """On our end of a veth: tag what a VR sent and take it to the NIC.  VLAN 0: leave it untagged."""
    push = [copy(1, 6), move(2, socket.htons(0x8100)), move(3, vlan), call(VLAN_PUSH)] if vlan else []
    return [
        copy(6, 1),
        load(2, 6, VLAN_PRESENT),
        skip_if_equal(2, 0, 2),
        move(0, TC_ACT_SHOT),
        EXIT,
        *push,
        *_redirect(ifindex),
    ]


def load_program(instructions: list[Instruction]) -> int:
    """Give a program to the kernel; the fd is the caller's."""
    code = ctypes.create_string_buffer(b"".join(instructions))
    text = ctypes.create_string_buffer(b"Apache-2.0")  # the helpers in use are not GPL-only
    log = ctypes.create_string_buffer(1 << 16)
    fields = struct.pack(
        "=IIQQIIQII16s", PROG_TYPE_SCHED_CLS, len(instructions), ctypes.addressof(code), ctypes.addressof(text),
        1, len(log), ctypes.addressof(log), 0, 0, b"anabranch",
    )  # fmt: skip
    try:
        return bpf(PROG_LOAD, ctypes.create_string_buffer(fields, 128))
    except OSError as error:
        lines = log.value.decode(errors="replace").strip().splitlines()
        raise OSError(error.errno, f"the kernel refused a BPF program: {lines[-2:] or error.strerror}") from error


def add_clsact(netlink: Netlink, index: int) -> None:
    """Give a device the hook for our filters; fine when it has one."""
    with contextlib.suppress(FileExistsError):
        netlink.add_clsact(index)


def attach(netlink: Netlink, index: int, instructions: list[Instruction], handle: int = WHOLE_DEVICE) -> None:
    """Run a program on all frames that the device receives; `handle` tells ours apart on one device."""
    program = load_program(instructions)
    try:
        netlink.set_filter(index, PRIORITY, handle, program)
    finally:
        os.close(program)


def detach(netlink: Netlink, index: int, handle: int) -> None:
    """Take one of our programs off a device; fine when it is gone."""
    try:
        netlink.delete_filter(index, PRIORITY, handle)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENODEV, errno.EINVAL}:  # no such filter, device or qdisc
            raise
