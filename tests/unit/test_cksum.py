from __future__ import annotations

import random
from typing import Any

import pytest

from tests.unit.c_build import build
from tests.unit.packet_pieces import checksum

DECLARATIONS = """
uint64_t cksum_add(uint64_t sum, const void *bytes, size_t length);
uint16_t cksum_fold(uint64_t sum);
uint16_t cksum_finish(uint64_t sum);
uint16_t cksum_finish_udp(uint64_t sum);
uint16_t cksum(const void *bytes, size_t length);
uint64_t cksum_pseudo4(const uint8_t *source, const uint8_t *destination, uint8_t protocol, uint32_t length);
uint64_t cksum_pseudo6(const uint8_t *source, const uint8_t *destination, uint8_t protocol, uint32_t length);
uint32_t wrong_ttls(uint32_t protocol);
uint32_t invalid_after_ffff(void);
uint32_t seen_checksums(void);
"""

# A header whose identification takes every value has nearly every checksum; the TTL of each is
# decremented incrementally and compared with the sum over all of it.
CODE = """
#include <string.h>
#include "base/cksum.h"

static uint8_t seen[65536];

static void put16(uint8_t *at, uint16_t value) { memcpy(at, &value, 2); }
static uint16_t get16(const uint8_t *at) { uint16_t value; memcpy(&value, at, 2); return value; }

static uint16_t decremented(uint8_t *header)
{
    uint16_t before = get16(header + 8), after;
    header[8]--;
    after = get16(header + 8);
    return cksum_replace16(get16(header + 10), before, after);
}

static uint32_t wrong_ttls(uint32_t protocol)
{
    uint8_t header[20] = {0x45, 0, 0, 84, 0, 0, 0, 0, 0, (uint8_t)protocol, 0, 0, 10, 0, 0, 2, 10, 1, 0, 2};
    uint32_t wrong = 0;
    for (uint32_t ttl = 1; ttl < 256; ttl++) {
        for (uint32_t id = 0; id < 65536; id++) {
            uint16_t updated;
            put16(header + 4, (uint16_t)id);
            header[8] = (uint8_t)ttl;
            put16(header + 10, 0);
            put16(header + 10, cksum(header, 20));
            seen[get16(header + 10)] = 1;
            updated = decremented(header);
            put16(header + 10, 0);
            wrong += updated != cksum(header, 20);
        }
    }
    return wrong;
}

static uint32_t seen_checksums(void)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < 65536; i++)
        count += seen[i];
    return count;
}

// A sender may write 0xffff where 0 is meant: the result must still verify.
static uint32_t invalid_after_ffff(void)
{
    uint32_t invalid = 0;
    for (uint32_t ttl = 1; ttl < 256; ttl++) {
        uint8_t header[20] = {0x45, 0, 0, 84, 0, 0, 0, 0, (uint8_t)ttl, 17, 0, 0, 10, 0, 0, 2, 10, 1, 0, 2};
        put16(header + 4, cksum(header, 20));
        put16(header + 10, 0xffff);
        invalid += cksum(header, 20) != 0;
        put16(header + 10, decremented(header));
        invalid += cksum(header, 20) != 0;
    }
    return invalid;
}
"""


@pytest.fixture(scope="module")
def module() -> Any:
    return build("cksum_test", ("base/cksum.c",), DECLARATIONS, CODE)


def in_memory_order(value: int) -> int:
    return int.from_bytes(value.to_bytes(2, "big"), "little")


@pytest.mark.parametrize("protocol", [0, 6, 17, 255])
def test_ttl_decrement_equals_full_sum_for_every_ttl_and_checksum(module: Any, protocol: int) -> None:
    assert module.lib.wrong_ttls(protocol) == 0
    assert module.lib.seen_checksums() >= 65535  # all but 0xffff, which only zeros have


def test_header_with_checksum_ffff_stays_valid(module: Any) -> None:
    assert module.lib.invalid_after_ffff() == 0


@pytest.mark.parametrize("fill", ["random", "ones", "zeros"])
def test_every_length_and_alignment(module: Any, fill: str) -> None:
    source = random.Random(1071)
    data = {"random": source.randbytes(400), "ones": b"\xff" * 400, "zeros": bytes(400)}[fill]
    buffer = module.ffi.from_buffer(data)
    for offset in range(9):
        for length in range(300):
            part = data[offset : offset + length]
            assert module.lib.cksum(buffer + offset, length) == in_memory_order(checksum(part)), (offset, length)


def test_large_range_does_not_overflow(module: Any) -> None:
    data = b"\xff" * 69632
    total = module.lib.cksum_add(2**64 - 1, data, len(data))
    assert module.lib.cksum_fold(total) == 0xFFFF
    data = random.Random(2).randbytes(69631)
    assert module.lib.cksum(data, len(data)) == in_memory_order(checksum(data))


def test_ranges_add_up(module: Any) -> None:
    data = random.Random(3).randbytes(1500)
    for cut in range(0, 1500, 2):
        total = module.lib.cksum_add(module.lib.cksum_add(0, data[:cut], cut), data[cut:], 1500 - cut)
        assert module.lib.cksum_finish(total) == in_memory_order(checksum(data))


def test_udp_never_sends_zero(module: Any) -> None:
    assert module.lib.cksum_finish(0xFFFF) == 0
    assert module.lib.cksum_finish_udp(0xFFFF) == 0xFFFF
    assert module.lib.cksum_finish_udp(0x1234) == module.lib.cksum_finish(0x1234)


def test_pseudo_headers(module: Any) -> None:
    source = random.Random(4)
    for _ in range(200):
        a, b, protocol = source.randbytes(16), source.randbytes(16), source.randrange(256)
        length = source.randrange(65536)
        expected = checksum(a[:4] + b[:4] + bytes([0, protocol]) + length.to_bytes(2, "big"))
        assert module.lib.cksum_finish(module.lib.cksum_pseudo4(a, b, protocol, length)) == in_memory_order(expected)
        length = source.randrange(2**32)
        expected = checksum(a + b + length.to_bytes(4, "big") + bytes([0, 0, 0, protocol]))
        assert module.lib.cksum_finish(module.lib.cksum_pseudo6(a, b, protocol, length)) == in_memory_order(expected)
