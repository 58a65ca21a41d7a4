"""OSPF version 2: the protocol, without sockets or clock."""
