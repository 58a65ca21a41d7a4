"""Policy of the socket layer, without I/O."""
