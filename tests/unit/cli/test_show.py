"""What `vr show` takes from the kernel's own tables."""

from __future__ import annotations

from manager.cli import show

NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compr
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0     0
  eth1: 9000000 1500000    0   11    0     0          0         0  9000000 1500000    0  725    0     0       0     0
"""


def test_frames_that_a_device_was_given_and_dropped() -> None:
    assert show.unsent(NET_DEV) == {"lo": 0, "eth1": 725}
    assert show.unsent("") == {}
