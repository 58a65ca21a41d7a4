"""The sender's half of TCP without a wire: records are made by hand, ACKs by fields, time by an argument."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from tests.unit.c_build import build

if TYPE_CHECKING:
    from collections.abc import Sequence

MSS: Final = 1000
MS: Final = 1_000_000
OPEN, DISORDER, CWR, FAST, LOSS = range(5)
INFINITE: Final = 0x7FFFFFFF
CUBIC, RENO = 0, 1
TLP, REORDER = 3, 4

DECLARATIONS: Final = """
struct view {
    uint32_t cwnd, ssthresh, packets_out, sacked_out, lost_out, retrans_out, recovery;
    uint32_t srtt_us, rttvar_us, rto_us, min_rtt_us, reordering, reordering_seen;
    uint32_t snd_una, snd_nxt, delivered, retransmitted, timer, undone;
    uint64_t timer_at;
};
struct sender;
struct sender *sender_new(
    uint32_t iss, uint64_t now, uint32_t sack, uint32_t rack, uint32_t congestion, uint32_t hystart);
void sender_free(struct sender *w);
void sender_start(struct sender *w, uint32_t rtt_us);
void sender_options(struct sender *w, uint32_t timestamps, uint32_t ecn, uint32_t frto);
void sender_clock(struct sender *w, uint64_t now);
void sender_window(struct sender *w, uint32_t cwnd, uint32_t ssthresh, int limited);
void sender_queue(struct sender *w, uint32_t bytes);
int sender_send(struct sender *w, uint32_t bytes);
void sender_timeout(struct sender *w);
void sender_rack_timeout(struct sender *w);
void sender_tail_probe(struct sender *w);
int sender_ack(
    struct sender *w, uint32_t ack, uint32_t window, uint32_t flags, uint32_t tsecr,
    uint32_t count, const uint32_t *sacks);
void sender_view(const struct sender *w, struct view *view);
int sender_consistent(const struct sender *w);
uint32_t sender_records(const struct sender *w);
"""

CODE: Final = """
#include "host/tcp_internal.h"
#include <stdlib.h>

struct view {
    uint32_t cwnd, ssthresh, packets_out, sacked_out, lost_out, retrans_out, recovery;
    uint32_t srtt_us, rttvar_us, rto_us, min_rtt_us, reordering, reordering_seen;
    uint32_t snd_una, snd_nxt, delivered, retransmitted, timer, undone;
    uint64_t timer_at;
};
struct sender { struct tcp tcp; struct tcp_socket socket; struct host *host; uint64_t undone; };

// --- what other parts of TCP would do ---
void tcp_count(struct tcp *tcp, enum tcp_statistic statistic) { tcp->statistics[statistic]++; }
void tcp_dirty(struct tcp *tcp, struct tcp_socket *s) { (void)tcp; (void)s; }
void tcp_notify(struct tcp *tcp, struct tcp_socket *s, uint32_t events) { (void)tcp; (void)s; (void)events; }
uint16_t tcp_current_mss(struct tcp *tcp, struct tcp_socket *s) { (void)tcp; return s->mss; }
uint32_t tcp_half_window(const struct tcp_socket *s, uint32_t bytes) { (void)s; return bytes; }
void tcp_sync_mss(struct tcp *tcp, struct tcp_socket *s, uint32_t pmtu) { (void)tcp; (void)s; (void)pmtu; }
void tcp_mtu_probe_done(struct tcp *tcp, struct tcp_socket *s, bool arrived) { (void)tcp; (void)s; (void)arrived; }
uint32_t tcp_burst_segments(const struct tcp *tcp, const struct tcp_socket *s, uint16_t mss)
{ (void)tcp; (void)s; (void)mss; return 64; }
uint64_t tcp_rto_ns(const struct tcp *tcp, const struct tcp_socket *s)
{ (void)tcp; return (uint64_t)s->rto_us * 1000 << s->backoff; }
uint64_t tcp_probe_delay(const struct tcp *tcp, const struct tcp_socket *s) { return tcp_rto_ns(tcp, s); }
void tcp_range_purge(struct tcp *tcp, struct tcp_socket *s) { (void)tcp; (void)s; }
bool tcp_transmit(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint32_t length, uint8_t flags, uint16_t mss)
{ (void)tcp; (void)s; (void)seq; (void)length; (void)flags; (void)mss; return true; }
void timer_arm(struct tcp *tcp, struct tcp_socket *s, enum tcp_pending_timer what, uint64_t at)
{ (void)tcp; s->pending_timer = (uint8_t)what; s->retransmit_at = at; }
void timer_stop(struct tcp *tcp, struct tcp_socket *s) { (void)tcp; s->pending_timer = 0; s->retransmit_at = 0; }
void timer_rearm(struct tcp *tcp, struct tcp_socket *s)
{
    if (tcp_flight(tcp, s)->packets_out == 0)
        timer_stop(tcp, s);
    else
        timer_arm(tcp, s, TCP_TIMER_RTO, tcp_now(tcp) + tcp_rto_ns(tcp, s));
}

struct sender *sender_new(
    uint32_t iss, uint64_t now, uint32_t sack, uint32_t rack, uint32_t congestion, uint32_t hystart)
{
    struct sender *w = calloc(1, sizeof(*w));
    w->host = calloc(1, sizeof(*w->host));
    w->host->now = now;
    w->tcp.host = w->host;
    w->tcp.sockets = &w->socket;
    host_config_default(&w->tcp.config);
    w->tcp.config.memory_blocks = 4;
    w->tcp.config.rack = (uint8_t)rack;
    w->tcp.config.hystart = (uint8_t)hystart;
    memory_open(&w->tcp);
    struct tcp_socket *s = &w->socket;
    s->state = TCP_STATE_ESTABLISHED;
    s->cookie = 1;
    s->flags = sack ? TCP_SACK_OK : 0;
    s->congestion = (uint8_t)congestion;
    s->mss = s->mss_clamp = 1000;
    s->iss = iss - 1;
    s->snd_una = s->snd_nxt = s->write_seq = iss;
    s->snd_wnd = s->max_window = 1 << 30;
    s->delivered = 1;
    return w;
}

void sender_free(struct sender *w) { memory_close(&w->tcp); free(w->host); free(w); }
void sender_start(struct sender *w, uint32_t rtt_us) { tcp_congestion_start(&w->tcp, &w->socket, rtt_us); }
void sender_clock(struct sender *w, uint64_t now) { w->host->now = now; }
void sender_queue(struct sender *w, uint32_t bytes) { w->socket.write_seq = w->socket.snd_nxt + bytes; }

void sender_options(struct sender *w, uint32_t timestamps, uint32_t ecn, uint32_t frto)
{
    w->socket.flags |= (timestamps ? TCP_TIMESTAMPS : 0) | (ecn ? TCP_ECN_OK : 0);
    w->tcp.config.frto = (uint8_t)frto;
}

void sender_window(struct sender *w, uint32_t cwnd, uint32_t ssthresh, int limited)
{
    w->socket.cwnd = cwnd;
    w->socket.ssthresh = ssthresh;
    w->socket.engine = limited ? w->socket.engine | TCP_CWND_LIMITED : w->socket.engine & ~(uint32_t)TCP_CWND_LIMITED;
}

int sender_send(struct sender *w, uint32_t bytes)
{
    struct tcp_socket *s = &w->socket;
    struct tcp_segment *segment = segment_append(&w->tcp, s, s->snd_nxt, s->snd_nxt + bytes, 0);
    if (segment == NULL)
        return 0;
    segment->sent_ns = tcp_departure(&w->tcp, tcp_flight(&w->tcp, s));
    segment->first_sent_ms = tcp_now_ms(&w->tcp);
    segment->delivered = s->delivered;
    segment->transmissions = 1;
    s->snd_nxt += bytes;
    if (seq_after(s->snd_nxt, s->write_seq))
        s->write_seq = s->snd_nxt;
    struct tcp_flight *f = tcp_flight(&w->tcp, s);
    f->snd_data_seq = s->write_seq; // its bytes are nowhere
    if (f->packets_out > f->max_packets_out)
        f->max_packets_out = f->packets_out;
    if (s->recovery == TCP_RECOVERY_CWR || s->recovery == TCP_RECOVERY_FAST)
        f->prr_out += segment->count;
    if (s->pending_timer == 0)
        timer_rearm(&w->tcp, s);
    return 1;
}

void tcp_output(struct tcp *tcp, struct tcp_socket *s)
{
    struct sender *w = (struct sender *)tcp;
    const struct tcp_flight *f = tcp_flight(tcp, s);
    while (s->write_seq - s->snd_nxt >= 1000 && tcp_in_flight(f) < s->cwnd && sender_send(w, 1000) != 0)
        continue;
}

void sender_timeout(struct sender *w)
{
    struct tcp_flight *f = tcp_flight(&w->tcp, &w->socket);
    tcp_enter_loss(&w->tcp, &w->socket);
    w->socket.retransmits++;
    if (f->segment_head != 0)
        tcp_retransmit(&w->tcp, &w->socket, segment_at(&w->tcp, f->segment_head), 1);
}

void sender_rack_timeout(struct sender *w) { tcp_rack_timeout(&w->tcp, &w->socket); }

void sender_tail_probe(struct sender *w)
{
    struct tcp_flight *f = tcp_flight(&w->tcp, &w->socket);
    struct tcp_segment *last = segment_at(&w->tcp, f->segment_tail);
    if (last->count > 1 && segment_split(&w->tcp, &w->socket, last, last->end - 1000))
        last = segment_at(&w->tcp, f->segment_tail);
    tcp_resend(&w->tcp, &w->socket, last, 1);
    w->socket.engine |= TCP_TLP_RETRANSMIT;
    f->tlp_high_seq = w->socket.snd_nxt;
}

int sender_ack(
    struct sender *w, uint32_t ack, uint32_t window, uint32_t flags, uint32_t tsecr,
    uint32_t count, const uint32_t *sacks)
{
    struct tcp_arrival a = {.ack = ack, .window = window, .flags = (uint8_t)(flags | TCP_ACK), .segments = 1};
    a.options.has_timestamp = tsecr != 0;
    a.options.tsecr = tsecr;
    a.options.sack_count = (uint8_t)count;
    for (uint32_t i = 0; i < count && i < TCP_SACK_BLOCKS; i++)
        a.options.sacks[i] = (struct tcp_sack_block){sacks[2 * i], sacks[2 * i + 1]};
    return (int)tcp_ack(&w->tcp, &w->socket, &a);
}

void sender_view(const struct sender *w, struct view *v)
{
    const struct tcp_socket *s = &w->socket;
    const struct tcp_flight *f = tcp_flight(&w->tcp, s);
    *v = (struct view){
        s->cwnd, s->ssthresh, f->packets_out, f->sacked_out, f->lost_out, f->retrans_out, s->recovery,
        s->srtt_us, s->rttvar_us, s->rto_us, s->min_rtt_us, s->reordering, s->reordering_seen,
        s->snd_una, s->snd_nxt, s->delivered, s->total_retrans, s->pending_timer,
        (uint32_t)w->tcp.statistics[TCP_STAT_UNDONE], s->retransmit_at};
}

// Do the counters say what the records say, and do the records cover snd_una..snd_nxt?
int sender_consistent(const struct sender *w)
{
    const struct tcp_socket *s = &w->socket;
    const struct tcp_flight *f = tcp_flight(&w->tcp, s);
    uint32_t out = 0, sacked = 0, lost = 0, retransmitted = 0, next = s->snd_una, previous = 0;
    for (uint32_t at = f->segment_head; at != 0; previous = at, at = segment_at(&w->tcp, at)->next) {
        const struct tcp_segment *segment = segment_at(&w->tcp, at);
        uint32_t length = segment->end - segment->seq;
        if (segment->seq != next || length == 0 || segment->previous != previous)
            return 0;
        if (segment->count != (length + 999) / 1000)
            return 0;
        if ((segment->flags & SEGMENT_SACKED) && (segment->flags & SEGMENT_LOST))
            return 0;
        next = segment->end;
        out += segment->count;
        sacked += segment->flags & SEGMENT_SACKED ? segment->count : 0;
        lost += segment->flags & SEGMENT_LOST ? segment->count : 0;
        retransmitted += segment->flags & SEGMENT_RETRANSMITTED ? segment->count : 0;
    }
    if (next != s->snd_nxt || previous != f->segment_tail)
        return 0;
    if (out != f->packets_out || lost != f->lost_out || retransmitted != f->retrans_out)
        return 0;
    if (!(s->flags & TCP_SACK_OK))
        return f->sacked_out + f->lost_out <= f->packets_out;
    return sacked == f->sacked_out;
}

uint32_t sender_records(const struct sender *w)
{
    uint32_t records = 0;
    for (uint32_t at = tcp_flight(&w->tcp, &w->socket)->segment_head; at != 0; at = segment_at(&w->tcp, at)->next)
        records++;
    return records;
}
"""

SOURCES: Final = tuple(
    f"host/{name}.c"
    for name in (
        *("tcp_ack", "tcp_sack", "tcp_rack", "tcp_rtt", "tcp_recovery", "tcp_undo", "tcp_congestion", "tcp_cubic"),
        *("tcp_memory", "tcp_queue", "tcp_unsent", "tcp_retransmit", "tcp_limit", "config"),
    )
)


@dataclasses.dataclass
class Setup:
    """How a sender is made."""

    sack: bool = True
    rack: bool = True
    congestion: int = CUBIC
    hystart: int = 0
    timestamps: bool = False
    ecn: bool = False
    frto: bool = True
    iss: int = 1
    rtt_ms: int = 100


class Sender:
    """A sender with segments of 1000 bytes; sequence numbers are relative to the first byte."""

    def __init__(self, setup: Setup | None = None) -> None:
        self.setup = setup or Setup()
        module = build("_tcp_sender", SOURCES, DECLARATIONS, CODE)
        self._lib, self._ffi = module.lib, module.ffi
        self.now = 10_000 * MS
        self._last_acked = 0
        s = self.setup
        self._c = self._ffi.gc(
            self._lib.sender_new(s.iss, self.now, s.sack, s.rack, s.congestion, s.hystart), self._lib.sender_free
        )
        self._lib.sender_options(self._c, s.timestamps, s.ecn, s.frto)
        self._lib.sender_start(self._c, s.rtt_ms * 1000)

    def view(self) -> Any:
        """Give the state, after a look at the accounts."""
        assert self._lib.sender_consistent(self._c)
        view = self._ffi.new("struct view *")
        self._lib.sender_view(self._c, view)
        return view

    def wait(self, ms: float) -> None:
        """Let time pass."""
        self.now += int(ms * MS)
        self._lib.sender_clock(self._c, self.now)

    def window(self, cwnd: int, ssthresh: int = INFINITE, *, limited: bool = True) -> None:
        """Set the congestion window."""
        self._lib.sender_window(self._c, cwnd, ssthresh, limited)

    def queue(self, segments: int) -> None:
        """Have that much unsent data."""
        self._lib.sender_queue(self._c, segments * MSS)

    def send(self, segments: int) -> None:
        """Send as one super-segment."""
        assert self._lib.sender_send(self._c, segments * MSS)

    def send_bytes(self, length: int) -> None:
        """Send so many bytes."""
        assert self._lib.sender_send(self._c, length)

    def timeout(self) -> None:
        """Let the retransmission timer run out."""
        self._lib.sender_timeout(self._c)

    def reorder_timeout(self) -> None:
        """Let the reordering timer run out."""
        self._lib.sender_rack_timeout(self._c)

    def tail_probe(self) -> None:
        """Send the last segment again."""
        self._lib.sender_tail_probe(self._c)

    def records(self) -> int:
        """Give the number of records."""
        return int(self._lib.sender_records(self._c))

    def ack(
        self,
        segments: float,
        *sacks: tuple[float, float],
        flags: int = 0,
        echo_ms: int = 0,
        window: int = 1 << 30,
    ) -> int:
        """Take an ACK; positions are in segments."""
        blocks = [self._at(edge) for block in sacks for edge in block]
        return self.ack_raw(self._at(segments), blocks, flags=flags, echo_ms=echo_ms, window=window)

    def ack_raw(
        self, ack: int, sacks: Sequence[int], *, flags: int = 0, echo_ms: int = 0, window: int = 1 << 30
    ) -> int:
        """Take an ACK with plain sequence numbers."""
        edges = [edge & 0xFFFFFFFF for edge in sacks]
        return int(
            self._lib.sender_ack(
                self._c, ack & 0xFFFFFFFF, window, flags, echo_ms, len(edges) // 2, self._ffi.new("uint32_t[]", edges)
            )
        )

    def _at(self, segments: float) -> int:
        return (self.setup.iss + int(segments * MSS)) & 0xFFFFFFFF
