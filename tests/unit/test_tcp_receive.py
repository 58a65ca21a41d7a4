"""The receive side of TCP by itself: reassembly, SACK and D-SACK, delayed ACKs, the window.

The oracle is a set of bytes: what arrived, in whatever pieces and order.
"""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from tests.unit.c_build import build

MS: Final = 1_000_000
MSS: Final = 1000

DECLARATIONS: Final = """
struct world;
struct sent { uint32_t count, ack, window, blocks; uint32_t start[4], end[4]; };
struct world *world_new(uint32_t first, uint32_t rcvbuf, uint32_t memory_blocks);
void world_free(struct world *w);
void world_clock(struct world *w, uint64_t now);
void world_fd(struct world *w, bool has, uint32_t room);
uint32_t world_arrive(struct world *w, uint32_t seq, const uint8_t *payload, uint32_t length, int flags,
                      uint32_t unit, int tos);
void world_flush(struct world *w);
uint32_t world_read(struct world *w, uint8_t *to, uint32_t length, bool peek);
uint32_t world_taken(struct world *w, uint8_t *to);
struct sent world_sent(struct world *w);
uint32_t world_events(struct world *w);
uint32_t world_memory(struct world *w);
uint32_t world_next(struct world *w);
uint32_t world_unread(struct world *w);
uint64_t world_ack_at(struct world *w);
bool world_echo(struct world *w);
uint32_t world_rcvbuf(struct world *w);
int world_state(struct world *w);
uint32_t world_blocks(struct world *w);
uint32_t world_peer_mss(struct world *w);
"""

GLUE: Final = r"""
#include <stdlib.h>
#include <sys/uio.h>
#include "host/tcp_internal.h"

struct sent { uint32_t count, ack, window, blocks; uint32_t start[4], end[4]; };
struct world {
    struct tcp tcp; struct host host; struct tcp_socket sockets[1]; struct sent sent;
    uint32_t events, packets, room, taken; bool fd; uint8_t bytes[1 << 22];
};

static struct world *world_of(struct tcp *tcp) { return (struct world *)tcp; }
void tcp_count(struct tcp *tcp, enum tcp_statistic statistic) { tcp->statistics[statistic]++; }
void tcp_dirty(struct tcp *tcp, struct tcp_socket *s) { s->flags |= TCP_DIRTY; }
void tcp_set_state(struct tcp *tcp, struct tcp_socket *s, enum tcp_state state) { s->state = (uint8_t)state; }
void tcp_time_wait(struct tcp *tcp, struct tcp_socket *s) { s->state = TCP_STATE_TIME_WAIT; }
void timer_changed(struct tcp *tcp, struct tcp_socket *s) { }
void tcp_notify(struct tcp *tcp, struct tcp_socket *s, uint32_t events) { world_of(tcp)->events |= events; }
void tcp_send_ack(struct tcp *tcp, struct tcp_socket *s)
{
    struct sent *sent = &world_of(tcp)->sent;
    struct tcp_sack_block blocks[TCP_SACK_BLOCKS];
    uint32_t left = tcp_window_left(s), offer = tcp_window_offer(tcp, s);
    s->rcv_wnd = offer > left ? offer : left;
    s->rcv_wup = s->rcv_nxt;
    sent->count++;
    sent->ack = s->rcv_nxt;
    sent->window = s->rcv_wnd;
    sent->blocks = (uint32_t)tcp_sack_blocks(tcp, s, 4, blocks);
    for (uint32_t i = 0; i < sent->blocks; i++) {
        sent->start[i] = blocks[i].start;
        sent->end[i] = blocks[i].end;
    }
    tcp_ack_sent(tcp, s, 1);
}
static void packet_put_one(void *user, struct packet *packet)
{
    struct world *w = user;
    w->packets--;
    free(packet->buffer);
    free(packet);
}
static uint32_t deliver(void *user, uint32_t slot, const struct iovec *parts, int count)
{
    struct world *w = user;
    uint32_t taken = 0;
    for (int i = 0; i < count && w->fd; i++) {
        uint32_t piece = parts[i].iov_len < w->room ? (uint32_t)parts[i].iov_len : w->room;
        memcpy(w->bytes + w->taken, parts[i].iov_base, piece);
        w->taken += piece;
        w->room -= piece;
        taken += piece;
        if (piece < parts[i].iov_len)
            break;
    }
    return taken;
}
static struct tcp_socket *one(struct world *w) { return &w->sockets[0]; }
static struct world *world_new(uint32_t first, uint32_t rcvbuf, uint32_t memory_blocks)
{
    struct world *w = calloc(1, sizeof(*w));
    w->tcp.host = &w->host;
    w->tcp.sockets = w->sockets;
    w->tcp.config = (struct host_config){
        .rmem_max = 1 << 22, .memory_blocks = memory_blocks, .dsack = 1, .moderate_rcvbuf = 1,
    };
    w->host.now = 5000 * TCP_MS;
    w->host.ops.user = w;
    w->host.ops.packet_put = packet_put_one;
    w->host.ops.deliver = deliver;
    w->tcp.flights = calloc(2, sizeof(*w->tcp.flights));
    w->tcp.ranges = calloc(TCP_MAX_RANGES, sizeof(*w->tcp.ranges));
    w->tcp.block_data = calloc(memory_blocks, TCP_BLOCK);
    w->tcp.block_next = calloc(memory_blocks, sizeof(uint32_t));
    struct tcp_socket *s = one(w);
    s->state = TCP_STATE_ESTABLISHED;
    s->flags = TCP_SACK_OK | TCP_ECN_OK;
    s->rcv_nxt = s->rcv_wup = s->copied_seq = first;
    s->rcvbuf = rcvbuf;
    s->rcv_wnd = s->rcv_ssthresh = rcvbuf / 2;
    s->rcv_wscale = 7;
    s->advertised_mss = 1460;
    s->mss = 1460;
    s->rto_us = 200000;
    tcp_window_start(&w->tcp, s);
    return w;
}
static void world_free(struct world *w)
{
    struct tcp_flight *f = tcp_flight(&w->tcp, one(w));
    while (f->packets != NULL) {
        struct packet *packet = f->packets;
        f->packets = packet->next;
        packet_put_one(w, packet);
    }
    free(w->tcp.flights);
    free(w->tcp.ranges);
    free(w->tcp.block_data);
    free(w->tcp.block_next);
    free(w);
}
static void world_clock(struct world *w, uint64_t now) { w->host.now = now; }
static void world_fd(struct world *w, bool has, uint32_t room) { w->fd = has; w->room = room; }
static uint32_t world_arrive(struct world *w, uint32_t seq, const uint8_t *payload, uint32_t length, int flags,
                             uint32_t unit, int tos)
{
    struct packet *packet = calloc(1, sizeof(*packet));
    packet->buffer = malloc(TCP_HEADER + length);
    packet->room = packet->length = TCP_HEADER + length;
    packet->vnet.gso_size = (uint16_t)unit;
    memcpy(packet->buffer + TCP_HEADER, payload, length);
    w->packets++;
    struct inbound in = {.packet = packet, .tos = (uint8_t)tos};
    struct tcp_arrival a = {
        .in = &in, .header = packet->buffer, .header_length = TCP_HEADER, .seq = seq,
        .flags = (uint8_t)(flags | TCP_ACK),
        .congestion_experienced = tos == 3, .payload = packet->buffer + TCP_HEADER, .length = length,
        .segments = unit != 0 ? (length + unit - 1) / unit : 1,
    };
    a.end = seq + length + !!(flags & TCP_FIN);
    uint32_t reason = tcp_receive(&w->tcp, one(w), &a);
    if (!in.taken)
        packet_put_one(w, packet);
    return reason;
}
static void world_flush(struct world *w)
{
    tcp_deliver(&w->tcp, one(w));
    if (one(w)->flags & TCP_ACK_NOW)
        tcp_send_ack(&w->tcp, one(w));
    tcp_flight_release(&w->tcp, one(w));
}
static uint32_t world_read(struct world *w, uint8_t *to, uint32_t length, bool peek)
{
    return tcp_receive_read(&w->tcp, one(w), to, length, peek);
}
static uint32_t world_taken(struct world *w, uint8_t *to) { memcpy(to, w->bytes, w->taken); return w->taken; }
static struct sent world_sent(struct world *w) { return w->sent; }
static uint32_t world_events(struct world *w) { uint32_t events = w->events; w->events = 0; return events; }
static uint32_t world_memory(struct world *w)
{
    uint32_t ranges = w->tcp.range_used;
    for (uint32_t at = w->tcp.range_free; at != 0; at = w->tcp.ranges[at - 1].next)
        ranges--;
    return w->packets + w->tcp.block_count + ranges;
}
static uint32_t world_next(struct world *w) { return one(w)->rcv_nxt; }
static uint32_t world_unread(struct world *w) { return tcp_unread(&w->tcp, one(w)); }
static uint64_t world_ack_at(struct world *w) { return one(w)->flags & TCP_ACK_PENDING ? one(w)->ack_at : 0; }
static bool world_echo(struct world *w) { return one(w)->flags & TCP_ECN_ECHO; }
static uint32_t world_rcvbuf(struct world *w) { return one(w)->rcvbuf; }
static int world_state(struct world *w) { return one(w)->state; }
static uint32_t world_blocks(struct world *w) { return w->tcp.block_count; }
static uint32_t world_peer_mss(struct world *w) { return one(w)->received_mss; }
"""

SOURCES: Final = tuple(f"host/tcp_{part}.c" for part in ("receive", "range", "window", "delack", "memory", "limit"))
FIN, PSH, CWR = 1, 8, 128
CE, ECT0 = 3, 2
READABLE, PEER_CLOSED = 4, 16
ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, CLOSING, TIME_WAIT = 4, 5, 6, 7, 8, 10
STREAM: Final = random.Random(1).randbytes(1 << 20)
LAST: Final = 0xFFFFF000  # a first sequence number that wraps soon


class World:
    """One connection; positions count from the first byte of the stream."""

    def __init__(self, first: int = LAST, rcvbuf: int = 262144, blocks: int = 1024) -> None:
        """Begin in ESTABLISHED, without an fd."""
        self.module = build("tcp_receive_test", SOURCES, DECLARATIONS, GLUE)
        self.lib: Any = self.module.lib
        self.ffi: Any = self.module.ffi
        self.first = first
        self.now = 5000 * MS
        self.c = self.ffi.gc(self.lib.world_new(first, rcvbuf, blocks), self.lib.world_free)

    def arrive(self, start: int, end: int, flags: int = 0, unit: int = 0, tos: int = 0) -> int:
        """Bytes start..end of the stream arrive."""
        seq = (self.first + start) % 2**32
        return int(self.lib.world_arrive(self.c, seq, STREAM[start:end], end - start, flags, unit, tos))

    def flush(self) -> None:
        self.lib.world_flush(self.c)

    def wait(self, milliseconds: float) -> None:
        self.now += int(milliseconds * MS)
        self.lib.world_clock(self.c, self.now)

    def read(self, length: int, *, peek: bool = False) -> bytes:
        room = self.ffi.new("uint8_t[]", max(length, 1))
        return bytes(self.ffi.buffer(room, self.lib.world_read(self.c, room, length, peek))[:])

    def taken(self) -> bytes:
        room = self.ffi.new("uint8_t[]", 1 << 22)
        return bytes(self.ffi.buffer(room, self.lib.world_taken(self.c, room))[:])

    def position(self, seq: int) -> int:
        return int((seq - self.first) % 2**32)

    def next(self) -> int:
        return self.position(self.lib.world_next(self.c))

    def acks(self) -> int:
        return int(self.lib.world_sent(self.c).count)

    def ack(self) -> tuple[int, list[tuple[int, int]]]:
        """Give the last ACK that was sent: number and blocks."""
        sent = self.lib.world_sent(self.c)
        blocks = [(self.position(sent.start[i]), self.position(sent.end[i])) for i in range(sent.blocks)]
        return self.position(sent.ack), blocks

    def leave_quick_acks(self) -> int:
        """Receive segments until ACKs are delayed; give the position reached."""
        at = 0
        for _ in range(200):
            before = self.acks()
            self.arrive(at, at + MSS)
            at += MSS
            self.flush()
            self.read(MSS)
            self.flush()
            self.wait(1)
            if self.acks() == before:
                self.arrive(at, at + MSS)
                self.flush()
                self.read(2 * MSS)
                self.flush()
                return at + MSS
        pytest.fail("each segment is acknowledged at once")


def intervals(present: set[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, as half-open intervals."""
    out: list[tuple[int, int]] = []
    for value in sorted(present):
        if out and out[-1][1] == value:
            out[-1] = (out[-1][0], value + 1)
        else:
            out.append((value, value + 1))
    return out


def test_in_order_is_delivered_without_blocks() -> None:
    w = World()
    w.lib.world_fd(w.c, True, 1 << 20)
    for at in range(0, 40_000, MSS):
        assert w.arrive(at, at + MSS) == 0
    assert w.lib.world_blocks(w.c) == 0
    w.flush()
    assert w.taken() == STREAM[:40_000]
    assert w.lib.world_memory(w.c) == 0
    assert w.ack() == (40_000, [])


def test_full_fd_leaves_the_rest_where_it_is() -> None:
    w = World()
    w.lib.world_fd(w.c, True, 2500)
    for at in range(0, 10_000, MSS):
        w.arrive(at, at + MSS)
    w.flush()
    assert w.taken() == STREAM[:2500]
    assert w.lib.world_unread(w.c) == 7500
    assert w.lib.world_memory(w.c) == 8  # the packets that are not read to their end, and no copy
    assert w.lib.world_events(w.c) & READABLE
    w.lib.world_fd(w.c, True, 1 << 20)
    w.flush()
    assert w.taken() == STREAM[:10_000]
    assert w.lib.world_memory(w.c) == 0


def test_peek_and_read() -> None:
    w = World()
    w.arrive(0, 9000)
    w.flush()
    assert w.read(5000, peek=True) == STREAM[:5000]
    assert w.read(4500) == STREAM[:4500]
    assert w.read(20_000, peek=True) == STREAM[4500:9000]
    assert w.read(20_000) == STREAM[4500:9000]
    assert w.read(1) == b""
    assert w.lib.world_memory(w.c) == 0


def test_newest_block_first_and_adjacent_ones_are_one() -> None:
    """RFC 2018 section 4."""
    w = World()
    for at in (2, 4, 6, 8, 10):
        w.arrive(at * MSS, (at + 1) * MSS)
    assert w.ack() == (0, [(10000, 11000), (8000, 9000), (6000, 7000), (4000, 5000)])
    w.arrive(5000, 6000)
    assert w.ack() == (0, [(4000, 7000), (10000, 11000), (8000, 9000), (2000, 3000)])
    assert w.acks() == 6  # each at once (RFC 5681 section 4.2)
    w.arrive(0, 2000)
    w.flush()
    assert w.ack() == (3000, [(4000, 7000), (10000, 11000), (8000, 9000)])
    w.arrive(3000, 4000)
    w.arrive(7000, 8000)
    w.arrive(9000, 10_000)
    w.flush()
    assert w.ack() == (11_000, [])
    assert w.read(20_000) == STREAM[:11_000]
    assert w.lib.world_memory(w.c) == 0


def test_duplicates_are_reported_once() -> None:
    """RFC 2883 section 4: below rcv_nxt, inside a range, partly."""
    w = World()
    w.arrive(0, 3000)
    w.flush()
    w.arrive(1000, 2000)
    assert w.ack() == (3000, [(1000, 2000)])
    w.arrive(5000, 8000)
    assert w.ack() == (3000, [(5000, 8000)])
    w.arrive(6000, 7000)
    assert w.ack() == (3000, [(6000, 7000), (5000, 8000)])
    w.arrive(7000, 9000)
    assert w.ack() == (3000, [(7000, 8000), (5000, 9000)])
    w.arrive(2000, 4000)
    w.flush()
    assert w.ack() == (4000, [(2000, 3000), (5000, 9000)])
    w.arrive(4000, 6000)
    w.flush()
    assert w.ack() == (9000, [(5000, 6000)])
    assert w.read(20_000) == STREAM[:9000]


def test_of_several_duplicate_pieces_the_first_is_reported() -> None:
    """RFC 2883 section 4: the lowest one, with what it touches; those of the next segment are news again."""
    w = World()
    w.arrive(0, 1000)
    w.flush()
    for at in (2, 4, 6):
        w.arrive(at * 1000, at * 1000 + 1000)
    w.arrive(1500, 5500)
    assert w.ack() == (1000, [(2000, 3000), (1500, 5500), (6000, 7000)])
    w.arrive(4500, 6500)
    assert w.ack() == (1000, [(4500, 5500), (1500, 7000)])
    w.arrive(500, 8000)
    w.flush()
    assert w.ack() == (8000, [(500, 1000)])
    assert w.read(20_000) == STREAM[:8000]


def test_duplicates_that_touch_are_one() -> None:
    w = World()
    w.arrive(0, 1000)
    w.flush()
    w.arrive(2000, 3000)
    w.arrive(4000, 5000)
    w.arrive(1000, 2500)
    w.flush()
    assert w.ack() == (3000, [(2000, 2500), (4000, 5000)])
    w.arrive(2000, 6000)
    w.flush()
    assert w.ack() == (6000, [(2000, 3000)])


def test_early_fin_is_remembered() -> None:
    w = World()
    w.arrive(2000, 3000, FIN)
    assert w.ack() == (0, [(2000, 3001)])
    assert w.lib.world_state(w.c) == ESTABLISHED
    w.arrive(0, 2000)
    assert w.lib.world_state(w.c) == CLOSE_WAIT
    w.flush()
    assert w.ack() == (3001, [])
    assert not w.lib.world_events(w.c) & PEER_CLOSED  # not before the last byte was taken
    assert w.read(4000) == STREAM[:3000]
    assert w.lib.world_events(w.c) & PEER_CLOSED
    assert w.lib.world_memory(w.c) == 0


def test_lone_early_fin() -> None:
    w = World()
    w.arrive(1000, 1000, FIN)
    assert w.ack() == (0, [(1000, 1001)])
    w.arrive(0, 1000)
    w.flush()
    assert w.lib.world_state(w.c) == CLOSE_WAIT
    assert w.ack() == (1001, [])


def test_nothing_follows_a_fin() -> None:
    w = World()
    w.arrive(0, 1000, FIN)
    w.flush()
    w.arrive(500, 3000)
    w.flush()
    assert w.next() == 1001
    assert w.read(5000) == STREAM[:1000]


def test_every_second_segment_is_acknowledged() -> None:
    w = World()
    at = w.leave_quick_acks()
    for _ in range(10):
        before = w.acks()
        w.arrive(at, at + MSS)
        w.flush()
        assert w.acks() == before
        assert 0 < w.lib.world_ack_at(w.c) - w.now <= 200 * MS
        w.arrive(at + MSS, at + 2 * MSS)
        w.flush()
        w.read(2 * MSS)
        w.flush()
        assert w.acks() == before + 1
        at += 2 * MSS
        w.wait(1)


def test_a_gap_makes_acks_quick() -> None:
    w = World()
    at = w.leave_quick_acks()
    before = w.acks()
    w.arrive(at + MSS, at + 2 * MSS)
    assert w.acks() == before + 1
    w.arrive(at, at + MSS)
    w.flush()
    assert w.acks() == before + 2
    assert w.ack() == (at + 2 * MSS, [])


def test_congestion_is_echoed_until_cwr() -> None:
    """RFC 3168 section 6.1.3."""
    w = World()
    w.arrive(0, MSS, tos=ECT0)
    assert not w.lib.world_echo(w.c)
    w.arrive(MSS, 2 * MSS, tos=CE)
    assert w.lib.world_echo(w.c)
    w.arrive(2 * MSS, 3 * MSS, tos=ECT0)
    assert w.lib.world_echo(w.c)
    w.flush()
    before = w.acks()
    w.arrive(3 * MSS, 4 * MSS, CWR, tos=ECT0)
    w.flush()
    assert not w.lib.world_echo(w.c)
    assert w.acks() == before + 1


def test_peer_mss_of_merged_segments() -> None:
    w = World()
    w.arrive(0, 10_000, PSH, unit=1000)
    assert w.lib.world_peer_mss(w.c) == 1000


def test_window_closes_and_reopens() -> None:
    """No silly window: closed stays closed until there is much room (RFC 9293 section 3.8.6.2.2)."""
    w = World(rcvbuf=65536)
    at, edge = 0, 32768 - MSS
    while at < edge:
        assert w.arrive(at, min(at + MSS, edge)) == 0
        w.flush()
        at = min(at + MSS, edge)
        if w.acks():
            edge = w.ack()[0] + w.lib.world_sent(w.c).window
    assert at <= 32768 + 128  # rounded up to what the scale can say
    before = w.acks()
    w.arrive(at, at + 1)  # a probe is answered, and not taken
    assert w.acks() == before + 1
    assert w.next() == at
    assert w.read(100) == STREAM[:100]
    w.flush()
    assert w.acks() == before + 1
    w.read(20_000)
    w.flush()
    assert w.acks() == before + 2
    assert w.lib.world_sent(w.c).window >= 2 * MSS


def test_buffer_follows_the_app() -> None:
    w = World(rcvbuf=131072)
    w.lib.world_fd(w.c, True, 1 << 22)
    at = 0
    for _ in range(30):
        piece = min(w.lib.world_sent(w.c).window or 20_000, (1 << 20) - at)
        for start in range(at, at + piece, MSS):
            w.arrive(start, min(start + MSS, at + piece))
        at += piece
        w.wait(20)
        w.flush()
    assert w.lib.world_rcvbuf(w.c) > 2 * 131072
    assert w.taken() == STREAM[:at]


def test_every_other_byte_is_bounded() -> None:
    """A peer that makes gaps of single bytes gets no more memory than rcvbuf promises."""
    w = World(rcvbuf=131072)
    refused = 0
    for at in range(1, 20_000, 2):
        refused += w.arrive(at, at + 1) != 0
    assert refused > 0
    assert w.lib.world_blocks(w.c) <= 2 * 131072 // 4096


@pytest.mark.parametrize("seed", range(300))
def test_any_pieces_in_any_order(seed: int) -> None:
    """Random, overlapping, repeated pieces: the stream comes out, ACK and SACK tell the truth."""
    rng = random.Random(seed)
    total = rng.choice((50, 3000, 30_000))
    scarce = rng.random() < 0.2
    w = World(first=rng.choice((LAST, 0, 0x7FFFFFFF - total // 2, 77)), rcvbuf=262144, blocks=12 if scarce else 1024)
    has_fd = rng.random() < 0.5
    w.lib.world_fd(w.c, has_fd, 1 << 22 if has_fd else 0)
    w.lib.world_sent(w.c)
    have: set[int] = set()
    got = b""
    fin_known = False
    for _ in range(100_000):
        longest = rng.choice((1, 40, total // 8 + 1, total // 3 + 1))
        start = rng.randrange(total) if rng.random() < 0.6 else min(w.next(), total - 1)
        end = min(total, start + rng.randint(1, longest))
        fin = end == total and rng.random() < 0.8
        before, acks = w.next(), w.acks()
        new = set(range(start, end)) - have
        stored = w.arrive(start, end, FIN if fin else 0) == 0
        if stored:
            have |= set(range(start, end))
            fin_known |= fin
        elif start <= before:
            assert scarce
        if w.next() > total:
            break
        if w.acks() > acks:
            number, blocks = w.ack()
            known = [b for b in intervals(have) if b[1] > number]
            if start > before and stored and new:
                holder = next(b for b in known if b[0] <= start < b[1])
                shown = [b for b in blocks if b[0] <= start < b[1] and (b[1] - b[0]) >= holder[1] - holder[0]]
                assert shown, (blocks, holder)
            for block in blocks:
                covered = set(range(block[0], min(block[1], total)))
                assert covered <= have or scarce, (block, start, end)
        if rng.random() < 0.3:
            w.flush()
            if not has_fd:
                got += w.read(rng.randint(0, total))
        if not scarce:
            missing = next((b[1] for b in intervals(have) if b[0] == 0), 0)
            assert w.next() == missing + (fin_known and missing == total)
    assert w.next() == total + 1
    w.flush()
    while w.lib.world_unread(w.c):
        got += w.read(5000)
        w.flush()
    assert (w.taken() if has_fd else got) == STREAM[:total]
    w.flush()
    assert w.lib.world_memory(w.c) == 0
    assert w.lib.world_events(w.c) & PEER_CLOSED
