"""OSPF version 2 on the wire."""
