"""BGP-4: sessions, and what they do to the table of `vrouter/rib/bgp_table.py`."""
