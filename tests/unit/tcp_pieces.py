"""Host stacks in this process, on a virtual clock: packets and time are moved by the test."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.unit.c_build import FASTPATH, build

if TYPE_CHECKING:
    from collections.abc import Callable

MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
CONNECTED, WRITABLE, READABLE, ACCEPTABLE, PEER_CLOSED, FAILED, CLOSED = (1 << bit for bit in range(7))
# enum tcp_state
(S_CLOSED, S_LISTEN, S_SYN_SENT, S_SYN_RECEIVED, S_ESTABLISHED, S_FIN_WAIT_1, S_FIN_WAIT_2, S_CLOSE_WAIT) = range(8)
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

_DECLARATIONS: Final = """
struct host;
struct box;
struct box *box_new(uint64_t now, const uint8_t *four, const uint8_t *six, uint32_t blocks);
struct box *box_again(struct box *box);
void box_free(struct box *box);
struct host *box_host(struct box *box);
int box_take(struct box *box, uint8_t *data, uint32_t room, uint8_t *vnet);
int box_put(struct box *box, const uint8_t *data, uint32_t length, const uint8_t *vnet, uint64_t now);
void box_run(struct box *box, uint64_t now);
void box_flush(struct box *box, uint64_t now);
uint64_t box_deadline(struct box *box);
uint32_t box_events(struct box *box, uint32_t slot);
long box_packets(struct box *box);
uint32_t box_blocks(struct box *box);
int box_socket_state(struct box *box, uint32_t slot);
uint32_t box_local_port(struct box *box, uint32_t slot);
uint64_t box_used(struct box *box);
uint32_t box_timewaits(struct box *box);
int box_record_state(struct box *box);
uint32_t box_flights(struct box *box);
void box_status(struct box *box, uint32_t slot, uint32_t *numbers);
int box_reserve_write(struct box *box, uint32_t slot, const uint8_t *data, uint32_t length, uint32_t commit);
int host_socket(struct host *host, uint16_t family, uint16_t type, uint16_t protocol, uint32_t *slot);
int host_bind(struct host *host, uint32_t slot, const uint8_t *address, uint16_t port, uint16_t interface);
int host_connect(struct host *host, uint32_t slot, const uint8_t *address, uint16_t port, uint16_t interface);
int host_disconnect(struct host *host, uint32_t slot);
int host_setopt(struct host *host, uint32_t slot, int level, int name, const uint8_t *value, uint32_t length);
int host_getopt(struct host *host, uint32_t slot, int level, int name, uint8_t *value, uint32_t *length);
void host_close(struct host *host, uint32_t slot);
int host_listen(struct host *host, uint32_t slot, int backlog);
int host_accept(struct host *host, uint32_t slot, uint32_t *child);
int host_shutdown(struct host *host, uint32_t slot, int how);
int host_stream_read(struct host *host, uint32_t slot, uint8_t *buffer, uint32_t length, int flags);
int host_stream_write(struct host *host, uint32_t slot, const uint8_t *data, uint32_t length, int flags);
void host_abort(struct host *host, uint32_t slot);
"""

_CODE: Final = r"""
#include <stdlib.h>
#include <string.h>
#include "base/crc32.h"
#include "host/tcp_internal.h"

struct box {
	struct state_segment *state;
	struct tables_view tables;
	uint8_t *segment;
	struct address_entry addresses[3];
	struct host *host;
	struct packet *first, **last;
	long packets;
	uint32_t events[MAX_TCP_SOCKETS];
};

static enum drop_reason box_output(void *user, uint16_t interface, uint8_t family, struct packet *packet)
{
	struct box *box = user;
	packet->next = NULL;
	*box->last = packet;
	box->last = &packet->next;
	return DROP_NONE;
}

static bool box_source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *source,
	uint16_t *egress)
{
	struct box *box = user;
	memcpy(source, box->addresses[family == FAMILY_IPV6].address, 16);
	*egress = 1;
	return true;
}

static uint32_t box_mtu(void *user, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	return family == FAMILY_IPV4 && destination[0] == 198 ? 0 : 1500;
}

static void box_unreachable(void *user, struct packet *packet, uint8_t code)
{
}

static bool box_upcall(void *user, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	return true;
}

static void box_error(void *user, uint32_t slot, int number)
{
}

static void box_stream(void *user, uint32_t slot, uint32_t events)
{
	((struct box *)user)->events[slot - MAX_SOCKETS] |= events;
}

static struct packet *box_get(void *user, uint32_t room)
{
	struct packet *packet = calloc(1, sizeof(*packet));
	packet->room = (PACKET_HEADROOM + room + 7) / 8 * 8 + PACKET_PARTS * (uint32_t)sizeof(struct iovec);
	packet->buffer = malloc(packet->room);
	packet->offset = PACKET_HEADROOM;
	((struct box *)user)->packets++;
	return packet;
}

static void box_give(void *user, struct packet *packet)
{
	((struct box *)user)->packets--;
	free(packet->buffer);
	free(packet);
}

// A tables segment as control would publish it.
static void box_publish(struct box *box)
{
	struct interface_entry interface = {.index = 1, .port = 1, .kind = INTERFACE_ETHERNET, .flags = INTERFACE_ADMIN_UP,
		.mtu = 1500, .name = "eth0"};
	struct {
		struct tables_root root;
		struct interface_entry interface;
		struct address_entry addresses[3];
	} block = {.interface = interface};
	size_t where = sizeof(struct tables_segment);
	memcpy(block.addresses, box->addresses, sizeof(block.addresses));
	block.root = (struct tables_root){.epoch = 1, .interface_count = 1, .address_count = 3};
	block.root.interfaces = where + offsetof(__typeof__(block), interface);
	block.root.addresses = where + offsetof(__typeof__(block), addresses);
	block.root.rules = where + sizeof(block);
	uint32_t sum = crc32_update(0, &block.root, sizeof(block.root));
	block.root.checksum = crc32_update(sum, &block.interface, sizeof(block.interface) + sizeof(block.addresses));
	box->segment = calloc(1, where + sizeof(block));
	memcpy(box->segment + where, &block, sizeof(block));
	((struct tables_segment *)(void *)box->segment)->root = where;
	view_open(&box->tables, box->segment, where + sizeof(block));
	if (!view_refresh(&box->tables))
		abort();
}

static void box_open(struct box *box)
{
	const struct host_ops ops = {
		.output = box_output, .source = box_source, .path_mtu = box_mtu, .unreachable = box_unreachable,
		.upcall = box_upcall, .error = box_error, .stream = box_stream, .packet_get = box_get, .packet_put = box_give,
		.takes_parts = true, .user = box,
	};
	box->host = host_new(box->state, &box->tables, &ops);
	if (box->host == NULL)
		abort();
}

struct box *box_new(uint64_t now, const uint8_t *four, const uint8_t *six, uint32_t blocks)
{
	struct box *box = calloc(1, sizeof(*box));
	struct host_config config;
	box->state = calloc(1, sizeof(*box->state));
	box->state->random_key[0] = load32(four);
	box->state->attaches = 1;
	box->last = &box->first;
	box->addresses[0] = (struct address_entry){.family = FAMILY_IPV4, .length = 24, .interface = 1};
	box->addresses[1] = (struct address_entry){.family = FAMILY_IPV6, .length = 64, .interface = 1};
	box->addresses[2] = (struct address_entry){.family = FAMILY_IPV4, .length = 32, .interface = 1};
	memcpy(box->addresses[0].address, four, 4);
	memcpy(box->addresses[1].address, six, 16);
	memcpy(box->addresses[2].address, four, 4);
	box->addresses[2].address[3] = 77;
	box_publish(box);
	box_open(box);
	host_config_default(&config);
	if (blocks != 0)
		config.memory_blocks = blocks;
	host_configure(box->host, &config);
	host_clock(box->host, now);
	return box;
}

// The process dies, and another one takes its state segment over.
struct box *box_again(struct box *box)
{
	uint64_t now = box->host->now;
	for (struct packet *packet = box->first; packet != NULL; packet = packet->next)
		packet_gather(packet);
	host_free(box->host);
	box->state->attaches++;
	box_open(box);
	host_clock(box->host, now);
	host_attach(box->host);
	host_attach_ready(box->host);
	return box;
}

void box_free(struct box *box)
{
	host_free(box->host);
	while (box->first != NULL) {
		struct packet *packet = box->first;
		box->first = packet->next;
		box_give(box, packet);
	}
	if (box->packets != 0)
		abort();
	view_close(&box->tables);
	free(box->segment);
	free(box->state);
	free(box);
}

struct host *box_host(struct box *box)
{
	return box->host;
}

int box_take(struct box *box, uint8_t *data, uint32_t room, uint8_t *vnet)
{
	struct packet *packet = box->first;
	if (packet == NULL)
		return -1;
	box->first = packet->next;
	if (box->first == NULL)
		box->last = &box->first;
	packet_gather(packet);
	if (box->first == NULL)
		host_sent(box->host);
	int length = (int)packet->length;
	if (packet->length > room)
		abort();
	memcpy(data, packet_data(packet), packet->length);
	memcpy(vnet, &packet->vnet, sizeof(packet->vnet));
	box_give(box, packet);
	return length;
}

int box_put(struct box *box, const uint8_t *data, uint32_t length, const uint8_t *vnet, uint64_t now)
{
	struct packet *packet = box_get(box, length);
	memcpy(packet_data(packet), data, length);
	packet->length = length;
	packet->ingress = 1;
	memcpy(&packet->vnet, vnet, sizeof(packet->vnet));
	enum drop_reason reason = host_input(box->host, packet, now);
	if (reason != DROP_NONE)
		box_give(box, packet);
	return reason;
}

void box_flush(struct box *box, uint64_t now)
{
	host_flush(box->host, now);
}

void box_run(struct box *box, uint64_t now)
{
	host_clock(box->host, now);
	if (host_deadline(box->host) <= now)
		host_tick(box->host, now);
	host_flush(box->host, now);
}

uint64_t box_deadline(struct box *box)
{
	return host_deadline(box->host);
}

uint32_t box_events(struct box *box, uint32_t slot)
{
	uint32_t events = box->events[slot - MAX_SOCKETS];
	box->events[slot - MAX_SOCKETS] = 0;
	return events;
}

long box_packets(struct box *box)
{
	return box->packets;
}

uint32_t box_blocks(struct box *box)
{
	return box->host->tcp->block_count;
}

uint32_t box_timewaits(struct box *box)
{
	return box->host->tcp->timewait_count;
}

// Of the first half-open connection or TIME-WAIT record; -1: there is none.
int box_record_state(struct box *box)
{
	for (uint64_t i = 0; i < box->state->tcp_requests_used; i++)
		if (box->state->tcp_requests[i].state != 0)
			return box->state->tcp_requests[i].state;
	for (uint64_t i = 0; i < box->state->tcp_timewaits_used; i++)
		if (box->state->tcp_timewaits[i].state != 0)
			return box->state->tcp_timewaits[i].state;
	return -1;
}

uint64_t box_used(struct box *box)
{
	return box->state->tcp_used;
}

uint32_t box_flights(struct box *box)
{
	uint32_t flights = box->host->tcp->flight_used;
	for (uint32_t at = box->host->tcp->flight_free; at != 0; at = box->host->tcp->flights[at].free_next)
		flights--;
	return flights;
}

int box_socket_state(struct box *box, uint32_t slot)
{
	const struct tcp_socket *s = &box->state->tcp[slot - MAX_SOCKETS];
	return s->cookie == 0 ? -1 : s->state;
}

uint32_t box_local_port(struct box *box, uint32_t slot)
{
	return box->state->tcp[slot - MAX_SOCKETS].local_port;
}

void box_status(struct box *box, uint32_t slot, uint32_t *numbers)
{
	struct host_stream_status status;
	if (host_stream_status(box->host, slot, &status) < 0)
		abort();
	const uint32_t all[7] = {status.unread, status.unacknowledged, status.unsent, status.readable, status.writable,
		status.hung_up, status.peer_closed};
	memcpy(numbers, all, sizeof(all));
}

int box_reserve_write(struct box *box, uint32_t slot, const uint8_t *data, uint32_t length, uint32_t commit)
{
	struct iovec parts[4];
	int count = host_stream_reserve(box->host, slot, length, parts, 4);
	uint32_t filled = 0;
	for (int i = 0; i < count; i++) {
		memcpy(parts[i].iov_base, data + filled, parts[i].iov_len);
		filled += (uint32_t)parts[i].iov_len;
	}
	if (commit > filled)
		commit = filled;
	if (count >= 0)
		host_stream_commit(box->host, slot, commit, 0);
	return count < 0 ? count : (int)commit;
}
"""


def _sources() -> tuple[str, ...]:
    files: list[Path] = []
    for folder in ("base", "host", "table", "wire"):
        files += sorted((FASTPATH / "src" / folder).glob("*.c"))
    return tuple(
        str(file.relative_to(FASTPATH / "src")) for file in files if file.name not in {"confine.c", "layout_check.c"}
    )


def check(result: int) -> int:
    """Give a result, or raise what it stands for."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class Box:
    """One host stack with an address of each family."""

    def __init__(self, number: int, now: int, blocks: int = 0) -> None:
        module = build("tcp_pieces", _sources(), _DECLARATIONS, _CODE)
        self.ffi: Any = module.ffi
        self.lib: Any = module.lib
        self.address = f"10.0.{number}.1"
        self.second_address = f"10.0.{number}.77"
        self.address6 = f"2001:db8::{number + 1:x}"
        self.now = now
        four = socket.inet_aton(self.address)
        six = socket.inet_pton(socket.AF_INET6, self.address6)
        self._box = self.ffi.gc(self.lib.box_new(now, four, six, blocks), self.lib.box_free)

    @property
    def host(self) -> Any:
        return self.lib.box_host(self._box)

    def die(self) -> None:
        """End this process's stack; another one takes over what lies in the segment."""
        self.lib.box_again(self._box)

    def socket(self, family: int = socket.AF_INET) -> Stream:
        slot = self.ffi.new("uint32_t *")
        check(self.lib.host_socket(self.host, family, socket.SOCK_STREAM, 0, slot))
        return Stream(self, slot[0], family)

    def take(self) -> list[tuple[bytes, bytes]]:
        """Take all packets that were sent, each with its vnet header."""
        data, vnet, found = self.ffi.new("uint8_t[]", 70000), self.ffi.new("uint8_t[]", 16), []
        while (length := self.lib.box_take(self._box, data, 70000, vnet)) >= 0:
            found.append((bytes(self.ffi.buffer(data, length)), bytes(self.ffi.buffer(vnet))))
        return found

    def put(self, packet: bytes, vnet: bytes) -> int:
        return int(self.lib.box_put(self._box, packet, len(packet), vnet, self.now))

    def run(self, now: int) -> None:
        self.now = now
        self.lib.box_run(self._box, now)

    def flush(self) -> None:
        self.lib.box_flush(self._box, self.now)

    def deadline(self) -> int:
        return int(self.lib.box_deadline(self._box))

    def number(self, name: str, *arguments: int) -> int:
        """Read a number of the stack: box_NAME."""
        return int(getattr(self.lib, f"box_{name}")(self._box, *arguments))

    def status(self, slot: int) -> list[int]:
        numbers = self.ffi.new("uint32_t[7]")
        self.lib.box_status(self._box, slot, numbers)
        return list(numbers)

    def reserve_write(self, slot: int, data: bytes, commit: int) -> int:
        return check(self.lib.box_reserve_write(self._box, slot, data, len(data), commit))


class Stream:
    """A stream socket of a box."""

    def __init__(self, box: Box, slot: int, family: int) -> None:
        self.box, self.slot, self.family = box, slot, family

    def _address(self, address: str) -> bytes:
        if self.family == socket.AF_INET:
            return socket.inet_aton(address).ljust(16, b"\0")
        return socket.inet_pton(socket.AF_INET6, address if ":" in address else f"::ffff:{address}")

    def bind(self, address: str, port: int = 0) -> None:
        check(self.box.lib.host_bind(self.box.host, self.slot, self._address(address), port, 0))

    def connect(self, address: str, port: int) -> None:
        result = self.box.lib.host_connect(self.box.host, self.slot, self._address(address), port, 0)
        if result != -errno.EINPROGRESS:
            check(result)

    def disconnect(self) -> None:
        check(self.box.lib.host_disconnect(self.box.host, self.slot))

    def listen(self, backlog: int = 16) -> None:
        check(self.box.lib.host_listen(self.box.host, self.slot, backlog))

    def accept(self) -> Stream:
        child = self.box.ffi.new("uint32_t *")
        check(self.box.lib.host_accept(self.box.host, self.slot, child))
        return Stream(self.box, child[0], self.family)

    def read(self, length: int = 1 << 20, flags: int = 0) -> bytes:
        buffer = self.box.ffi.new("uint8_t[]", length)
        done = check(self.box.lib.host_stream_read(self.box.host, self.slot, buffer, length, flags))
        return bytes(self.box.ffi.buffer(buffer, done))

    def write(self, data: bytes, flags: int = 0) -> int:
        return check(self.box.lib.host_stream_write(self.box.host, self.slot, data, len(data), flags))

    def shutdown(self, how: int) -> None:
        check(self.box.lib.host_shutdown(self.box.host, self.slot, how))

    def close(self) -> None:
        self.box.lib.host_close(self.box.host, self.slot)

    def abort(self) -> None:
        self.box.lib.host_abort(self.box.host, self.slot)

    def set(self, level: int, name: int, value: int | bytes) -> None:
        raw = struct.pack("=i", value) if isinstance(value, int) else value
        check(self.box.lib.host_setopt(self.box.host, self.slot, level, name, raw, len(raw)))

    def get_bytes(self, level: int, name: int, room: int = 256) -> bytes:
        value, length = self.box.ffi.new("uint8_t[]", room), self.box.ffi.new("uint32_t *", room)
        check(self.box.lib.host_getopt(self.box.host, self.slot, level, name, value, length))
        return bytes(self.box.ffi.buffer(value, length[0]))

    def get(self, level: int, name: int) -> int:
        return int(struct.unpack("=i", self.get_bytes(level, name, 4))[0])

    @property
    def error(self) -> int:
        return self.get(socket.SOL_SOCKET, socket.SO_ERROR)

    @property
    def state(self) -> int:
        return self.box.number("socket_state", self.slot)

    @property
    def port(self) -> int:
        return self.box.number("local_port", self.slot)

    def events(self) -> int:
        return self.box.number("events", self.slot)


class Wire:
    """Two boxes and a wire with a delay; `lose` says which packets never arrive."""

    def __init__(self, *, delay: int = MS, now: int = 1000 * SECOND, blocks: int = 0) -> None:
        self.now, self.delay = now, delay
        self.boxes = [Box(0, now, blocks), Box(1, now, blocks)]
        self.lose: Callable[[int, bytes], bool] = lambda _side, _packet: False
        self.seen: list[tuple[int, bytes]] = []
        self._flying: list[tuple[int, int, bytes, bytes]] = []

    def _collect(self) -> None:
        for side, box in enumerate(self.boxes):
            for packet, vnet in box.take():
                self.seen.append((side, packet))
                if not self.lose(side, packet):
                    self._flying.append((self.now + self.delay, 1 - side, packet, vnet))

    def run(self, duration: int = 100 * MS) -> None:
        """Let time pass; what is due within it happens."""
        end = self.now + duration
        for _ in range(200_000):
            for box in self.boxes:
                box.run(self.now)
            self._collect()
            due = min(
                [flight[0] for flight in self._flying[:1]] + [max(box.deadline(), self.now) for box in self.boxes]
            )
            if due > end:
                break
            self.now = due
            while self._flying and self._flying[0][0] <= self.now:
                _, side, packet, vnet = self._flying.pop(0)
                self.boxes[side].now = self.now
                self.boxes[side].put(packet, vnet)
        else:
            raise AssertionError("time stands still")
        self.now = end
        for box in self.boxes:
            box.run(self.now)
        self._collect()

    def pair(self, port: int = 80) -> tuple[Stream, Stream]:
        """Give both ends of an established connection: the client's, the server's."""
        listener = self.boxes[1].socket()
        listener.set(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind("0.0.0.0", port)
        listener.listen()
        client = self.boxes[0].socket()
        client.connect(self.boxes[1].address, port)
        self.run()
        server = listener.accept()
        listener.close()
        return client, server


def flags_of(packet: bytes) -> int:
    """Give the TCP flags of an IPv4 or IPv6 packet."""
    return packet[(packet[0] & 15) * 4 + 13] if packet[0] >> 4 == 4 else packet[53]
