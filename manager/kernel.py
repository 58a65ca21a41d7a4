"""System calls that Python's standard library does not wrap.

All act on the calling thread or process; the manager has one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from typing import Final

CLONE_NEWNET: Final = 0x40000000
CLONE_NEWNS: Final = 0x00020000
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SHARED: Final = 1 << 20
MNT_DETACH: Final = 2
PR_SET_CHILD_SUBREAPER: Final = 36
_M_MMAP_THRESHOLD: Final = -3
SYS_PIDFD_GETFD: Final = 438
SYS_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def setns(fd: int) -> None:
    """Enter a network namespace."""
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


def setns_mount(fd: int) -> None:
    """Enter a mount namespace; a process that has just been forked may."""
    _check(_libc.setns(fd, CLONE_NEWNS), "setns")


def unshare_network() -> None:
    """Leave for a new, empty network namespace."""
    _check(_libc.unshare(CLONE_NEWNET), "unshare")


def mount(source: str, target: str, flags: int) -> None:
    """Bind a file, or change how a mount propagates."""
    _check(_libc.mount(source.encode(), target.encode(), b"none", ctypes.c_ulong(flags), None), target)


def unmount(target: str) -> None:
    """Detach a mount."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), target)


def pin_malloc() -> None:
    """Fix the size from which malloc maps memory: left alone it grows, and large tables lie in a used heap."""
    _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)


def tidy_malloc() -> None:
    """Give free pages of the heap back."""
    _libc.malloc_trim(0)


def set_subreaper() -> None:
    """Inherit the processes whose parent below us died."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Duplicate an fd of another process; it shares the open file, locks included."""
    return _check(_libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0), "pidfd_getfd")


def bind_address(fd: int, address: bytes) -> None:
    """Bind a socket of a family that Python's own bind does not know."""
    _check(_libc.bind(fd, address, len(address)), "bind")


def bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """Load programs and the like, as the bpf system call."""
    number = SYS_BPF.get(platform.machine())
    if number is None:
        raise OSError(38, f"the number of bpf(2) on {platform.machine()} is not known")
    return _check(_libc.syscall(number, command, attributes, len(attributes)), "bpf")


@contextlib.contextmanager
def inside(netns_fd: int | None) -> Iterator[None]:
    """Run the body in another network namespace; None: stay."""
    if netns_fd is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(netns_fd)
        try:
            yield
        finally:
            setns(home)
    finally:
        os.close(home)
