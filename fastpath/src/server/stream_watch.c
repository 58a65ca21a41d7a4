// Lists of stream sockets: whose app may be gone, who waits for room in an app's backlog or for a quota, and who
// has been told something by TCP.
//
// Where we hold no end of an app's fd (it is not connected, it listens, it has failed), nothing tells
// that the app has closed it.  But its abstract name exists for exactly as long as some process
// holds the fd, so whoever can bind to that name knows.
//
// What TCP tells is put on a list and acted on at the next tick, never inside the host stack's call.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// After a connection of a process has ended it is looked for its sockets for so long, so often, and so many of them
// at once: some 10 % of a processor, whatever an app does.
#define HURRY_NS (12 * 1000000ull)
#define HURRY_STEP_NS (1000000ull)
enum { HURRY_LOOKS = 32, HURRY_STEPS = 4096 };

static uint32_t index_of(uint32_t slot)
{
	return slot - MAX_SOCKETS;
}

// --- watched ---

void stream_watch(struct server *server, uint32_t slot)
{
	struct streams *streams = &server->streams;
	struct stream *stream = stream_at(server, slot);
	if (stream->watched)
		return;
	stream->watched = true;
	stream->watch_previous = streams->watch_tail;
	stream->watch_next = 0;
	if (streams->watch_tail != 0)
		streams->at[streams->watch_tail - 1].watch_next = index_of(slot) + 1;
	else
		streams->watch_head = index_of(slot) + 1;
	streams->watch_tail = index_of(slot) + 1;
	streams->watch_count++;
	if (streams->watch_at == 0)
		streams->watch_at = server->now + LOOK_NS;
}

void stream_unwatch(struct server *server, uint32_t slot)
{
	struct streams *streams = &server->streams;
	struct stream *stream = stream_at(server, slot);
	if (!stream->watched)
		return;
	stream->watched = false;
	if (stream->watch_previous != 0)
		streams->at[stream->watch_previous - 1].watch_next = stream->watch_next;
	else
		streams->watch_head = stream->watch_next;
	if (stream->watch_next != 0)
		streams->at[stream->watch_next - 1].watch_previous = stream->watch_previous;
	else
		streams->watch_tail = stream->watch_previous;
	streams->watch_count--;
	if (streams->watch_count == 0)
		streams->watch_at = 0;
}

bool stream_look(struct server *server, uint32_t slot)
{
	const struct tcp_socket *s = host_stream(server->host, slot);
	struct sockaddr_un name;
	if (s == NULL)
		return true;
	uint32_t length = names_of_socket(server, slot, s, &name);
	int scratch = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (scratch < 0)
		return false;
	bool gone = bind(scratch, (const struct sockaddr *)&name, length) == 0;
	close(scratch);
	if (gone)
		stream_close(server, slot, false);
	return gone;
}

static bool is_hurried(const struct streams *streams, uint32_t pid)
{
	for (int i = 0; i < HURRY_PIDS; i++)
		if (streams->hurry_pids[i] == pid)
			return true;
	return false;
}

void streams_look_soon(struct server *server, uint32_t pid)
{
	struct streams *streams = &server->streams;
	if (streams->watch_count == 0)
		return;
	if (!is_hurried(streams, pid))
		streams->hurry_pids[streams->hurry_next++ % HURRY_PIDS] = pid;
	streams->hurry_until = server->now + HURRY_NS;
	if (streams->hurry_at == 0)
		streams->hurry_at = server->now + HURRY_STEP_NS;
}

// Look at those of processes that may just have ended; their fds are closed one after the other.
static void look_hurried(struct server *server)
{
	struct streams *streams = &server->streams;
	uint32_t last = streams->watch_tail;
	uint32_t looks = 0;
	uint32_t next;
	uint32_t steps = 0;
	for (uint32_t link = streams->watch_head; link != 0 && looks < HURRY_LOOKS && steps < HURRY_STEPS; link = link == last ? 0 : next) {
		uint32_t slot = MAX_SOCKETS + link - 1;
		const struct tcp_socket *s = host_stream(server->host, slot);
		next = streams->at[link - 1].watch_next;
		steps++;
		if (s == NULL || !is_hurried(streams, s->pid))
			continue;
		looks++;
		if (stream_look(server, slot))
			continue;
		stream_unwatch(server, slot);
		stream_watch(server, slot);
	}
	streams->hurry_at = server->now < streams->hurry_until && streams->watch_count > 0 ? server->now + HURRY_STEP_NS : 0;
	if (streams->hurry_at == 0)
		memset(streams->hurry_pids, 0, sizeof(streams->hurry_pids));
}

// Look for some, and put them at the end of the list.
static void look_around(struct server *server)
{
	struct streams *streams = &server->streams;
	uint32_t looks = streams->watch_count < STREAM_LOOKS ? streams->watch_count : STREAM_LOOKS;
	for (uint32_t i = 0; i < looks && streams->watch_head != 0; i++) {
		uint32_t slot = MAX_SOCKETS + streams->watch_head - 1;
		if (stream_look(server, slot))
			continue;
		stream_unwatch(server, slot);
		stream_watch(server, slot);
	}
	if (streams->watch_count > 0)
		streams->watch_at = server->now + LOOK_NS * looks / streams->watch_count;
}

bool streams_reap(struct server *server, uint16_t port)
{
	bool reaped = false;
	uint32_t next, alive = 0; // there may be any number, by SO_REUSEPORT
	for (uint32_t link = server->streams.watch_head; link != 0 && alive < STREAM_LOOKS; link = next) {
		uint32_t slot = MAX_SOCKETS + link - 1;
		const struct tcp_socket *s = host_stream(server->host, slot);
		next = server->streams.at[link - 1].watch_next;
		if (s == NULL || s->local_port != port)
			continue;
		if (stream_look(server, slot))
			reaped = true;
		else
			alive++;
	}
	return reaped;
}

// --- looked at again soon: listeners with somebody waiting, and senders beyond their rate ---

void stream_retry(struct server *server, uint32_t slot)
{
	struct streams *streams = &server->streams;
	struct stream *stream = stream_at(server, slot);
	if (!stream->retried) {
		stream->retried = true;
		stream->retry_next = streams->retry_head;
		streams->retry_head = index_of(slot) + 1;
	}
	if (streams->retry_at == 0)
		streams->retry_at = server->now + BACKLOG_RETRY_NS;
}

static void try_again(struct server *server)
{
	struct streams *streams = &server->streams;
	uint32_t link = streams->retry_head;
	streams->retry_head = 0;
	streams->retry_at = 0;
	while (link != 0) {
		struct stream *stream = &streams->at[link - 1];
		uint32_t slot = MAX_SOCKETS + link - 1;
		link = stream->retry_next;
		stream->retried = false;
		if (stream->state == STREAM_LISTENING)
			stream_offer(server, slot);
		else if (stream->state == STREAM_JOINED)
			stream_queue(server, slot, HOST_STREAM_WRITABLE);
	}
}

// --- told by TCP ---

void stream_queue(struct server *server, uint32_t slot, uint32_t events)
{
	struct streams *streams = &server->streams;
	struct stream *stream = stream_at(server, slot);
	stream->events |= events;
	if (stream->queued)
		return;
	stream->queued = true;
	stream->queue_next = 0;
	if (streams->queue_tail != 0)
		streams->at[streams->queue_tail - 1].queue_next = index_of(slot) + 1;
	else
		streams->queue_head = index_of(slot) + 1;
	streams->queue_tail = index_of(slot) + 1;
}

void stream_unqueue(struct server *server, uint32_t slot)
{
	stream_at(server, slot)->events = 0; // it leaves the list when its turn comes
}

void server_stream(struct server *server, uint32_t slot, uint32_t events)
{
	if (slot < MAX_SOCKETS || slot - MAX_SOCKETS >= MAX_TCP_SOCKETS)
		return;
	if (stream_at(server, slot)->state != STREAM_NONE)
		stream_queue(server, slot, events);
}

static void run_queue(struct server *server)
{
	struct streams *streams = &server->streams;
	for (int i = 0; i < STREAMS_PER_TICK && streams->queue_head != 0; i++) {
		struct stream *stream = &streams->at[streams->queue_head - 1];
		uint32_t slot = MAX_SOCKETS + streams->queue_head - 1;
		uint32_t events = stream->events;
		streams->queue_head = stream->queue_next;
		if (streams->queue_head == 0)
			streams->queue_tail = 0;
		stream->queued = false;
		stream->events = 0;
		if (stream->state != STREAM_NONE)
			stream_run(server, slot, events);
	}
}

void streams_tick(struct server *server)
{
	struct streams *streams = &server->streams;
	run_queue(server);
	if (streams->retry_at != 0 && server->now >= streams->retry_at)
		try_again(server);
	if (streams->hurry_at != 0 && server->now >= streams->hurry_at)
		look_hurried(server);
	if (streams->watch_at != 0 && server->now >= streams->watch_at)
		look_around(server);
}

static uint64_t first_of(uint64_t a, uint64_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

uint64_t streams_deadline(const struct server *server)
{
	const struct streams *streams = &server->streams;
	if (streams->queue_head != 0)
		return 1; // at once
	return first_of(first_of(streams->watch_at, streams->hurry_at), streams->retry_at);
}
