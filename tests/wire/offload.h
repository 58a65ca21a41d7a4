// What a network card would have done: super-segments cut into frames, partial checksums completed.
//
// IPv4 and IPv6, TCP (RFC 9293) and UDP segments, with VLAN tags and extension headers, as the kernel
// hands them over with a struct virtio_net_hdr.  Not supported: tunnels and any other kind of segmentation.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <linux/virtio_net.h>

typedef void offload_take(void *user, const uint8_t *frame, uint32_t length);

// Completes a checksum that the sender left to the card; false: its place is not within the frame.
bool offload_checksum(const struct virtio_net_hdr *vnet, uint8_t *frame, uint32_t length);

// Cuts a super-segment and gives each frame, with all checksums, to `take`; returns how many there were, and
// 0 for what it does not understand.  `scratch` has room for a frame as long as the super-segment.
uint32_t offload_split(const struct virtio_net_hdr *vnet, const uint8_t *frame, uint32_t length, uint8_t *scratch,
		       offload_take *take, void *user);
