"""Runs unmodified programs whose sockets live in virtual routers: `rsock exec`."""
