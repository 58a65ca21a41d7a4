"""The routing table, without I/O."""
