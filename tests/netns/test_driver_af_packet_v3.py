"""The driver matrix with `driver: af-packet-v3`."""

from __future__ import annotations

import pytest
from driver_matrix import Matrix

pytestmark = [pytest.mark.root]


class TestAfPacketV3(Matrix):
    """Both legs are of this driver."""

    driver = "af-packet-v3"
    rate = 250  # 256 blocks, and each frame takes one
