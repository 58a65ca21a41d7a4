"""The forwarder's look at a list, alone: the real stage over a block, and packets made at random."""

from __future__ import annotations

import ipaddress
import random
import struct
from dataclasses import dataclass
from typing import Any, Final

from tests.unit.c_build import build
from vrouter.config.acl import FLAGS, ICMP4, ICMP6, PROTOCOLS, WITH_PORTS, AclEntry
from vrouter.filters import compile as compiled

SOURCES: Final = ("table/filter.c", "table/filter_load.c", "forward/stage_acl.c")
DECLARATIONS: Final = """
int acl_load(const uint8_t *block, uint64_t bytes);
int acl_decide(const uint8_t *packet, uint32_t length, uint32_t entries, uint32_t *entry, uint8_t *mark, int *errors);
uint64_t acl_time(const uint8_t *packets, uint32_t count, uint32_t size, uint32_t rounds);
void acl_unload(void);
"""
CODE: Final = """
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "forward/hand.h"
#include "forward/stage.h"
static struct forward f;
static struct filter_counter counters[MAX_FILTER_COUNTERS];
static int sent;
void icmp4_error(struct forward *a, const struct packet *b, uint8_t c, uint8_t d, uint32_t e) { sent++; }
void icmp6_error(struct forward *a, const struct packet *b, uint8_t c, uint8_t d, uint32_t e) { sent++; }
void hand_error(struct forward *a, const struct packet *b, uint8_t c, uint8_t d, uint8_t e, uint32_t g) { sent++; }
void forward_trace(struct forward *a, const struct packet *b, const char *c, const char *d, ...) { }
bool view_range(const struct tables_view *view, uint64_t offset, uint64_t bytes)
{
	return offset % 8 == 0 && offset <= view->size && bytes <= view->size - offset;
}
int acl_load(const uint8_t *block, uint64_t bytes)
{
	uint64_t at = (sizeof(struct tables_segment) + 7) / 8 * 8;
	uint8_t *base = calloc(1, at + bytes);
	struct filter_table *table = (void *)(base + at);
	memcpy(table, block, bytes);
	if (bytes >= sizeof *table && table->bytes <= bytes)
		table->checksum = filter_checksum(table);
	((struct tables_segment *)(void *)base)->filter_root = at;
	struct tables_view view = {.base = base, .size = at + bytes};
	f.filter_counters = counters;
	filter_close(&f.filters);
	int followed = filter_refresh(&f.filters, &view);
	free(base);
	return followed;
}
void acl_unload(void) { filter_close(&f.filters); }
int acl_decide(const uint8_t *data, uint32_t length, uint32_t entries, uint32_t *entry, uint8_t *mark, int *errors)
{
	static const struct interface_entry in = {.index = 1};
	uint8_t *copy = malloc(length); // exactly as long, for sanitizers
	memcpy(copy, data, length);
	struct packet packet = {.buffer = copy, .room = length, .length = length, .ingress = 1};
	struct stage stage = {.packet = &packet, .interface = &in, .ip = copy, .length = length, .family = copy[0] >> 4,
		.mark = STAGE_NO_MARK};
	memset(counters, 0, (entries + 1) * sizeof *counters);
	sent = 0;
	int reason = stage_acl(&f, &stage);
	*entry = entries + 1; // not counted
	for (uint32_t i = 0; i <= entries; i++)
		if (counters[i].packets != 0)
			*entry = i;
	*mark = stage.mark;
	*errors = sent;
	free(copy);
	return reason == DROP_NONE;
}
uint64_t acl_time(const uint8_t *packets, uint32_t count, uint32_t size, uint32_t rounds)
{
	static const struct interface_entry in = {.index = 1};
	struct timespec before, after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	for (uint32_t round = 0; round < rounds; round++)
		for (uint32_t i = 0; i < count; i++) {
			uint8_t *data = (uint8_t *)(uintptr_t)packets + (size_t)i * size;
			struct packet packet = {.buffer = data, .room = size, .length = size, .ingress = 1};
			struct stage stage = {.packet = &packet, .interface = &in, .ip = data, .length = size,
				.family = data[0] >> 4, .mark = STAGE_NO_MARK};
			stage_acl(&f, &stage);
		}
	clock_gettime(CLOCK_MONOTONIC, &after);
	return (uint64_t)(after.tv_sec - before.tv_sec) * 1000000000u + (uint64_t)(after.tv_nsec - before.tv_nsec);
}
"""


@dataclass(frozen=True)
class Answer:
    """What the forwarder did with a packet; `entry` is None where nothing was counted."""

    passed: bool
    entry: int | None
    mark: int | None
    errors: int


class Stage:
    """The stage with a list."""

    def __init__(self) -> None:
        self._module: Any = build("anabranch_test_acl", SOURCES, DECLARATIONS, CODE)
        self._entries = 0

    def load(self, entries: tuple[AclEntry, ...]) -> bool:
        """Have a list bound to interface 1 for what comes in; entry i is counted in place i."""
        counters = tuple(compiled.Counter(1000 + place, place) for place in range(len(entries) + 1))
        part = compiled.ListPart("test", 1, entries, counters, compiled.compile_list(entries))
        same = bytes(range(64))
        self._entries = len(entries)
        return self.load_block(
            compiled.build([part], [compiled.InterfacePart(1, "test", None, "off", False, same, same)], [])
        )

    def load_block(self, block: bytes) -> bool:
        """Have any block; tells whether it was followed."""
        return bool(self._module.lib.acl_load(block, len(block)))

    def decide(self, packet: bytes) -> Answer:
        """Run a packet."""
        entry, mark, errors = (self._module.ffi.new(kind) for kind in ("uint32_t *", "uint8_t *", "int *"))
        passed = self._module.lib.acl_decide(packet, len(packet), self._entries, entry, mark, errors)
        return Answer(
            bool(passed),
            None if entry[0] > self._entries else entry[0],
            None if mark[0] == compiled.NO_MARK else mark[0],
            errors[0],
        )

    def time(self, packets: bytes, count: int, rounds: int) -> float:
        """Give the nanoseconds that a packet takes; all are of one size."""
        return float(self._module.lib.acl_time(packets, count, len(packets) // count, rounds)) / (count * rounds)


def random_entry(rng: random.Random) -> AclEntry:
    """Make an entry whose values are those of `random_packet`."""
    chosen: dict[str, Any] = {"action": rng.choice(("permit", "deny", "reject"))}
    if rng.random() < 0.2:
        chosen["family"] = rng.choice(("ipv4", "ipv6"))
    for key in ("source", "destination"):
        if rng.random() < 0.6:
            chosen[key] = tuple(_random_prefix(rng) for _ in range(rng.choice((1, 1, 1, 2, 5))))
    kind = rng.choice(("any", "any", "ports", "tcp", "icmp", "icmpv6", "number"))
    if kind == "ports":
        chosen["protocol"] = tuple(rng.sample(sorted(WITH_PORTS), rng.randint(1, 3)))
    elif kind == "number":
        chosen["protocol"] = (rng.choice((0, 6, 17, 44, 47, 50, 59, 60, 255)),)
    elif kind in {"tcp", "icmp", "icmpv6"}:
        chosen["protocol"] = (PROTOCOLS[kind],)
    fragments = rng.random() < 0.1
    if fragments:
        chosen["fragments"] = True
    elif kind in {"ports", "tcp"}:
        for key in ("source_port", "destination_port"):
            if rng.random() < 0.5:
                chosen[key] = tuple(_random_span(rng) for _ in range(rng.choice((1, 1, 3))))
    elif kind in {"icmp", "icmpv6"} and rng.random() < 0.7:
        names = tuple(ICMP4 if kind == "icmp" else ICMP6)
        chosen["icmp_type"] = tuple(rng.choice((*names, "3", "3/1", "128/0")) for _ in range(rng.randint(1, 3)))
    if kind == "tcp" and not fragments and rng.random() < 0.5:
        words = [rng.choice(("", "!")) + flag for flag in rng.sample(sorted(FLAGS), rng.randint(1, 3))]
        chosen["tcp_flags"] = ("established",) if rng.random() < 0.3 else tuple(words)
    if rng.random() < 0.2:
        chosen["dscp"] = tuple(rng.sample(range(64), rng.randint(1, 40)))
    if chosen["action"] == "permit" and rng.random() < 0.3:
        chosen["set_dscp"] = rng.randrange(64)
    return AclEntry(**chosen)


def _random_prefix(rng: random.Random) -> str:
    if rng.random() < 0.5:
        length = rng.choice((0, 8, 13, 24, 31, 32))
        value = 0x0A000000 | rng.getrandbits(3) << 16 | rng.getrandbits(4)
        return str(ipaddress.ip_network((value, length), strict=False))
    length = rng.choice((0, 16, 32, 63, 64, 65, 112, 127, 128))
    value = 0x20010DB8 << 96 | rng.getrandbits(2) << 64 | rng.getrandbits(2) << 63 | rng.getrandbits(3)
    return str(ipaddress.ip_network((value, length), strict=False))


def _random_span(rng: random.Random) -> tuple[int, int]:
    first = rng.choice((0, 1, 22, 53, 80, 1024, 65535, rng.randrange(65536)))
    return first, min(65535, first + rng.choice((0, 0, 1, 100, 70000)))


def _transport(rng: random.Random, protocol: int) -> bytes:
    ports = struct.pack(">HH", *(rng.choice((0, 1, 22, 53, 80, 443, 1024, 65535)) for _ in range(2)))
    if protocol == PROTOCOLS["tcp"]:
        data = ports + bytes(8) + bytes((0x50, rng.choice((2, 16, 18, 17, 4, 20, 0, 255)))) + bytes(6)
    elif protocol in {PROTOCOLS["icmp"], PROTOCOLS["icmpv6"]}:
        data = bytes((rng.choice((0, 3, 5, 8, 11, 128, 129, 133, 135, 136)), rng.choice((0, 0, 1, 4, 13)))) + bytes(6)
    else:
        data = ports + bytes(4)
    data += bytes(rng.choice((0, 0, 5)))
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.15 else data


def random_packet(rng: random.Random) -> bytes:
    """Make an IP packet with a sound IP header, and anything behind it."""
    protocol = rng.choice((1, 6, 6, 17, 17, 33, 47, 50, 58, 58, 59, 132, 136))
    tos = rng.getrandbits(8)
    if rng.random() < 0.5:
        options = bytes((1,)) * rng.choice((0, 0, 0, 4, 40))
        word = rng.choice((0, 0, 0, 0, 0x4000, 0x2000, 0x2001, 1, 2, 100, 0x2000 | rng.getrandbits(13)))
        body = _transport(rng, protocol)
        address = [0x0A000000 | rng.getrandbits(3) << 16 | rng.getrandbits(4) for _ in range(2)]
        head = 20 + len(options)
        return (
            struct.pack(
                ">BBHHHBBHII", 0x40 | head // 4, tos, head + len(body), 1, word, 64, protocol, 0, address[0], address[1]
            )
            + options
            + body
        )
    return _random_ip6(rng, protocol, tos)


def _random_ip6(rng: random.Random, protocol: int, tos: int) -> bytes:
    kinds = [rng.choice((0, 43, 44, 44, 60)) for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3, 15, 16, 17)))]
    body = b""
    following = protocol
    for kind in reversed(kinds):
        if kind == 44:
            word = rng.choice((0, 1, 1, 8, 9, 16, 0xFFF8))
            body = struct.pack(">BBHI", following, 0, word, 7) + body
        else:
            units = rng.choice((0, 0, 1))
            body = bytes((following, units)) + bytes(6 + 8 * units) + body
        following = kind
    body += _transport(rng, protocol)
    if rng.random() < 0.05:
        body = body[: rng.randrange(len(body) + 1)]
    address = [
        0x20010DB8 << 96 | rng.getrandbits(2) << 64 | rng.getrandbits(2) << 63 | rng.getrandbits(3) for _ in range(2)
    ]
    head = struct.pack(">IHBB", 6 << 28 | tos << 20, len(body), following, rng.choice((64, 255)))
    return head + b"".join(value.to_bytes(16, "big") for value in address) + body
