// A packet in flight inside one forwarder.
//
// The bytes lie in a private buffer with room before them, never in a ring: a
// successor of a dead forwarder must find the ring frame as it arrived.
//
//   buffer                 offset            offset + length
//   |<---- headroom ------>|<---- data ---->|<---- tailroom ---->|
//
// The end of a packet that we made ourselves may lie elsewhere, in parts that its maker keeps
// until the packet has left.  Whoever looks at more than headers, or keeps a packet, calls
// packet_gather first; its buffer has the room.
#ifndef BASE_PACKET_H
#define BASE_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <linux/virtio_net.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 // in headers since Linux 6.2
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum {
	PACKET_PARTS = 18, // of one packet, at most
	PACKET_FRONT = 16  // bytes at the front of the headroom that are a driver's, for a header of its own
};

// How a packet is counted when it has left an interface.
enum packet_account {
	ACCOUNT_FORWARDED = 0,  // one that came in on `ingress`
	ACCOUNT_ORIGINATED = 1, // one of ours
	ACCOUNT_FRAGMENT = 2    // one more piece of either
};

struct packet {
	uint8_t *buffer;
	uint32_t room;      // bytes of the whole buffer
	uint32_t offset;    // of the first byte of data
	uint32_t length;    // bytes of data, those in parts not among them
	uint32_t part_bytes; // bytes in parts, which follow the data
	uint16_t part_count;
	// Offsets in vnet (csum_start, hdr_len) count from the first byte of data;
	// packet_push and packet_pull keep them right.
	struct virtio_net_hdr vnet;
	uint16_t ingress;   // interface index; 0: made here
	uint16_t port;      // port it came from; 0: made here
	uint16_t egress;    // interface index, once decided
	uint16_t vlan_tci;  // tag that the driver took off the frame
	bool vlan_present;
	bool link_broadcast; // came in a link-layer broadcast or multicast frame
	bool staged;        // has passed the ingress stages
	bool urgent;        // of network control: the last places of a full link are for such packets
	uint8_t account;    // enum packet_account
	uint8_t family;     // of the IP header, once known
	uint16_t l3;        // offset of the IP header from data, once known
	uint16_t joined;    // received packets that it stands for, itself not counted (forward/join.h)
	uint32_t trace;     // TRACE_ID: its number, if somebody watches; TRACE_FATE: only its end is of interest
	struct packet *next; // free list, queues
};

enum { TRACE_ID = 0x7fffffff };
#define TRACE_FATE 0x80000000u

// Does each stage report?
static inline bool packet_traced(const struct packet *packet)
{
	return packet->trace != 0 && (packet->trace & TRACE_FATE) == 0;
}

static inline uint8_t *packet_data(struct packet *packet)
{
	return packet->buffer + packet->offset;
}

// Bytes of the whole packet.
static inline uint32_t packet_bytes(const struct packet *packet)
{
	return packet->length + packet->part_bytes;
}

// The parts are described at the end of the buffer, where no data comes: gathered, the largest packet ends before.
static inline struct iovec *packet_parts(const struct packet *packet)
{
	return (struct iovec *)(void *)(packet->buffer + packet->room) - PACKET_PARTS;
}

static inline uint32_t packet_tailroom(const struct packet *packet)
{
	return packet->room - packet->offset - packet->length;
}

// Give up `bytes` at the front.  The caller has checked that they are there.
void packet_pull(struct packet *packet, uint32_t bytes);
// Win `bytes` at the front; false without headroom.
bool packet_push(struct packet *packet, uint32_t bytes);
// Bring the parts, if there are any, behind the data.
void packet_gather(struct packet *packet);
// Finish a checksum that its sender left to others, gathering the packet; false where its place lies outside.
bool packet_finish_checksum(struct packet *packet);

// Buffers: a fixed number of ordinary ones and a few super ones, made once.
struct packet_pool;
struct packet_pool *packet_pool_new(uint32_t ordinary, uint32_t super);
void packet_pool_free(struct packet_pool *pool);
// A reset packet with at least `room` bytes after PACKET_HEADROOM, or NULL.
struct packet *packet_get(struct packet_pool *pool, uint32_t room);
void packet_put(struct packet_pool *pool, struct packet *packet);
// A copy with the same metadata and no parts, or NULL.
struct packet *packet_clone(struct packet_pool *pool, const struct packet *packet);

#endif
