"""The driver matrix with `driver: af-packet`."""

from __future__ import annotations

import pytest
from driver_matrix import Matrix

pytestmark = [pytest.mark.root]


class TestAfPacket(Matrix):
    """Both legs are of this driver."""

    driver = "af-packet"
