"""The BGP table in Python: the executable specification of fastpath/src/bgp, and the oracle of its fuzzer.

    feed --> adj_in --> paths of a prefix --process--> decision --> adj_out --> export
                              ^                           |
                              +--- next_hops --------------+--> fib, held, changes

Clear before fast; the contract is `vrouter/rib/bgp_table.py`.
"""

from vrouter.rib.bgp_reference.table import ReferenceTable

__all__ = ["ReferenceTable"]
