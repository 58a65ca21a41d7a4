// pcap driver: what stands in a capture file is received, what is sent is written to another one.
//
// fds: the input, then the output, as far as PORT_INPUT and PORT_OUTPUT of the spec's mode tell that they are there;
// regular files that the manager has opened.  Frames are handed over while the link is up, so a file waits until
// its VR is ready: as fast as they are taken, or with PORT_REAL_TIME at the distances of their timestamps.
// At the end of the input, or where it makes no sense, `ended` is set in the state, and the manager takes
// the link down.  Frames that are no Ethernet, or were cut by the capture, count as truncated.
//
// The output is pcap in nanoseconds, with a snapshot length that nothing exceeds.
//
// Crash rule.  `progress` counts the frames of the input whose fate is recorded; a successor steps over
// as many, some in each turn: it would be taken for hung at the end of a large file.  `written` is the
// length of the output up to which whole records stand; what a dead one wrote beyond is written over.  So
// nothing is lost, and at most one batch is repeated.
//
// Not supported: appending to an output, pipes.
#define _GNU_SOURCE
#include "port/port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "port/pcap_file.h"

enum {
	FRAME_VECTORS = 2,
	FRAME_MIN = 14,
	STEPS = 1024              // frames that are stepped over in a turn
};

static const uint64_t second = 1000000000u;

struct file_header {
	uint32_t magic;
	uint16_t major;
	uint16_t minor;
	uint32_t reserved[2];
	uint32_t snap;
	uint32_t linktype;
};

struct record {
	uint32_t seconds;
	uint32_t nanoseconds;
	uint32_t captured;
	uint32_t length;
};

struct pcap_port {
	struct port port;
	int input;
	int output;
	int timer;
	bool real_time;
	bool armed;               // the timer runs
	bool waiting;             // `next` holds a frame
	struct pcap_frame next;
	uint64_t offset_ns;       // of our clock to that of the file; set with the first frame
	bool offset_known;
	uint64_t taken;           // frames since the last release
	uint64_t behind;          // frames that a predecessor took, and that are to be stepped over yet
	struct record records[BATCH_SIZE];
	struct iovec vectors[BATCH_SIZE * FRAME_VECTORS];
	struct pcap_reader reader;
};

static struct pcap_port *pcap_of(struct port *port)
{
	return (struct pcap_port *)port;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * second + (uint64_t)now.tv_nsec;
}

// --- receiving ---

static long input_read(void *user, uint64_t offset, void *buffer, size_t room)
{
	const struct pcap_port *pcap = user;
	ssize_t got = pread(pcap->input, buffer, room, (off_t)offset);
	return got < 0 ? -errno : (long)got;
}

// Have the next frame at hand; false: there is none any more.
static bool input_next(struct pcap_port *pcap)
{
	if (pcap->waiting)
		return true;
	if (pcap->input < 0 || pcap->port.state->ended != 0)
		return false;
	enum pcap_step step = pcap_reader_next(&pcap->reader, &pcap->next);
	pcap->waiting = step == PCAP_FRAME;
	if (!pcap->waiting)
		__atomic_store_n(&pcap->port.state->ended, step == PCAP_END ? 1 : 2, __ATOMIC_RELEASE);
	return pcap->waiting;
}

// Step over what a predecessor has taken; false: there is more of it.
static bool input_resumed(struct pcap_port *pcap)
{
	for (int step = 0; step < STEPS && pcap->behind > 0; step++) {
		pcap->behind = input_next(pcap) ? pcap->behind - 1 : 0;
		pcap->waiting = false;
	}
	return pcap->behind == 0;
}

// When a frame of the file is due on our clock.
static uint64_t frame_due(struct pcap_port *pcap)
{
	if (!pcap->offset_known) {
		pcap->offset_ns = clock_ns(CLOCK_MONOTONIC) - pcap->next.time_ns;
		pcap->offset_known = true;
	}
	return pcap->next.time_ns + pcap->offset_ns;
}

static bool link_up(const struct pcap_port *pcap)
{
	return (__atomic_load_n(&pcap->port.state->flags, __ATOMIC_RELAXED) & PORT_LINK_UP) != 0;
}

static bool frame_waits(struct pcap_port *pcap)
{
	if (!link_up(pcap) || !input_next(pcap))
		return false;
	if (!pcap->real_time)
		return true;
	// Times may step back: then the frame is late, not years early.
	uint64_t due = frame_due(pcap);
	return (int64_t)(clock_ns(CLOCK_MONOTONIC) - due) >= 0;
}

static struct packet *frame_take(const struct pcap_frame *frame, struct packet_pool *pool, enum drop_reason *reason)
{
	*reason = DROP_TRUNCATED;
	if (!frame->ethernet || frame->captured < frame->length || frame->captured < FRAME_MIN || frame->captured > SUPER_ROOM)
		return NULL;
	struct packet *packet = packet_get(pool, frame->captured);
	*reason = DROP_NO_BUFFER;
	if (packet != NULL) {
		memcpy(packet_data(packet), frame->data, frame->captured);
		packet->length = frame->captured;
	}
	return packet;
}

static int pcap_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct pcap_port *pcap = pcap_of(port);
	int count = 0;

	if (!input_resumed(pcap))
		return 0;
	for (int taken = 0; taken < max && taken < BATCH_SIZE && frame_waits(pcap); taken++) {
		enum drop_reason reason;
		struct packet *packet = frame_take(&pcap->next, pool, &reason);
		pcap->waiting = false;
		pcap->taken++;
		if (packet == NULL) {
			lost[reason]++;
			continue;
		}
		packet->port = port->spec.port;
		packets[count++] = packet;
	}
	return count;
}

static void pcap_release(struct port *port)
{
	struct pcap_port *pcap = pcap_of(port);
	if (pcap->taken == 0)
		return;
	__atomic_store_n(&port->state->progress, port->state->progress + pcap->taken, __ATOMIC_RELEASE);
	pcap->taken = 0;
}

// --- sending ---

static size_t output_prepare(struct pcap_port *pcap, struct packet **packets, int count)
{
	uint64_t now = clock_ns(CLOCK_REALTIME);
	size_t bytes = 0;
	for (int i = 0; i < count; i++) {
		packet_gather(packets[i]);
		if (packets[i]->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			packet_finish_checksum(packets[i]);
		uint32_t length = packets[i]->length;
		pcap->records[i] = (struct record){ (uint32_t)(now / second), (uint32_t)(now % second), length, length };
		struct iovec *vectors = &pcap->vectors[i * FRAME_VECTORS];
		vectors[0] = (struct iovec){ .iov_base = &pcap->records[i], .iov_len = sizeof(struct record) };
		vectors[1] = (struct iovec){ .iov_base = packet_data(packets[i]), .iov_len = length };
		bytes += sizeof(struct record) + length;
	}
	return bytes;
}

// How many whole records are in so many bytes.
static int output_records(const struct pcap_port *pcap, int count, size_t written, size_t *bytes)
{
	*bytes = 0;
	for (int i = 0; i < count; i++) {
		size_t record = sizeof(struct record) + pcap->records[i].captured;
		if (written - *bytes < record)
			return i;
		*bytes += record;
	}
	return count;
}

static int pcap_transmit(struct port *port, struct packet **packets, int count)
{
	struct pcap_port *pcap = pcap_of(port);
	if (pcap->output < 0)
		return count;
	if (count > BATCH_SIZE)
		count = BATCH_SIZE;
	size_t bytes = output_prepare(pcap, packets, count);
	if (lseek(pcap->output, (off_t)port->state->written, SEEK_SET) < 0)
		return -errno;
	ssize_t written = writev(pcap->output, pcap->vectors, count * FRAME_VECTORS);
	if (written < 0)
		return -errno;
	if ((size_t)written < bytes)
		count = output_records(pcap, count, (size_t)written, &bytes);
	__atomic_store_n(&port->state->written, port->state->written + bytes, __ATOMIC_RELEASE);
	return count > 0 ? count : -ENOSPC;
}

// --- the rest of the contract ---

static bool pcap_pending(const struct port *port)
{
	// Looking for the next frame reads on in the file, which nobody sees.
	struct pcap_port *pcap = (struct pcap_port *)(uintptr_t)port;
	return pcap->behind > 0 ? link_up(pcap) : frame_waits(pcap);
}

static void pcap_sleeping(struct port *port, bool sleeping)
{
	struct pcap_port *pcap = pcap_of(port);
	if (!sleeping || !pcap->real_time || pcap->armed || pcap->behind > 0 || !link_up(pcap) || !input_next(pcap))
		return;
	uint64_t due = frame_due(pcap);
	struct itimerspec at = { .it_value = { .tv_sec = (time_t)(due / second), .tv_nsec = (long)(due % second) } };
	pcap->armed = timerfd_settime(pcap->timer, TFD_TIMER_ABSTIME, &at, NULL) == 0;
}

static void pcap_event(struct port *port)
{
	struct pcap_port *pcap = pcap_of(port);
	uint64_t expirations;
	(void)!read(pcap->timer, &expirations, sizeof(expirations));
	pcap->armed = false;
}

static void pcap_close(struct port *port)
{
	struct pcap_port *pcap = pcap_of(port);
	close(pcap->timer);
	port_close_fds(port);
	free(pcap);
}

static const struct port_ops pcap_ops = {
	.name = "pcap",
	.plain = true,
	.receive = pcap_receive,
	.release = pcap_release,
	.transmit = pcap_transmit,
	.pending = pcap_pending,
	.sleeping = pcap_sleeping,
	.event = pcap_event,
	.close = pcap_close,
};

static int attach_fresh(struct pcap_port *pcap)
{
	struct port_state *state = pcap->port.state;
	const struct file_header header = { 0xa1b23c4d, 2, 4, { 0, 0 }, PCAP_FRAME_MAX, 1 };
	if (pcap->output >= 0 && (lseek(pcap->output, 0, SEEK_SET) < 0 ||
	    write(pcap->output, &header, sizeof(header)) != (ssize_t)sizeof(header)))
		return -EIO;
	state->written = sizeof(header);
	state->ended = 0;
	state->rx_kernel_drops = 0;
	__atomic_store_n(&state->progress, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&state->generation, pcap->port.spec.generation, __ATOMIC_RELEASE);
	return 0;
}

int pcap_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out)
{
	bool input = (spec->mode & PORT_INPUT) != 0;
	bool output = (spec->mode & PORT_OUTPUT) != 0;
	if (fd_count != input + output || fd_count == 0)
		return -EINVAL;
	struct pcap_port *pcap = calloc(1, sizeof(*pcap));
	if (pcap == NULL)
		return -ENOMEM;
	pcap->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (pcap->timer < 0) {
		free(pcap);
		return -errno;
	}
	port_init(&pcap->port, &pcap_ops, spec, fds, fd_count, state);
	pcap->port.fd = pcap->timer;
	pcap->input = input ? fds[0] : -1;
	pcap->output = output ? fds[fd_count - 1] : -1;
	pcap->real_time = (spec->mode & PORT_REAL_TIME) != 0;
	pcap_reader_init(&pcap->reader, input_read, pcap);
	int error = 0;
	if (state->generation == spec->generation)
		pcap->behind = state->progress;
	else
		error = attach_fresh(pcap);
	if (error < 0) {
		close(pcap->timer);
		free(pcap);
		return error;
	}
	*out = &pcap->port;
	return 0;
}
