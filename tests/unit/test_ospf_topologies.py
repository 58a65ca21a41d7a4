"""The topologies of another project's conformance tests, all routers of each in virtual time.

Every router has to come to the routes, the neighbors and the numbers of LSAs that are recorded there.  What needs a
virtual link is not supported, and says so in the share that is printed.
"""

from __future__ import annotations

import pytest

from tests.unit.ospf_recorded import ARCHIVE, boot, contents, differences, protocol, topologies


@pytest.mark.skipif(not ARCHIVE.exists(), reason="ANABRANCH_TEST_DATA does not lead to the conformance data")
def test_every_router_comes_to_what_is_recorded() -> None:
    total = passed = without = 0
    problems = []
    for name, topology in sorted(topologies(contents()).items()):
        virtual = any("virtual-link" in files["config.json"] for files in topology.values())
        net = boot(topology)
        for router, files in sorted(topology.items()):
            found = differences(net, router, protocol(files["northbound-state.json"]))
            total += 1
            passed += not found
            without += bool(found and virtual)
            if found and not virtual:
                problems += [f"{name} {router}: {line}" for line in found]
    print(f"\nrouters of recorded OSPFv2 topologies: {passed} of {total} agree; {without} need virtual links")
    assert problems == [], "\n".join(problems)
    assert passed >= total - without > 40
