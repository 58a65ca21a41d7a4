"""The command `vr`."""
