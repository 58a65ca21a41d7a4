"""The daemon, whose offloads begin with the smallest map of routes."""

from __future__ import annotations

from unittest.mock import patch

from manager import main as daemon
from manager import offload_maps


def main() -> int:
    """Run it."""
    with patch.object(offload_maps, "FIRST", offload_maps.SMALLEST):
        return daemon.main()
