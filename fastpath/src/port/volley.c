// Batches of frames by a program in the kernel: see volley.h.
#define _GNU_SOURCE
#include "port/volley.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	WORTH = 4,      // frames: for fewer the call costs more than it saves
	TYPE_AT = 12,   // of the EtherType, which is one for all: the kernel is told of the first frame's
	CONGESTION = 2  // NET_XMIT_CN
};

void volley_open(struct volley *volley, const int *fds, int fd_count, uint32_t ifindex)
{
	volley->batch = NULL;
	if (fd_count != VOLLEY_FDS)
		return;
	void *map = mmap(NULL, sizeof(struct volley_batch), PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
	if (map == MAP_FAILED)
		return;
	volley->batch = map;
	volley->batch->ifindex = ifindex;
	volley->program = fds[0];
}

void volley_close(struct volley *volley)
{
	if (volley->batch != NULL)
		munmap(volley->batch, sizeof(*volley->batch));
	volley->batch = NULL;
}

static bool suits(struct packet *packet, const uint8_t *type)
{
	return packet->part_count == 0 && packet->length >= VOLLEY_FRAME_MIN && packet->length <= VOLLEY_FRAME_MAX &&
		(packet->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0 && packet->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE &&
		memcmp(packet_data(packet) + TYPE_AT, type, 2) == 0;
}

static int suited(struct packet **packets, int count)
{
	int found = 0;
	if (packets[0]->length < VOLLEY_FRAME_MIN)
		return 0;
	const uint8_t *type = packet_data(packets[0]) + TYPE_AT;
	while (found < count && found < VOLLEY_FRAMES && suits(packets[found], type))
		found++;
	return found;
}

static uint32_t fill(struct volley_batch *batch, struct packet **packets, int count)
{
	uint32_t at = 0, filled = 0;
	for (; (int)filled < count && at <= VOLLEY_LAST; filled++) {
		uint32_t length = packets[filled]->length;
		const struct volley_entry entry = { .length = length };
		memcpy(batch->entries + at, &entry, sizeof(entry));
		memcpy(batch->entries + at + sizeof(entry), packet_data(packets[filled]), length);
		at += (length + (uint32_t)sizeof(entry) + VOLLEY_ALIGN - 1) & ~(uint32_t)(VOLLEY_ALIGN - 1);
	}
	return filled;
}

// Of the frame that ended a volley the kernel has said NET_XMIT_CN.  A queueing discipline has taken it then, and mostly
// dropped another, so it counts as sent, as it does where the socket sends it.  But a device that is down says so too,
// and has taken nothing; this a socket tells before it finds that there is no frame.
static bool is_down(int fd)
{
	return send(fd, NULL, 0, MSG_DONTWAIT) < 0 && (errno == ENETDOWN || errno == ENXIO);
}

int volley_transmit(struct volley *volley, int fd, struct packet **packets, int count)
{
	struct volley_batch *batch = volley->batch;
	if (batch == NULL || count < WORTH)
		return 0;
	count = suited(packets, count);
	if (count < WORTH)
		return 0;
	count = (int)fill(batch, packets, count);
	batch->count = (uint32_t)count;
	batch->sent = 0;
	batch->refusal = 0;
	union bpf_attr request;
	memset(&request, 0, sizeof(request));
	request.test.prog_fd = (uint32_t)volley->program;
	request.test.data_in = (uintptr_t)packet_data(packets[0]);
	request.test.data_size_in = packets[0]->length;
	request.test.repeat = 1;
	int error = syscall(SYS_bpf, BPF_PROG_TEST_RUN, &request, sizeof(request)) < 0 ? errno : 0;
	uint32_t sent = __atomic_load_n(&batch->sent, __ATOMIC_RELAXED);
	bool congested = __atomic_load_n(&batch->refusal, __ATOMIC_RELAXED) == CONGESTION;
	if (error != 0 && error != ENOMEM && error != EINTR)
		volley_close(volley); // a kernel that reserves it for others
	if (congested && sent < (uint32_t)count && !is_down(fd))
		sent++;
	return sent <= (uint32_t)count ? (int)sent : 0;
}
