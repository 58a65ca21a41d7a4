// Packet buffers: two classes in one anonymous mapping, handed out last in, first out, so
// that only as much memory is touched as was ever in flight at once.
#include "base/packet.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "abi/limits.h"
#include "base/cksum.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#endif

enum { ORDINARY, SUPER, CLASSES };

static const uint32_t class_room[CLASSES] = {PACKET_HEADROOM + PACKET_ROOM, PACKET_HEADROOM + SUPER_ROOM};

struct packet_class {
	struct packet *packets;
	uint8_t *buffers;
	uint32_t count;
	uint32_t fresh;         // packets from here on were never handed out
	struct packet *free;
};

struct packet_pool {
	struct packet_class classes[CLASSES];
	uint8_t *memory;
	size_t size;
};

void packet_pull(struct packet *packet, uint32_t bytes)
{
	packet->offset += bytes;
	packet->length -= bytes;
	// A hostile csum_start may lie before the data.  It wraps then, a later push brings it
	// back, and offload_finish_checksum refuses it.
	if (packet->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		packet->vnet.csum_start = (uint16_t)(packet->vnet.csum_start - bytes);
	// A hint; kernels want it to be no longer than the frame.
	packet->vnet.hdr_len = packet->vnet.hdr_len > bytes ? (uint16_t)(packet->vnet.hdr_len - bytes) : 0;
}

bool packet_push(struct packet *packet, uint32_t bytes)
{
	if (bytes + PACKET_FRONT > packet->offset)
		return false;
	packet->offset -= bytes;
	packet->length += bytes;
	if (packet->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		packet->vnet.csum_start = (uint16_t)(packet->vnet.csum_start + bytes);
	if (packet->vnet.hdr_len != 0)
		packet->vnet.hdr_len = (uint16_t)(packet->vnet.hdr_len + bytes);
	return true;
}

void packet_gather(struct packet *packet)
{
	const struct iovec *parts = packet_parts(packet);

	for (uint32_t i = 0; i < packet->part_count; i++) {
		memcpy(packet_data(packet) + packet->length, parts[i].iov_base, parts[i].iov_len);
		packet->length += (uint32_t)parts[i].iov_len;
	}
	packet->part_count = 0;
	packet->part_bytes = 0;
}

bool packet_finish_checksum(struct packet *packet)
{
	uint32_t start = packet->vnet.csum_start;
	uint32_t field = start + packet->vnet.csum_offset;
	uint8_t *data = packet_data(packet);
	uint16_t checksum;

	packet_gather(packet);
	if ((packet->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0)
		return true;
	if (field + 2 > packet->length)
		return false;
	// The field holds the sum of the pseudo header.
	checksum = cksum_finish_udp(cksum_add(0, data + start, packet->length - start));
	memcpy(data + field, &checksum, sizeof checksum);
	packet->vnet.flags &= (uint8_t)~VIRTIO_NET_HDR_F_NEEDS_CSUM;
	packet->vnet.csum_start = 0;
	packet->vnet.csum_offset = 0;
	return true;
}

struct packet_pool *packet_pool_new(uint32_t ordinary, uint32_t super)
{
	const uint32_t counts[CLASSES] = {ordinary, super};
	struct packet_pool *pool = calloc(1, sizeof *pool);
	uint8_t *at;

	if (pool == NULL)
		return NULL;
	for (int i = 0; i < CLASSES; i++)
		pool->size += (size_t)counts[i] * (sizeof(struct packet) + class_room[i]);
	pool->memory = mmap(NULL, pool->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pool->memory == MAP_FAILED) {
		free(pool);
		return NULL;
	}
	at = pool->memory;
	for (int i = 0; i < CLASSES; i++) {
		pool->classes[i].count = counts[i];
		pool->classes[i].packets = (void *)at;
		at += counts[i] * sizeof(struct packet);
	}
	for (int i = 0; i < CLASSES; i++) {
		pool->classes[i].buffers = at;
		at += (size_t)counts[i] * class_room[i];
	}
	ASAN_POISON_MEMORY_REGION(pool->classes[ORDINARY].buffers, (size_t)(at - pool->classes[ORDINARY].buffers));
	return pool;
}

void packet_pool_free(struct packet_pool *pool)
{
	if (pool == NULL)
		return;
	ASAN_UNPOISON_MEMORY_REGION(pool->memory, pool->size);
	munmap(pool->memory, pool->size);
	free(pool);
}

struct packet *packet_get(struct packet_pool *pool, uint32_t room)
{
	int class = room <= PACKET_ROOM ? ORDINARY : SUPER;
	struct packet_class *from = &pool->classes[class];
	struct packet *packet = from->free;
	uint8_t *buffer;

	if (room > SUPER_ROOM)
		return NULL;
	if (packet != NULL) {
		from->free = packet->next;
		buffer = packet->buffer;
	} else if (from->fresh < from->count) {
		packet = &from->packets[from->fresh];
		buffer = from->buffers + (size_t)from->fresh * class_room[class];
		from->fresh++;
	} else {
		return NULL;
	}
	ASAN_UNPOISON_MEMORY_REGION(buffer, class_room[class]);
	*packet = (struct packet){.buffer = buffer, .room = class_room[class], .offset = PACKET_HEADROOM};
	return packet;
}

void packet_put(struct packet_pool *pool, struct packet *packet)
{
	struct packet_class *to = &pool->classes[packet->room == class_room[ORDINARY] ? ORDINARY : SUPER];

	ASAN_POISON_MEMORY_REGION(packet->buffer, packet->room);
	packet->next = to->free;
	to->free = packet;
}

struct packet *packet_clone(struct packet_pool *pool, const struct packet *packet)
{
	struct packet *clone = packet_get(pool, packet_bytes(packet));
	const struct iovec *parts = packet_parts(packet);
	uint8_t *buffer;
	uint32_t room;

	if (clone == NULL)
		return NULL;
	buffer = clone->buffer;
	room = clone->room;
	*clone = *packet;
	clone->buffer = buffer;
	clone->room = room;
	clone->offset = PACKET_HEADROOM;
	clone->next = NULL;
	clone->part_count = 0;
	clone->part_bytes = 0;
	memcpy(packet_data(clone), packet->buffer + packet->offset, packet->length);
	for (uint32_t i = 0; i < packet->part_count; i++) {
		memcpy(packet_data(clone) + clone->length, parts[i].iov_base, parts[i].iov_len);
		clone->length += (uint32_t)parts[i].iov_len;
	}
	return clone;
}
