"""The engine: all of a VR's control but its I/O."""
