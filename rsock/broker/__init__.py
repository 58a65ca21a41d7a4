"""The broker: tells apps which virtual routers there are, who may use them, and what happens to them."""

from rsock.broker.main import main

__all__ = ["main"]
