"""Glue for the tests of fragmentation and segmentation: bytes and a vnet header in, packets out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tests.unit.c_build import build

NEEDS_CSUM: Final = 1
TCPV4: Final = 1
TCPV6: Final = 4
UDP_L4: Final = 5
ECN: Final = 0x80
FORWARDED: Final = 0
FRAGMENT: Final = 2

_SOURCES: Final = (
    "base/packet.c",
    "base/cksum.c",
    "wire/ip6.c",
    "forward/fragment.c",
    "forward/offload.c",
)
_DECLARATIONS: Final = """
struct packet { uint32_t length; uint8_t account; uint16_t ingress; struct packet *next; ...; };
struct forward;
struct forward *plane_new(uint32_t ordinary);
void plane_free(struct forward *f);
struct packet *plane_packet(struct forward *f, const uint8_t *bytes, uint32_t length);
void plane_vnet(struct packet *packet, int flags, int gso_type, int gso_size, int csum_start, int csum_offset);
void plane_lend(struct packet *packet, uint32_t head);
uint8_t *plane_data(struct packet *packet);
void packet_gather(struct packet *packet);
struct packet *plane_clone(struct forward *f, const struct packet *packet);
uint32_t plane_free_buffers(struct forward *f);
struct packet *fragment4(struct forward *f, struct packet *packet, uint32_t mtu);
struct packet *fragment6(struct forward *f, struct packet *packet, uint32_t mtu);
struct packet *offload_segment(struct forward *f, struct packet *packet);
uint32_t offload_unit(const struct packet *packet);
bool offload_finish_checksum(struct packet *packet);
void packet_put_chain(struct forward *f, struct packet *chain);
bool packet_push(struct packet *packet, uint32_t bytes);
void packet_pull(struct packet *packet, uint32_t bytes);
"""
_CODE: Final = """
#include <stdlib.h>
#include <string.h>
#include "abi/limits.h"
#include "forward/forward.h"

uint64_t forward_random(struct forward *f) { return ++f->random; }

static struct forward *plane_new(uint32_t ordinary)
{
    struct forward *f = calloc(1, sizeof *f);
    f->pool = packet_pool_new(ordinary, 128);
    return f;
}

static void plane_free(struct forward *f)
{
    packet_pool_free(f->pool);
    free(f);
}

static struct packet *plane_packet(struct forward *f, const uint8_t *bytes, uint32_t length)
{
    struct packet *packet = packet_get(f->pool, length);
    if (packet == NULL)
        return NULL;
    packet->length = length;
    packet->ingress = 7;
    memcpy(packet_data(packet), bytes, length);
    return packet;
}

static void plane_vnet(struct packet *packet, int flags, int gso_type, int gso_size, int csum_start, int csum_offset)
{
    packet->vnet = (struct virtio_net_hdr){.flags = (uint8_t)flags, .gso_type = (uint8_t)gso_type,
        .gso_size = (uint16_t)gso_size, .csum_start = (uint16_t)csum_start, .csum_offset = (uint16_t)csum_offset};
}

// All but the first bytes lie elsewhere from now on, in parts of a size that divides nothing.
static void plane_lend(struct packet *packet, uint32_t head)
{
    static uint8_t bytes[65536];
    uint32_t rest = packet->length - head;
    memcpy(bytes, packet_data(packet) + head, rest);
    memset(packet_data(packet) + head, 0xdd, rest);
    for (uint32_t at = 0; at < rest; at += 4099)
        packet_parts(packet)[packet->part_count++] =
            (struct iovec){.iov_base = bytes + at, .iov_len = rest - at < 4099 ? rest - at : 4099};
    packet->length = head;
    packet->part_bytes = rest;
}

static uint8_t *plane_data(struct packet *packet) { return packet_data(packet); }

static struct packet *plane_clone(struct forward *f, const struct packet *packet)
{
    return packet_clone(f->pool, packet);
}

// Ordinary ones; takes all and gives them back.
static uint32_t plane_free_buffers(struct forward *f)
{
    struct packet *chain = NULL, *packet;
    uint32_t count = 0;
    while ((packet = packet_get(f->pool, 1)) != NULL) {
        packet->next = chain;
        chain = packet;
        count++;
    }
    packet_put_chain(f, chain);
    return count;
}
"""


@dataclass(frozen=True)
class Piece:
    data: bytes
    account: int
    ingress: int


class Plane:
    """A pool of packets and the functions that cut them."""

    def __init__(self, buffers: int = 2048) -> None:
        module = build("packet_pieces", _SOURCES, _DECLARATIONS, _CODE)
        self.ffi: Any = module.ffi
        self.lib: Any = module.lib
        self.buffers = buffers
        self._plane = self.ffi.gc(self.lib.plane_new(buffers), self.lib.plane_free)

    def packet(self, data: bytes, vnet: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)) -> Any:
        packet = self.lib.plane_packet(self._plane, data, len(data))
        assert packet != self.ffi.NULL
        self.lib.plane_vnet(packet, *vnet)
        return packet

    def lent(self, data: bytes, head: int, vnet: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)) -> Any:
        """Give a packet of which all but its head lies in parts."""
        packet = self.packet(data, vnet)
        self.lib.plane_lend(packet, head)
        return packet

    def clone(self, packet: Any) -> Any:
        return self.lib.plane_clone(self._plane, packet)

    def data(self, packet: Any) -> bytes:
        return bytes(self.ffi.buffer(self.lib.plane_data(packet), packet.length))

    def free(self, packet: Any) -> None:
        self.lib.packet_put_chain(self._plane, packet)

    def all_returned(self) -> bool:
        return bool(self.lib.plane_free_buffers(self._plane) == self.buffers)

    def _collect(self, packet: Any, chain: Any) -> list[Piece] | None:
        if chain == self.ffi.NULL:
            self.free(packet)
            return None
        pieces = []
        at = chain
        while at != self.ffi.NULL:
            pieces.append(Piece(self.data(at), at.account, at.ingress))
            at = at.next
        self.free(chain)
        return pieces

    def fragment4(self, data: bytes, mtu: int) -> list[Piece] | None:
        packet = self.packet(data)
        return self._collect(packet, self.lib.fragment4(self._plane, packet, mtu))

    def fragment6(self, data: bytes, mtu: int) -> list[Piece] | None:
        packet = self.packet(data)
        return self._collect(packet, self.lib.fragment6(self._plane, packet, mtu))

    def segment(self, data: bytes, vnet: tuple[int, int, int, int, int]) -> list[Piece] | None:
        return self.cut(self.packet(data, vnet))

    def cut(self, packet: Any) -> list[Piece] | None:
        return self._collect(packet, self.lib.offload_segment(self._plane, packet))

    def unit(self, data: bytes, vnet: tuple[int, int, int, int, int]) -> int:
        packet = self.packet(data, vnet)
        unit = int(self.lib.offload_unit(packet))
        self.free(packet)
        return unit


def checksum(data: bytes, start: int = 0) -> int:
    """Compute the Internet checksum word by word, as RFC 1071 tells it."""
    if len(data) % 2:
        data += b"\0"
    total = start + sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip4(payload: bytes, protocol: int, *, options: bytes = b"", fragment: int = 0, number: int = 0x1234) -> bytes:
    """Make an IPv4 packet with a right header checksum."""
    assert len(options) % 4 == 0
    words = 5 + len(options) // 4
    total = words * 4 + len(payload)
    header = bytes([0x40 | words, 0x2C]) + total.to_bytes(2, "big") + number.to_bytes(2, "big")
    header += fragment.to_bytes(2, "big") + bytes([61, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]) + options
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload


IP6_SOURCE: Final = bytes.fromhex("20010db8000000000000000000000001")
IP6_DESTINATION: Final = bytes.fromhex("20010db80001000000000000000000fe")


def ip6(payload: bytes, following: int) -> bytes:
    """Make an IPv6 packet; `following` is its first next-header number."""
    head = bytes([0x60, 1, 2, 3]) + len(payload).to_bytes(2, "big") + bytes([following, 61])
    return head + IP6_SOURCE + IP6_DESTINATION + payload


def pseudo_sum(packet: bytes, protocol: int, length: int) -> int:
    """Sum up the pseudo header of a packet of either family."""
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return sum(int.from_bytes(addresses[i : i + 2], "big") for i in range(0, len(addresses), 2)) + protocol + length
