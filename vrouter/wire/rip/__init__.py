"""Packets of RIPv2 (RFC 2453, authentication RFC 4822) and RIPng (RFC 2080)."""
