"""Capture files as a port: frames of one come in, what is sent goes to the other.

    path --each directory without links--> file --regular, ours alone?--> fd --> forwarder reads or writes

The files are opened when the interface is made.  The link is up from when the VR forwards until the input has
ended; an interface without an input stays up.  A changed or restarted VR begins both files anew.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Final

import structlog

from fastpath._layout import CONSTANTS, FIELDS
from manager import resolve
from manager.ports import DEFAULT_MTU, Place, Port, pack_spec, unpack_spec
from manager.resolve import PortPlan

_MAC_OFFSET: Final = FIELDS["port_spec"]["mac"][0]
_NOTHING: Final = bytes(4)  # a forwarder that never wrote leaves no more than a hole
_MAGICS: Final = (0xA1B2C3D4, 0xA1B23C4D, 0x0A0D0D0A)
# What a file may begin with that is written over.
_OVERWRITABLE: Final = {b"", _NOTHING, *(magic.to_bytes(4, order) for magic in _MAGICS for order in ("little", "big"))}
_NO_LINKS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

log = structlog.get_logger()


def open_file(path: str, flags: int) -> int:
    """Open a regular file by a path without symbolic links."""
    *directories, name = path.lstrip("/").split("/")
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for directory in directories:
            below = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
        fd = os.open(name, flags | _NO_LINKS, 0o600, dir_fd=here)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise OSError(error.errno, "a symbolic link, or no directory, is on the path") from error
        raise
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file")
    return fd


def open_output(path: str) -> int:
    """Open a file to be written from its beginning: a new one, or a capture that is ours and has no other name."""
    fd = open_file(path, os.O_RDWR | os.O_CREAT)
    status = os.fstat(fd)
    reason = ""
    if status.st_uid != os.geteuid() or status.st_nlink != 1:
        reason = "it exists, and belongs to another user or has several names"
    elif os.pread(fd, len(_NOTHING), 0) not in _OVERWRITABLE:
        reason = "it exists, and is no capture"
    if reason:
        os.close(fd)
        raise OSError(errno.EPERM, reason)
    os.ftruncate(fd, 0)
    return fd


class PcapPort(Port):
    """Up to two files."""

    driver = "pcap"

    def __init__(self, plan: PortPlan, port_id: int, place: Place, forwards: Callable[[], bool],
                 ended: Callable[[], int]) -> None:  # fmt: skip
        """`forwards` tells whether the VR is ready, `ended` what the forwarder says of the input."""
        super().__init__(plan, port_id, place)
        assert plan.pcap is not None
        self.mac = plan.mac or resolve.patch_mac(plan.own)
        self.mtu = plan.mtu or DEFAULT_MTU
        self._files = plan.pcap
        self._forwards = forwards
        self._ended = ended
        self._fds: list[int] = []

    @property
    def fds(self) -> list[int]:
        """Give the input, then the output."""
        return self._fds

    def spec(self) -> bytes:
        """Describe the files."""
        modes = (
            (self._files.in_, "PORT_INPUT"), (self._files.out, "PORT_OUTPUT"),
            (self._files.speed == "real", "PORT_REAL_TIME"),
        )  # fmt: skip
        return pack_spec(
            {
                "port": self.id, "driver": CONSTANTS["DRIVER_PCAP"], "mtu": self.mtu, "link_up": int(self.link_up),
                "generation": self.generation, "mode": sum(CONSTANTS[mode] for wanted, mode in modes if wanted),
            },
            self.mac,
        )  # fmt: skip

    def refresh(self) -> None:
        """Open the files once, then follow the end of the input."""
        if not self.present:
            self._try()
        if self.present:
            ended = self._ended() if self._files.in_ else 0
            self.link_up = self._forwards() and not ended
            self.problem = {0: "", 1: "the input has ended"}.get(ended, "the input is no capture file, or damaged")

    def renew(self) -> None:
        """Begin both files anew."""
        self.release()

    def adopt(self, spec: bytes, fds: list[int]) -> None:
        """Go on with a forwarder's files."""
        values = unpack_spec(spec)
        self._fds, self.generation, self.mtu = fds, values["generation"], values["mtu"]
        self.mac = spec[_MAC_OFFSET : _MAC_OFFSET + 6].hex(":")
        self.link_up, self.present, self.problem = bool(values["link_up"]), True, ""

    def release(self) -> None:
        """Close the files."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self.present = self.link_up = False

    def _try(self) -> None:
        before = self.problem
        for path, opened in ((self._files.in_, _open_input), (self._files.out, open_output)):
            if path is None:
                continue
            try:
                self._fds.append(opened(path))
            except OSError as error:
                self.release()
                self.problem = f"{path}: {error.strerror}"
                if self.problem != before:
                    log.warning("not coupled", router=self.place.router, reason=self.problem)
                return
        self.generation = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.present, self.problem = True, ""
        log.info("coupled", router=self.place.router, input=self._files.in_, output=self._files.out)


def _open_input(path: str) -> int:
    return open_file(path, os.O_RDONLY)
