"""The BFD column of the core by itself, in virtual time: sessions without a network, and a peer that the test plays.

test --World.receive--> bfd_receive --> session --> ops.output --> World.take
World.now, World.advance: the clock        World.heard: what lies in the rings has been seen up to then
"""

from __future__ import annotations

import ipaddress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from fastpath._layout import CONSTANTS
from fastpath.tables import BfdEntry, pack_bfd
from tests.unit.c_build import build
from tests.unit.harness import DROPS

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
START: Final = 1000 * SECOND
FOREVER: Final = 2**64 - 1
LOCAL, REMOTE = "10.0.0.1", "10.0.0.2"
SINGLE, ECHO, MULTIHOP = 3784, 3785, 4784
INTERFACE: Final = 3

_SOURCES: Final = (
    *(f"bfd/{name}.c" for name in ("bfd", "control", "echo", "encapsulate", "schedule", "session")),
    *(f"base/{name}.c" for name in ("cksum", "crc32", "md5", "sha1", "siphash")),
    "table/view.c",
)
_DECLARATIONS: Final = """
struct world;
struct sent {
	uint32_t length;
	uint16_t port, source_port, interface;
	uint8_t family, ttl, has_neighbor;
	uint8_t source[16], destination[16], neighbor[16], payload[128];
};
struct seen {
	uint32_t discriminator, remote_discriminator, sent_sequence, received_sequence;
	uint8_t state, remote_state, diagnostic, failure, polling, sequence_known, echoing;
	uint64_t ups, downs, changes, rx_packets, tx_packets, rx_drops, rx_echoes, tx_echoes;
	uint64_t detect_ns, transmit_ns, changed_ns;
};
struct world *world_new(uint64_t seed);
void world_free(struct world *world);
void world_restart(struct world *world);
void world_begin(struct world *world, uint64_t now);
void world_publish(struct world *world, const uint8_t *entries, uint32_t count, uint32_t spoil);
void world_follow(struct world *world, uint64_t now);
int world_receive(struct world *world, const uint8_t *source, const uint8_t *destination, uint8_t family,
	uint16_t interface, uint8_t ttl, uint16_t port, const uint8_t *payload, uint32_t length, uint64_t now);
void world_tick(struct world *world, uint64_t now);
uint64_t world_deadline(struct world *world);
void world_heard(struct world *world, uint64_t until);
int world_take(struct world *world, struct sent *sent);
int world_session(struct world *world, uint32_t slot, struct seen *seen);
uint64_t world_changed(struct world *world);
int world_active(struct world *world);
void digest_sha1(const uint8_t *data, uint32_t length, uint32_t split, uint8_t *digest);
"""
_CODE: Final = (
    """
#include <stdlib.h>
#include <string.h>
#include "base/crc32.h"
#include "base/sha1.h"
#include "bfd/internal.h"
enum { ROOM = 1024, TABLES = 4 << 20 };
"""
    + _DECLARATIONS.split("struct world *world_new")[0].replace("struct world;", "")
    + """
struct world {
	struct state_segment *state;
	uint8_t *tables;
	struct tables_view view;
	struct bfd *bfd;
	struct bfd_ops ops;
	uint64_t random, heard, changed, epoch, where;
	struct sent sent[ROOM];
	uint32_t first, count;
};

static void output(void *user, const struct bfd_datagram *d)
{
	struct world *w = user;
	if (w->count == ROOM)
		abort();
	struct sent *s = &w->sent[(w->first + w->count++) % ROOM];
	*s = (struct sent){.length = d->length, .port = d->destination_port, .source_port = d->source_port,
		.interface = d->interface, .family = d->family, .ttl = d->ttl, .has_neighbor = d->neighbor != NULL};
	memcpy(s->source, d->source, 16);
	memcpy(s->destination, d->destination, 16);
	memcpy(s->payload, d->payload, d->length);
	if (d->neighbor != NULL)
		memcpy(s->neighbor, d->neighbor, 16);
}

static bool source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *address)
{
	memcpy(address, "\\x0a\\0\\0\\1", 4);
	return family == FAMILY_IPV4;
}

static uint64_t heard_until(void *user, uint64_t now)
{
	const struct world *w = user;
	return w->heard < now ? w->heard : now;
}

static void changed(void *user, uint32_t slot)
{
	((struct world *)user)->changed++;
}

static uint64_t draw(void *user)
{
	struct world *w = user;
	uint64_t z = w->random += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

void world_restart(struct world *w)
{
	bfd_free(w->bfd);
	w->bfd = bfd_new(w->state, &w->view, &w->ops);
}

struct world *world_new(uint64_t seed)
{
	struct world *w = calloc(1, sizeof(*w));
	w->state = calloc(1, sizeof(*w->state));
	w->tables = calloc(1, TABLES);
	w->random = seed;
	w->heard = UINT64_MAX;
	w->where = 1 << 20;
	view_open(&w->view, w->tables, TABLES);
	w->ops = (struct bfd_ops){output, source, heard_until, changed, draw, w};
	world_restart(w);
	return w;
}

void world_free(struct world *w)
{
	bfd_free(w->bfd);
	free(w->state);
	free(w->tables);
	free(w);
}

void world_begin(struct world *w, uint64_t now) { bfd_begin(w->bfd, now); }

void world_publish(struct world *w, const uint8_t *entries, uint32_t count, uint32_t spoil)
{
	w->where ^= 3 << 20; // another block each time
	struct bfd_table *table = (void *)(w->tables + w->where);
	*table = (struct bfd_table){.epoch = ++w->epoch, .count = count};
	memcpy(table->entries, entries, count * sizeof(struct bfd_entry));
	table->checksum = crc32_update(0, table, sizeof(*table) + count * sizeof(struct bfd_entry));
	if (spoil != 0)
		((uint8_t *)table)[spoil] ^= 0xff;
	((struct tables_segment *)w->tables)->bfd_root = w->where;
}

void world_follow(struct world *w, uint64_t now) { bfd_follow(w->bfd, now); }

int world_receive(struct world *w, const uint8_t *source_, const uint8_t *destination, uint8_t family,
	uint16_t interface, uint8_t ttl, uint16_t port, const uint8_t *payload, uint32_t length, uint64_t now)
{
	struct bfd_datagram d = {.payload = payload, .length = length, .family = family, .ttl = ttl,
		.interface = interface, .source_port = 49152, .destination_port = port};
	memcpy(d.source, source_, 16);
	memcpy(d.destination, destination, 16);
	return bfd_receive(w->bfd, &d, now);
}

void world_tick(struct world *w, uint64_t now) { bfd_tick(w->bfd, now); }
uint64_t world_deadline(struct world *w) { return bfd_deadline(w->bfd); }
void world_heard(struct world *w, uint64_t until) { w->heard = until; }
uint64_t world_changed(struct world *w) { return w->changed; }
int world_active(struct world *w) { return bfd_active(w->bfd); }

int world_take(struct world *w, struct sent *sent)
{
	if (w->count == 0)
		return 0;
	*sent = w->sent[w->first];
	w->first = (w->first + 1) % ROOM;
	w->count--;
	return 1;
}

int world_session(struct world *w, uint32_t slot, struct seen *seen)
{
	const struct bfd_session *s = &w->state->bfd[slot];
	*seen = (struct seen){s->discriminator, s->remote_discriminator, s->sent_sequence, s->received_sequence, s->state,
		s->remote_state, s->diagnostic, s->failure, s->polling, s->sequence_known, s->echoing, s->ups, s->downs,
		s->changes, s->rx_packets, s->tx_packets, s->rx_drops, s->rx_echoes, s->tx_echoes, s->detect_ns,
		s->transmit_ns, s->changed_ns};
	return s->discriminator != 0;
}

void digest_sha1(const uint8_t *data, uint32_t length, uint32_t split, uint8_t *digest)
{
	struct sha1 sha1;
	sha1_begin(&sha1);
	sha1_add(&sha1, data, split);
	sha1_add(&sha1, data + split, length - split);
	sha1_end(&sha1, digest);
}
"""
)


def module() -> Any:
    """Give the compiled column with its glue."""
    return build("bfd_column", _SOURCES, _DECLARATIONS, _CODE)


class Sent(NamedTuple):
    """A datagram that BFD wants sent."""

    payload: bytes
    port: int
    source_port: int
    interface: int
    ttl: int
    source: str
    destination: str
    neighbor: str | None


def packed(text: str) -> bytes:
    """Give an address as it lies in shared memory."""
    return ipaddress.ip_address(text).packed.ljust(16, b"\0")


def entry(**keys: Any) -> BfdEntry:
    """The usual session: one hop, 10.0.0.1 to 10.0.0.2."""
    family = ipaddress.ip_address(keys.get("remote", REMOTE)).version
    values: dict[str, Any] = {"remote": REMOTE, "local": LOCAL if family == 4 else "::", "interface": INTERFACE} | keys
    values["remote"], values["local"] = (int(ipaddress.ip_address(values[name])) for name in ("remote", "local"))
    return BfdEntry(family=family, **values)


def splitmix(seed: int) -> Any:
    """Give the generator that the glue has too."""
    state = seed

    def draw() -> int:
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    return draw


class World:
    """The column with its segments and its clock."""

    def __init__(self, *entries: BfdEntry, seed: int = 1) -> None:
        """Publish these sessions, and begin."""
        self._module = module()
        self.lib, self.ffi = self._module.lib, self._module.ffi
        self._world = self.lib.world_new(seed)
        self.now = START
        if entries:
            self.publish(*entries)
        self.lib.world_begin(self._world, self.now)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lib.world_free(self._world)

    def publish(self, *entries: BfdEntry, spoil: int = 0) -> None:
        """Publish sessions as control does; `spoil`: with one byte wrong."""
        data = b"".join(map(pack_bfd, entries))
        self.lib.world_publish(self._world, data, len(entries), spoil)
        self.lib.world_follow(self._world, self.now)

    def restart(self, *, away: int = 0) -> None:
        """Let a successor take over, after some time without anybody."""
        self.lib.world_restart(self._world)
        self.now += away
        self.lib.world_follow(self._world, self.now)
        self.lib.world_begin(self._world, self.now)

    def receive(
        self,
        payload: bytes,
        *,
        source: str = REMOTE,
        destination: str = LOCAL,
        interface: int = INTERFACE,
        ttl: int = 255,
        port: int = SINGLE,
    ) -> str:
        """Give it a datagram; tells the reason of its drop, or "none"."""
        family = ipaddress.ip_address(source).version
        reason = self.lib.world_receive(
            self._world, packed(source), packed(destination), family, interface, ttl, port, payload, len(payload),
            self.now,
        )  # fmt: skip
        return str(DROPS[reason])

    def tick(self) -> None:
        """Do what is due now."""
        self.lib.world_tick(self._world, self.now)

    @property
    def deadline(self) -> int:
        """When something is due."""
        return int(self.lib.world_deadline(self._world))

    def advance(self, nanoseconds: int) -> None:
        """Let time pass from deadline to deadline."""
        until = self.now + nanoseconds
        while self.deadline <= until:
            self.now = max(self.now, self.deadline)
            self.tick()
        self.now = until

    def heard(self, until: int) -> None:
        """Packets that came later lie in a ring, unseen."""
        self.lib.world_heard(self._world, until)

    def take(self) -> list[Sent]:
        """Take what was sent."""
        out, found = self.ffi.new("struct sent *"), []
        while self.lib.world_take(self._world, out):
            size = 4 if out.family == 4 else 16

            def text(field: Any, size: int = size) -> str:
                return str(ipaddress.ip_address(bytes(self.ffi.buffer(field))[:size]))

            found.append(
                Sent(
                    bytes(self.ffi.buffer(out.payload))[: out.length], out.port, out.source_port, out.interface,
                    out.ttl, text(out.source), text(out.destination), text(out.neighbor) if out.has_neighbor else None,
                )
            )  # fmt: skip
        return found

    def session(self, slot: int = 0) -> Any:
        """Look at a session; None where there is none."""
        seen = self.ffi.new("struct seen *")
        return seen if self.lib.world_session(self._world, slot, seen) else None

    @property
    def state(self) -> str:
        """The state of the first session."""
        names = ("ADMIN_DOWN", "DOWN", "INIT", "UP")
        return next(name for name in names if CONSTANTS[f"BFD_{name}"] == self.session().state)

    @property
    def changed(self) -> int:
        """How often control was told to look."""
        return int(self.lib.world_changed(self._world))

    @property
    def active(self) -> bool:
        """Whether there is any session."""
        return bool(self.lib.world_active(self._world))
