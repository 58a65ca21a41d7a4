"""Every drop reason is reached by a test: named where it is asserted, reached here, or listed with its test."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Final

from fastpath.binding import check, ffi, lib
from tests.unit import packets as p
from tests.unit.c_build import build
from tests.unit.harness import DROPS, HOST_A, HOST_B, ROUTER_A, Hop, Interface, Port, Router, two_sided

TESTS: Final = Path(__file__).resolve().parents[1]
# What tests reach without asserting the name: where the reason is what C code returns, not what a counter shows.
LISTED: Final = {
    "none": "no drop",
    "neighbor_table_full": "unit/test_forward_arp.py::test_a_sweep_does_not_cost_known_neighbors_a_packet",
    "reassembly_timeout": "unit/test_forward_counters.py::test_the_laws_hold_at_every_moment",
    "tcp_stray": "unit/test_tcp_states.py::test_strays_are_not_answered_one_by_one",
    "tcp_reset": "unit/test_streams.py::test_a_reset_is_no_end_of_file",
    "tcp_closed": "unit/test_tcp_states.py::test_a_segment_in_a_state",
    "tcp_listen_full": "unit/test_streams.py::test_the_apps_backlog_loses_nothing",
}
F_ADD_SEALS, F_SEAL_GROW, F_SEAL_WRITE = 1033, 4, 8


def frame(destination: str, length: int = 18) -> bytes:
    """A datagram of host a's."""
    return p.ethernet(ROUTER_A, HOST_A, p.IP4, p.datagram4("10.0.0.2", destination, bytes(length)))


def router(routes: dict[str, list[Hop]] | None = None) -> Router:
    """Two sides whose hosts are known."""
    made = Router(two_sided(), routes)
    made.settle()
    made.meet("a", "10.0.0.2", HOST_A)
    made.meet("b", "10.0.1.2", HOST_B)
    return made


def test_every_reason_is_reached_by_a_test() -> None:
    sources = {path: path.read_text() for path in TESTS.rglob("*.py")}
    asserted = set(re.findall(r'"([a-z0-9_]+)"', "\n".join(sources.values())))
    missing = [name for name in DROPS if name not in asserted]
    assert not missing, f"no test names them: {missing}"
    for name, where in LISTED.items():
        file, _, function = where.partition("::")
        assert name in DROPS
        assert not function or f"def {function}(" in sources[TESTS / file], where


def test_a_next_hop_that_leads_nowhere() -> None:
    with router({"172.16.0.0/16": [Hop("10.9.9.9", "lo")]}) as r:
        r.send(1, frame("172.16.0.1"))
        assert r.drops("a") == {"bad_nexthop": 1}


def test_a_port_that_no_interface_has() -> None:
    with Router(two_sided()[:1]) as r:
        r.ports[2] = Port(2)
        r.ports[2].attach(r.core, mtu=1500, up=True)
        r.settle()
        r.send(2, frame("10.0.0.1"))
        assert r.drops(None) == {"no_interface": 1}


def test_a_neighbor_that_takes_nothing_more() -> None:
    with router() as r:
        while not r.drops("a"):
            for _ in range(64):
                r.ports[1].send(frame("10.0.1.2", 1400))
            r.poll()
        assert set(r.drops("a")) == {"tx_full"}


def test_a_device_that_fails() -> None:
    """A capture file that has been sealed takes no more frames."""
    file = os.memfd_create("capture", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with Router([*two_sided(), Interface("c", 0, bytes.fromhex("020000000c01"), [])]) as r:
        r.interfaces["c"] = Interface("c", 3, bytes.fromhex("020000000c01"), ["10.0.3.1/24"])
        r.routes["10.0.3.2/32"] = [Hop("10.0.3.2", "c")]
        r.publish()
        spec = ffi.new("struct port_spec *")
        spec.port, spec.driver, spec.mtu, spec.link_up, spec.generation = 3, lib.DRIVER_PCAP, 1500, 1, 1
        spec.mode = lib.PORT_OUTPUT
        check(lib.core_port_add(r.core, spec, [file], 1))
        fcntl.fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW)
        r.settle()
        assert set(r.drops(None)) == {"tx_error"}  # announcements and probes of our own


GLUE: Final = """
#include "port/port.h"
#include "abi/drop_reason.h"
uint64_t lost_without_buffers(uint32_t buffers, int own, int peer, int own_event, int peer_event)
{
	const struct port_spec spec = {.port = 1, .driver = DRIVER_LINK, .mtu = 1500, .link_up = 1, .generation = 1};
	const int fds[] = {own, peer, own_event, peer_event};
	struct port_state state = {0};
	struct packet_pool *pool = packet_pool_new(buffers, 0);
	struct packet *packets[BATCH_SIZE];
	uint64_t lost[DROP_REASON_COUNT] = {0};
	struct port *port;
	if (pool == NULL || link_open(&spec, fds, 4, &state, &port) < 0)
		return 0;
	(void)port->ops->receive(port, pool, packets, BATCH_SIZE, lost);
	packet_pool_free(pool);
	return lost[DROP_NO_BUFFER];
}
"""
GLUE_SOURCES: Final = (
    "port/link.c", "port/link_end.c", "port/port.c", "port/partial.c",
    "base/packet.c", "base/segment.c", "base/cksum.c",
)  # fmt: skip


STUBS: Final = "".join(
    f"int {name}_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state,"
    " struct port **out) { return -1; }\n"
    for name in ("af_packet", "af_packet_v3", "pcap", "af_xdp", "tap")
)
WRAPPER: Final = "int fault_wrap(struct port *inner, struct port **out) { return -1; }\n"


def test_a_pool_without_buffers() -> None:
    """The driver of a link takes the frames off it, and tells how many it had no room for."""
    declaration = "uint64_t lost_without_buffers(uint32_t buffers, int own, int peer, int own_event, int peer_event);"
    module = build("link_without_buffers", GLUE_SOURCES, declaration, GLUE + STUBS + WRAPPER)
    with router() as r:
        port = r.ports[2]
        for _ in range(10):
            port.send(b"x" * 60)
        near = port.far[1], port.far[0], port.far[3], port.far[2]
        assert module.lib.lost_without_buffers(4, *(os.dup(fd) for fd in near)) == 6
        assert "no_buffer" in DROPS
        r.poll()
