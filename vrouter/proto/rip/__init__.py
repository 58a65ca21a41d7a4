"""RIPv2 (RFC 2453) and RIPng (RFC 2080): one protocol over two kinds of packets."""
