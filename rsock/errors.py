"""What goes wrong, as exceptions with the errno that a kernel socket would give.

All are OSErrors, so that code written for `socket` catches them; `RsockError` tells them apart.
"""

from __future__ import annotations

import errno
import os


class RsockError(OSError):
    """The socket layer refused or failed; what a kernel socket raises too is a plain OSError."""


class VRNotFound(RsockError, LookupError):  # noqa: N818 - says what is, as the errno does
    """No virtual router of that name: ENODEV."""


class VRDown(RsockError):  # noqa: N818 - says what is, as the errno does
    """The virtual router does not run: ENETDOWN."""


class RsockDenied(RsockError, PermissionError):  # noqa: N818 - says what is, as the errno does
    """The rules of that virtual router do not allow it: EACCES, for raw sockets EPERM."""


class BrokerGone(RsockError, ConnectionError):  # noqa: N818 - says what is, as the errno does
    """The broker did not answer in time: EAGAIN without waiting, else ETIMEDOUT."""


_KINDS = {
    errno.ENODEV: VRNotFound,
    errno.ENETDOWN: VRDown,
    errno.EACCES: RsockDenied,
    errno.EPERM: RsockDenied,
}


def error_of(number: int, about: str = "") -> OSError:
    """Make the exception for an errno that broker or forwarder gave."""
    text = os.strerror(number) + (f": {about}" if about else "")
    kind = _KINDS.get(number)
    return OSError(number, text) if kind is None else kind(number, text)
