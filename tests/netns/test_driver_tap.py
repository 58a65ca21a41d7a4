"""The driver matrix with `driver: tap`."""

from __future__ import annotations

import pytest
from driver_matrix import BATCH, Matrix, TapLegs

pytestmark = [pytest.mark.root]


class TestTap(Matrix):
    """Both legs are of this driver."""

    driver = "tap"
    legs = TapLegs
    loss = 2 * BATCH  # what both ports have read of a device and not sent yet
    repeats = 0
