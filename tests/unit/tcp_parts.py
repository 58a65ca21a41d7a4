"""Parts of TCP by themselves, compiled with glue to Python: signatures, SYN cookies, records of TIME-WAIT."""

from __future__ import annotations

import functools
import ipaddress
from typing import Any, Final

from tests.unit.c_build import build

SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
SYN, RST, ACK, FIN = 2, 4, 16, 1
TIME_WAIT, FIN_WAIT_2 = 10, 6
REOPEN: Final = 0xFFFF  # what the glue makes of DROP_REASON_COUNT

DECLARATIONS: Final = """
void md5(const uint8_t *data, size_t bytes, size_t step, uint8_t *digest);
struct world;
struct world *world_new(void);
void world_free(struct world *w);
void world_clock(struct world *w, uint64_t now);
void world_config(struct world *w, int rfc1337, int reuse, int listener);
struct segment {
    uint8_t family; uint8_t local[16], remote[16]; uint16_t local_port, remote_port;
    uint32_t seq, ack; uint8_t flags; bool stamped; uint32_t tsval, tsecr; uint16_t mss;
    bool has_wscale; uint8_t wscale; bool sack; uint32_t length; uint8_t payload[64];
};
struct reply { uint32_t count, seq, ack, tsecr; uint8_t flags; bool stamped; };
int auth_set(struct world *w, const uint8_t *peer, uint8_t prefix, const uint8_t *key, uint8_t length);
uint32_t auth_find(struct world *w, const uint8_t *peer);
uint32_t auth_in_use(struct world *w);
void auth_forget(struct world *w);
uint32_t auth_sign(struct world *w, uint32_t key, const struct segment *g, uint8_t *out);
bool auth_check(struct world *w, uint32_t key, const struct segment *g, uint8_t *bytes, uint32_t length,
                bool is_signed);
uint32_t cookie_make(struct world *w, const struct segment *g, uint16_t *mss);
uint16_t cookie_check(struct world *w, const struct segment *g);
uint32_t cookie_stamp(struct world *w, const struct segment *g, uint32_t tsval);
int cookie_options(struct world *w, const struct segment *g);
void wait_enter(struct world *w, const struct segment *g, int state, uint64_t life, uint32_t window);
uint32_t wait_input(struct world *w, const struct segment *g, uint32_t *iss, struct reply *reply);
int wait_state(struct world *w, const struct segment *g);
bool wait_reuse(struct world *w, const struct segment *g);
uint32_t wait_count(struct world *w);
uint64_t wait_deadline(struct world *w);
void wait_tick(struct world *w);
"""

GLUE: Final = r"""
#include <stdlib.h>
#include "base/md5.h"
#include "host/tcp_internal.h"

void md5(const uint8_t *data, size_t bytes, size_t step, uint8_t *digest)
{
    struct md5 sum;
    md5_begin(&sum);
    for (size_t at = 0; at < bytes; at += step)
        md5_add(&sum, data + at, bytes - at < step ? bytes - at : step);
    md5_end(&sum, digest);
}

struct segment {
    uint8_t family; uint8_t local[16], remote[16]; uint16_t local_port, remote_port;
    uint32_t seq, ack; uint8_t flags; bool stamped; uint32_t tsval, tsecr; uint16_t mss;
    bool has_wscale; uint8_t wscale; bool sack; uint32_t length; uint8_t payload[64];
};
struct reply { uint32_t count, seq, ack, tsecr; uint8_t flags; bool stamped; };
struct world {
    struct tcp tcp; struct host host; struct state_segment *state;
    struct tcp_socket socket; bool listener; struct reply reply;
};

void tcp_count(struct tcp *tcp, enum tcp_statistic statistic) { tcp->statistics[statistic]++; }
uint32_t tcp_hash(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
                  uint16_t remote_port)
{
    return (uint32_t)(local[15] * 7 + remote[15] * 31 + local_port * 3 + remote_port);
}
struct tcp_socket *tcp_find_listener(const struct tcp *tcp, const uint8_t *local, uint16_t port, uint16_t interface,
                                     uint32_t hash)
{
    struct world *w = (struct world *)tcp;
    return w->listener ? &w->socket : NULL;
}
void tcp_set_state(struct tcp *tcp, struct tcp_socket *s, enum tcp_state state) { s->state = (uint8_t)state; }
uint32_t tcp_timestamp_offset(const struct tcp *tcp, const uint8_t *local, const uint8_t *remote) { return 12345; }
void tcp_reply(struct tcp *tcp, const struct tcp_arrival *arrival, const struct tcp_reply *reply)
{
    struct world *w = (struct world *)tcp;
    w->reply = (struct reply){w->reply.count + 1, reply->seq, reply->ack, reply->tsecr, reply->flags, reply->timestamp};
}

struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof(*w));
    w->state = calloc(1, sizeof(*w->state));
    w->host.state = w->state;
    w->tcp.host = &w->host;
    w->tcp.timewaits = w->state->tcp_timewaits;
    w->tcp.timewait_more = calloc(MAX_TCP_TIMEWAITS, sizeof(*w->tcp.timewait_more));
    w->tcp.timewait_heads = calloc(TCP_TIMEWAIT_HASH, sizeof(*w->tcp.timewait_heads));
    w->tcp.keys = calloc(TCP_MAX_KEYS, sizeof(*w->tcp.keys));
    w->tcp.secret[2] = 0x0123456789abcdef;
    w->tcp.secret[3] = 0xfedcba9876543210;
    w->tcp.config = (struct host_config){
        .timewait_s = 60, .stray_interval_ms = 500, .timestamps = 1, .sack = 1, .window_scaling = 1,
        .ecn = 2, .timewait_reuse = 1
    };
    return w;
}

void world_free(struct world *w)
{
    free(w->tcp.timewait_more);
    free(w->tcp.timewait_heads);
    free(w->tcp.keys);
    free(w->state);
    free(w);
}

void world_clock(struct world *w, uint64_t now) { w->host.now = now; }

void world_config(struct world *w, int rfc1337, int reuse, int listener)
{
    w->tcp.config.rfc1337 = (uint8_t)rfc1337;
    w->tcp.config.timewait_reuse = (uint8_t)reuse;
    w->listener = listener;
}

// The segment as it would arrive, without IP header and options.
struct taken { struct inbound in; struct tcp_arrival arrival; uint8_t bytes[128]; };
static void take(const struct segment *g, struct taken *t)
{
    memset(t, 0, sizeof(*t));
    store16(t->bytes, g->remote_port);
    store16(t->bytes + 2, g->local_port);
    t->bytes[12] = 0x50;
    memcpy(t->bytes + TCP_HEADER, g->payload, g->length);
    t->in.ip = t->bytes;
    t->in.length = TCP_HEADER + g->length;
    t->in.flow.family = g->family;
    t->in.flow.interface = 1;
    t->arrival = (struct tcp_arrival){
        .in = &t->in, .header = t->bytes, .header_length = TCP_HEADER, .seq = g->seq, .ack = g->ack, .flags = g->flags,
        .payload = t->bytes + TCP_HEADER, .length = g->length, .segments = 1,
        .end = g->seq + g->length + !!(g->flags & TCP_SYN) + !!(g->flags & TCP_FIN),
        .options = {.has_timestamp = g->stamped, .tsval = g->tsval, .tsecr = g->tsecr,
            .has_mss = g->mss != 0, .mss = g->mss,
            .has_wscale = g->has_wscale, .wscale = g->wscale, .sack_permitted = g->sack}
    };
    memcpy(t->arrival.local, g->local, 16);
    memcpy(t->arrival.remote, g->remote, 16);
}

int auth_set(struct world *w, const uint8_t *peer, uint8_t prefix, const uint8_t *key, uint8_t length)
{
    struct tcp_key k = {.prefix = prefix, .length = length};
    memcpy(k.address, peer, 16);
    if (length <= TCP_KEY_LENGTH)
        memcpy(k.key, key, length);
    return tcp_auth_set(&w->tcp, &w->socket, &k);
}

uint32_t auth_find(struct world *w, const uint8_t *peer) { return tcp_auth_key(&w->tcp, &w->socket, peer, 1); }
void auth_forget(struct world *w) { tcp_auth_release(&w->tcp, &w->socket); }

uint32_t auth_in_use(struct world *w)
{
    uint32_t used = w->tcp.key_used;
    for (uint32_t at = w->tcp.key_free; at != 0; at = w->tcp.keys[at - 1].next)
        used--;
    return used;
}

// A header of 40 bytes with the signature as its only option.
uint32_t auth_sign(struct world *w, uint32_t key, const struct segment *g, uint8_t *out)
{
    struct taken t;
    uint32_t header = TCP_HEADER + tcp_auth_bytes(&w->tcp, key);
    take(g, &t);
    memcpy(out, t.bytes, TCP_HEADER);
    store32(out + 4, g->seq);
    store32(out + 8, g->ack);
    out[12] = (uint8_t)(header / 4 << 4);
    out[13] = g->flags;
    store16(out + 14, 0xfaf0);
    store16(out + TCP_CHECKSUM, 0xbeef);
    memcpy(out + header, g->payload, g->length);
    tcp_auth_sign(&w->tcp, key, g->family, g->remote, g->local, out, header, TCP_HEADER, out + header, g->length);
    return header + g->length;
}

bool auth_check(struct world *w, uint32_t key, const struct segment *g, uint8_t *bytes, uint32_t length, bool is_signed)
{
    struct inbound in = {.ip = bytes, .length = length, .flow = {.family = g->family}};
    struct tcp_arrival arrival = {.in = &in, .header = bytes, .header_length = 40};
    arrival.options.md5 = is_signed ? bytes + TCP_HEADER + 4 : NULL;
    memcpy(arrival.local, g->local, 16);
    memcpy(arrival.remote, g->remote, 16);
    return tcp_auth_check(&w->tcp, key, &arrival) == DROP_NONE;
}

uint32_t cookie_make(struct world *w, const struct segment *g, uint16_t *mss)
{
    struct taken t;
    take(g, &t);
    return tcp_cookie_make(&w->tcp, &t.arrival, mss);
}

uint16_t cookie_check(struct world *w, const struct segment *g)
{
    struct taken t;
    take(g, &t);
    return tcp_cookie_check(&w->tcp, &t.arrival);
}

uint32_t cookie_stamp(struct world *w, const struct segment *g, uint32_t tsval)
{
    struct taken t;
    take(g, &t);
    return tcp_cookie_timestamp(&w->tcp, &t.arrival, tsval);
}

int cookie_options(struct world *w, const struct segment *g)
{
    struct taken t;
    struct tcp_options options;
    bool ecn;
    take(g, &t);
    if (!tcp_cookie_options(&w->tcp, &t.arrival, &options, &ecn))
        return -1;
    return (options.has_wscale ? options.wscale : 15) | options.sack_permitted << 4 | ecn << 5;
}

void wait_enter(struct world *w, const struct segment *g, int state, uint64_t life, uint32_t window)
{
    struct tcp_socket s = {
        .local_port = g->local_port, .remote_port = g->remote_port, .rcv_nxt = g->seq, .rcv_wup = g->seq,
        .snd_nxt = g->ack,
        .rcv_wnd = window, .rcv_wscale = 2, .wire_family = g->family, .ts_recent = g->tsval,
        .flags = g->stamped ? TCP_TIMESTAMPS : 0
    };
    memcpy(s.local, g->local, 16);
    memcpy(s.remote, g->remote, 16);
    tcp_timewait_enter(&w->tcp, &s, (enum tcp_state)state, life);
}

static struct tcp_timewait *find(struct world *w, const struct segment *g)
{
    return tcp_find_timewait(&w->tcp, g->local, g->local_port, g->remote, g->remote_port);
}

uint32_t wait_input(struct world *w, const struct segment *g, uint32_t *iss, struct reply *reply)
{
    struct taken t;
    take(g, &t);
    memset(&w->reply, 0, sizeof(w->reply));
    enum drop_reason reason = tcp_timewait_input(&w->tcp, find(w, g), &t.arrival, iss);
    *reply = w->reply;
    return reason == DROP_REASON_COUNT ? 0xffff : (uint32_t)reason;
}

int wait_state(struct world *w, const struct segment *g)
{
    struct tcp_timewait *record = find(w, g);
    return record == NULL ? 0 : record->state;
}

bool wait_reuse(struct world *w, const struct segment *g)
{
    struct tcp_socket s = {.local_port = g->local_port, .remote_port = g->remote_port};
    memcpy(s.local, g->local, 16);
    memcpy(s.remote, g->remote, 16);
    return tcp_timewait_reuse(&w->tcp, &s);
}

uint32_t wait_count(struct world *w) { return w->tcp.timewait_count; }
uint64_t wait_deadline(struct world *w) { return tcp_timewait_deadline(&w->tcp); }
void wait_tick(struct world *w) { tcp_timewait_tick(&w->tcp); }
"""
SOURCES: Final = ("base/md5.c", "base/siphash.c", "host/tcp_auth.c", "host/tcp_cookie.c", "host/tcp_timewait.c")


class World:
    """The compiled parts, with a clock."""

    def __init__(self) -> None:
        self.module = build("_tcp_parts_test", SOURCES, DECLARATIONS, GLUE)
        self.lib, self.ffi = self.module.lib, self.module.ffi
        self.c = self.ffi.gc(self.lib.world_new(), self.lib.world_free)
        self.now = 0

    def at(self, now: int) -> None:
        self.now = now
        self.lib.world_clock(self.c, now)

    def segment(self, **fields: Any) -> Any:
        fields.setdefault("local", "::ffff:192.0.2.1")
        fields.setdefault("remote", "::ffff:192.0.2.9")
        fields.setdefault("local_port", 179)
        fields.setdefault("remote_port", 40000)
        payload = fields.pop("payload", b"")
        fields.setdefault("family", 4 if fields["local"].startswith("::ffff:") else 6)
        for end in ("local", "remote"):
            fields[end] = address(fields[end])
        made = self.ffi.new("struct segment *", fields)
        made.length = len(payload)
        self.ffi.buffer(made.payload)[: len(payload)] = payload
        return made

    def wait(self, **fields: Any) -> tuple[int, Any, int]:
        iss, reply = self.ffi.new("uint32_t *"), self.ffi.new("struct reply *")
        reason = self.lib.wait_input(self.c, self.segment(**fields), iss, reply)
        return reason, reply, iss[0]


@functools.cache
def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed
