"""`offload: tc` beside a forwarder that does not know it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from manager.offload_maps import RefusedError
from manager.offload_tc import AtTap


def test_an_older_forwarder_is_refused() -> None:
    """It has set no mark, without which no frame would be forwarded and none would say why."""
    port: Any = SimpleNamespace(sockets=-1)
    maps: Any = SimpleNamespace(links=SimpleNamespace(word=lambda _offset: 0))
    with pytest.raises(RefusedError, match="restart the router"):
        AtTap.attach(object.__new__(AtTap), port, maps)
