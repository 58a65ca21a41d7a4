"""Parts of TCP by themselves: MD5, signatures (RFC 2385), SYN cookies, records of TIME-WAIT."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import random
import struct
from typing import Any, Final

import pytest

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


@pytest.fixture
def world() -> World:
    return World()


@functools.cache
def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def md5(world: World, data: bytes, step: int) -> str:
    digest = world.ffi.new("uint8_t[16]")
    world.lib.md5(data, len(data), step, digest)
    return bytes(digest).hex()


# RFC 1321, appendix A.5.
VECTORS: Final = {
    b"": "d41d8cd98f00b204e9800998ecf8427e",
    b"a": "0cc175b9c0f1b6a831c399e269772661",
    b"abc": "900150983cd24fb0d6963f7d28e17f72",
    b"message digest": "f96b697d7cb7938d525a2f31aaf161d0",
    b"abcdefghijklmnopqrstuvwxyz": "c3fcd3d76192e4007dfb496cca67e13b",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": "d174ab98d277d9f5a5611c2c9f419d9f",
    b"1234567890" * 8: "57edf4a22be3c955ac49da2e2107b67a",
}


@pytest.mark.parametrize("data", VECTORS)
def test_md5_vectors(world: World, data: bytes) -> None:
    assert md5(world, data, 64) == VECTORS[data]


def test_md5_of_every_length_and_in_pieces(world: World) -> None:
    source = random.Random(1)
    for length in range(260):
        data = source.randbytes(length)
        assert md5(world, data, source.choice([1, 7, 63, 64, 65, 300])) == hashlib.md5(data).hexdigest()


def signature(g: Any, header: bytes, payload: bytes, key: bytes) -> bytes:
    """Compute the digest of RFC 2385 section 2.0 by other means; the segment goes from remote to local."""
    local, remote = bytes(g.local), bytes(g.remote)
    length = len(header) + len(payload)
    if g.family == 4:
        pseudo = remote[12:] + local[12:] + struct.pack("!BBH", 0, 6, length)
    else:
        pseudo = remote + local + struct.pack("!IxxxB", length, 6)
    return hashlib.md5(pseudo + header[:16] + b"\0\0" + header[18:20] + payload + key).digest()


@pytest.mark.parametrize("peers", [("::ffff:192.0.2.1", "::ffff:198.51.100.7"), ("2001:db8::1", "2001:db8::2")])
@pytest.mark.parametrize("size", [0, 1, 37, 64])
def test_signature_as_rfc_2385_says(world: World, peers: tuple[str, str], size: int) -> None:
    key = b"a secret of both"
    payload = random.Random(size).randbytes(size)
    assert world.lib.auth_set(world.c, address(peers[1]), 128, key, len(key)) == 0
    number = world.lib.auth_find(world.c, address(peers[1]))
    g = world.segment(local=peers[0], remote=peers[1], seq=0xFFFFFFF0, ack=7, flags=ACK, payload=payload)
    out = world.ffi.new("uint8_t[200]")
    length = world.lib.auth_sign(world.c, number, g, out)
    wire = bytes(out)[:length]
    assert wire[20:24] == bytes([1, 1, 19, 18])
    assert wire[24:40] == signature(g, wire[:40], wire[40:], key)
    assert wire[40:] == payload

    assert world.lib.auth_check(world.c, number, g, out, length, True)
    assert not world.lib.auth_check(world.c, number, g, out, length, False), "unsigned"
    assert not world.lib.auth_check(world.c, 0, g, out, length, True), "signed where no key is known"
    assert world.lib.auth_check(world.c, 0, g, out, length, False)
    for byte in [*range(16), 18, 19, *range(24, length)]:  # all but the checksum and the padding
        out[byte] ^= 1
        assert not world.lib.auth_check(world.c, number, g, out, length, True), byte
        out[byte] ^= 1


def test_keys_are_chosen_by_the_longest_prefix(world: World) -> None:
    keys = {
        ("::", 0): b"all",
        ("::ffff:10.0.0.0", 104): b"ten",
        ("::ffff:10.1.0.0", 113): b"half",
        ("::ffff:10.1.2.3", 128): b"one",
        ("2001:db8::", 32): b"six",
    }
    order = list(keys)
    random.Random(5).shuffle(order)
    for peer, prefix in order:
        assert world.lib.auth_set(world.c, address(peer), prefix, keys[peer, prefix], len(keys[peer, prefix])) == 0
    numbers = {peer: world.lib.auth_find(world.c, address(peer)) for peer, _ in keys}
    assert len(set(numbers.values())) == len(keys)
    wanted = {
        "::ffff:10.1.2.3": "::ffff:10.1.2.3",
        "::ffff:10.1.2.4": "::ffff:10.1.0.0",
        "::ffff:10.1.128.0": "::ffff:10.0.0.0",
        "::ffff:11.0.0.1": "::",
        "2001:db8:5::": "2001:db8::",
    }
    for peer, owner in wanted.items():
        assert world.lib.auth_find(world.c, address(peer)) == numbers[owner]
    # Replacing keeps the place, removing gives way to the next longest.
    assert world.lib.auth_set(world.c, address("::ffff:10.1.2.3"), 128, b"new", 3) == 0
    assert world.lib.auth_in_use(world.c) == len(keys)
    assert world.lib.auth_set(world.c, address("::ffff:10.1.2.3"), 128, b"", 0) == 0
    assert world.lib.auth_find(world.c, address("::ffff:10.1.2.3")) == numbers["::ffff:10.1.0.0"]
    assert world.lib.auth_set(world.c, address("::ffff:10.1.2.3"), 128, b"", 0) == -2
    assert world.lib.auth_set(world.c, address("::"), 129, b"x", 1) == -22
    assert world.lib.auth_set(world.c, address("::"), 0, bytes(81), 81) == -22
    world.lib.auth_forget(world.c)
    assert world.lib.auth_in_use(world.c) == 0
    assert world.lib.auth_find(world.c, address("::ffff:10.1.2.3")) == 0


def cookie(world: World, mss: int, **fields: Any) -> tuple[int, int]:
    size = world.ffi.new("uint16_t *", mss)
    return world.lib.cookie_make(world.c, world.segment(**fields), size), size[0]


@pytest.mark.parametrize("mss", [88, 256, 535, 536, 1219, 1220, 1400, 1459, 1460, 9000, 65535])
def test_cookie_gives_the_mss_back(world: World, mss: int) -> None:
    world.at(1000 * MINUTE)
    made, rounded = cookie(world, mss, seq=77, flags=SYN)
    assert rounded <= max(mss, 256)
    assert world.lib.cookie_check(world.c, world.segment(seq=78, ack=(made + 1) & 0xFFFFFFFF, flags=ACK)) == rounded


@pytest.mark.parametrize(
    ("age", "valid"), [(0, True), (59, True), (119, True), (120, False), (180, False), (3600, False)]
)
def test_cookie_lives_this_minute_and_the_next(world: World, age: int, valid: bool) -> None:
    world.at(5 * MINUTE)
    made, rounded = cookie(world, 1460, seq=0xFFFFFFFF, flags=SYN)
    world.at(5 * MINUTE + age * SECOND)
    got = world.lib.cookie_check(world.c, world.segment(seq=0, ack=(made + 1) & 0xFFFFFFFF, flags=ACK))
    assert got == (rounded if valid else 0)


def test_forged_cookies_are_refused(world: World) -> None:
    world.at(7 * MINUTE)
    made, _ = cookie(world, 1460, seq=1000, flags=SYN)
    good = {"seq": 1001, "ack": (made + 1) & 0xFFFFFFFF, "flags": ACK}
    assert world.lib.cookie_check(world.c, world.segment(**good))
    others: list[dict[str, Any]] = [
        {"seq": 1002},
        {"remote_port": 40001},
        {"local_port": 180},
        {"remote": "::ffff:192.0.2.8"},
        {"local": "::ffff:192.0.2.2"},
    ]
    others += [{"ack": ((made ^ 1 << bit) + 1) & 0xFFFFFFFF} for bit in range(32)]
    for other in others:
        assert world.lib.cookie_check(world.c, world.segment(**(good | other))) == 0, other
    source = random.Random(3)
    guesses = sum(
        world.lib.cookie_check(world.c, world.segment(seq=5, ack=source.getrandbits(32), flags=ACK)) != 0
        for _ in range(20000)
    )
    assert guesses == 0  # one in 2^28 would be taken


@pytest.mark.parametrize("wscale", [None, 0, 7, 14])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("ecn", [False, True])
@pytest.mark.parametrize("now", [0, 63, 64, 2**31, 2**32 - 1, 123456789])
def test_timestamps_carry_the_options(world: World, wscale: int | None, sack: bool, ecn: bool, now: int) -> None:
    syn = world.segment(
        flags=SYN | (0xC0 if ecn else 0), stamped=True, sack=sack, has_wscale=wscale is not None, wscale=wscale or 0
    )
    stamp = world.lib.cookie_stamp(world.c, syn, now)
    assert (now - stamp) % 2**32 < 64, "the clock must not run backwards afterwards"
    got = world.lib.cookie_options(world.c, world.segment(flags=ACK, stamped=True, tsecr=stamp))
    assert got == (15 if wscale is None else wscale) | sack << 4 | ecn << 5
    assert world.lib.cookie_options(world.c, world.segment(flags=ACK)) == 15


WRAP_MS: Final = 2**32 * 1_000_000
STARTS: Final = [0, 12_345_678_901, WRAP_MS - 30 * SECOND, WRAP_MS // 2 - 30 * SECOND, 5 * WRAP_MS - 1]


@pytest.mark.parametrize("start", STARTS)
def test_records_end_in_time_and_in_order(world: World, start: int) -> None:
    source = random.Random(start)
    ends: dict[int, int] = {}
    world.at(start)
    for port in range(1, 400):
        world.at(world.now + source.randrange(200_000_000))
        world.lib.wait_tick(world.c)
        life = (
            60 * SECOND
            if port % 3
            else source.choice([0, 1, 200_000_000, SECOND, 7 * SECOND, 90 * SECOND, 200 * SECOND])
        )
        state = TIME_WAIT if port % 3 else FIN_WAIT_2
        world.lib.wait_enter(world.c, world.segment(remote_port=port), state, life, 0)
        ends[port] = world.now + life
    while ends:
        deadline = world.lib.wait_deadline(world.c)
        assert deadline > world.now
        world.at(deadline)
        world.lib.wait_tick(world.c)
        for port, end in list(ends.items()):
            alive = world.lib.wait_state(world.c, world.segment(remote_port=port)) != 0
            assert alive or end - 1_000_000 <= world.now, "too early"
            assert not alive or end + 300_000_000 > world.now, "too late"
            if not alive:
                del ends[port]
        assert world.lib.wait_count(world.c) == len(ends)
    assert world.lib.wait_deadline(world.c) == 2**64 - 1


RECORDS: Final = 65534  # MAX_TCP_TIMEWAITS


def test_a_full_table_gives_up_the_oldest(world: World) -> None:
    made = world.segment()

    def number(i: int) -> Any:
        made.local_port, made.remote_port = 1 + i % 64, 1 + i // 64
        return made

    for i in range(RECORDS + 500):
        world.at(i * 100_000)
        world.lib.wait_enter(world.c, number(i), TIME_WAIT, 60 * SECOND, 0)
    assert world.lib.wait_count(world.c) == RECORDS
    gone = [i for i in range(500 + 2 * 2560) if world.lib.wait_state(world.c, number(i)) == 0]
    assert len(gone) == 500, "of the oldest quarters of a second"
    world.at(200 * SECOND)
    world.lib.wait_tick(world.c)
    assert world.lib.wait_count(world.c) == 0


def test_a_lost_last_ack_is_repeated_and_the_wait_begins_anew(world: World) -> None:
    world.at(100 * SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000, stamped=True, tsval=50), TIME_WAIT, 60 * SECOND, 0)
    world.at(150 * SECOND)
    fin = {"seq": 999, "ack": 2000, "flags": FIN | ACK, "stamped": True, "tsval": 60}
    _, reply, _ = world.wait(**fin)
    assert (reply.count, reply.seq, reply.ack, reply.flags, reply.stamped) == (1, 2000, 1000, ACK, True)
    _, reply, _ = world.wait(**fin)
    assert reply.count == 0, "answers to stray segments are limited"
    world.at(209 * SECOND)
    world.lib.wait_tick(world.c)
    assert world.lib.wait_count(world.c) == 1
    world.at(211 * SECOND)
    world.lib.wait_tick(world.c)
    assert world.lib.wait_count(world.c) == 0


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_reset_ends_the_wait_unless_rfc_1337_forbids_it(world: World, forbidden: bool) -> None:
    world.lib.world_config(world.c, forbidden, 0, 0)
    world.at(SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), TIME_WAIT, 60 * SECOND, 0)
    world.wait(seq=1001, flags=RST)
    assert world.lib.wait_count(world.c) == 1, "not exactly the next sequence number"
    _, reply, _ = world.wait(seq=1000, flags=RST)
    assert reply.count == 0
    assert world.lib.wait_count(world.c) == forbidden


@pytest.mark.parametrize(
    ("seq", "tsval", "listener", "reopened"),
    [(1001, None, True, True), (1000, None, True, False), (999, None, True, False), (1001, None, False, False),
     (5, 51, True, True), (5, 50, True, False), (1001, 49, True, False), (1001, 50, True, True)],
)  # fmt: skip
def test_a_syn_reopens_when_it_is_newer(
    world: World, seq: int, tsval: int | None, listener: bool, reopened: bool
) -> None:
    world.lib.world_config(world.c, 0, 0, listener)
    world.at(SECOND)
    stamps = {} if tsval is None else {"stamped": True, "tsval": tsval}
    world.lib.wait_enter(
        world.c, world.segment(seq=1000, ack=2000, stamped=tsval is not None, tsval=50), TIME_WAIT, 60 * SECOND, 0
    )
    reason, reply, iss = world.wait(seq=seq, flags=SYN, **stamps)
    if reopened:
        assert (reason, iss, reply.count) == (REOPEN, 2000 + 65537, 0)
        assert world.lib.wait_count(world.c) == 0
    else:
        assert reason != REOPEN
        assert (reply.count, reply.flags, reply.seq, reply.ack) == (1, ACK, 2000, 1000)
        assert world.lib.wait_count(world.c) == 1


def test_half_closed_record_waits_for_the_fin(world: World) -> None:
    world.at(SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), FIN_WAIT_2, 60 * SECOND, 4000)
    reason, reply, _ = world.wait(seq=1000, ack=2000, flags=ACK)
    assert (reason, reply.count) == (0, 0)
    _, reply, _ = world.wait(seq=6000, ack=2000, flags=ACK, payload=b"beyond")
    assert (reply.flags, reply.ack) == (ACK, 1000)
    reason, reply, _ = world.wait(seq=1000, ack=2000, flags=FIN | ACK)
    assert (reason, reply.flags, reply.seq, reply.ack) == (0, ACK, 2000, 1001)
    assert world.lib.wait_state(world.c, world.segment()) == TIME_WAIT


def test_a_life_longer_than_the_wheel_ends_anew_and_leaves_nothing_to_the_next_record(world: World) -> None:
    stray = {"seq": 900, "ack": 2000, "flags": ACK}
    world.at(SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), FIN_WAIT_2, 200 * SECOND, 4000)
    for second in (70, 150):
        world.at(second * SECOND)
        world.lib.wait_tick(world.c)
        assert world.wait(**stray)[1].count == 1
        assert world.wait(**stray)[1].count == 0, "answers to stray segments are limited"
    world.wait(seq=1000, ack=2000, flags=FIN | ACK)
    for now, left in ((209, 1), (211, 0)):
        world.at(now * SECOND)
        world.lib.wait_tick(world.c)
        assert world.lib.wait_count(world.c) == left
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), FIN_WAIT_2, 30 * SECOND, 4000)
    assert world.wait(**stray)[1].count == 1, "that was another connection"
    world.at(242 * SECOND)
    world.lib.wait_tick(world.c)
    assert world.lib.wait_count(world.c) == 0


def test_data_for_a_half_closed_record_is_reset(world: World) -> None:
    world.at(SECOND)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000), FIN_WAIT_2, 60 * SECOND, 4000)
    _, reply, _ = world.wait(seq=1000, ack=2000, flags=ACK, payload=b"nobody reads this")
    assert (reply.flags, reply.seq) == (RST, 2000)
    assert world.lib.wait_count(world.c) == 0


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("start", STARTS)
def test_connect_takes_a_four_tuple_over_after_a_second(world: World, stamped: bool, allowed: bool, start: int) -> None:
    world.lib.world_config(world.c, 0, allowed, 0)
    world.at(start)
    world.lib.wait_enter(world.c, world.segment(seq=1000, ack=2000, stamped=stamped), TIME_WAIT, 60 * SECOND, 0)
    world.at(start + SECOND)
    assert not world.lib.wait_reuse(world.c, world.segment())
    world.at(start + SECOND + 2_000_000)
    assert world.lib.wait_reuse(world.c, world.segment()) == (allowed and stamped)
    assert world.lib.wait_count(world.c) == (0 if allowed and stamped else 1)
    assert world.lib.wait_reuse(world.c, world.segment(remote_port=1)), "nothing stands there"
