"""Routing protocols, without I/O."""
