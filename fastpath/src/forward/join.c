// Joining of TCP segments for the host stack, as a network card's receive offload does it.
//
//   batch:  a1 a2 a3 a4 b1 a5 a6 a7 a8  -->  [a1 a2 a3 a4] b1 [a5 a6 a7 a8]
//
// The stack's work on a stream is nearly all for headers: look-ups, policing, state.  Of segments that differ in
// nothing but their sequence numbers, each beginning where the one before it ends, only the first is worth it.  They
// become what a driver with the offload hands over: a super-packet whose gso_size is the length of a segment, with the
// checksum left to others.  The checksums of each are verified first; where one is wrong, the row is left as it is.
// Those of a stream that one batch brought in a wrong order are put in the right one before.
//
// Only segments to our own addresses: what passes through stays as it came.  Not supported: tagged frames, IPv4
// options, IPv6 extension headers; interfaces with ingress stages, observed packets and what workers hand over, where
// each packet is looked at by itself.
#include "forward/join.h"

#include "base/cksum.h"
#include "forward/transit.h"
#include "wire/ethernet.h"
#include "wire/ip4.h"
#include "wire/ip6.h"
#include "wire/tcp.h"

#include <netinet/in.h>

enum {
	LEAST_PAYLOAD = 512,     // bytes of a segment: small ones come rarely in a row
	LEAST_SEGMENTS = 4,      // fewer are not worth a large buffer
	MOST = 65535 - IP6_HEADER, // bytes behind the link header: both length fields hold it
	STAMP = 0x0101080a,      // two of no operation, kind and length
	STAMP_BYTES = 12
};

struct segment {
	uint8_t *frame, *ip, *tcp;
	uint32_t header;         // bytes before the payload
	uint32_t payload;        // 0: not one of those that this is about
	uint32_t sequence;
	uint8_t family;
	bool push;
};

// --- one segment ---

static bool plain_frame(const struct interface_entry *in, const struct packet *packet, const uint8_t *frame)
{
	return packet->length >= ETHERNET_HEADER + IP4_HEADER + TCP_HEADER + LEAST_PAYLOAD && !packet->vlan_present
		&& packet->trace == 0 && packet->ingress == 0 && packet->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE
		&& memcmp(frame, in->mac, ETHERNET_ADDRESS) == 0;
}

// Bytes of the IP header and of all behind the link header; 0: not a whole TCP packet without options.
static uint32_t ip_lengths(struct segment *s, uint32_t available, uint32_t *total)
{
	const struct ip4_header *ip4 = (const void *)s->ip;
	const struct ip6_header *ip6 = (const void *)s->ip;

	if (load16(s->frame + ETHERNET_HEADER - 2) == ETHERNET_IP4) {
		s->family = FAMILY_IPV4;
		*total = ip4_total_length(ip4);
		return ip4->version_length == 0x45 && ip4->protocol == IPPROTO_TCP && !ip4_is_fragment(ip4)
			&& *total <= available ? IP4_HEADER : 0;
	}
	if (load16(s->frame + ETHERNET_HEADER - 2) != ETHERNET_IP6 || available < IP6_HEADER)
		return 0;
	s->family = FAMILY_IPV6;
	*total = IP6_HEADER + ip6_payload_length(ip6);
	return s->ip[0] >> 4 == 6 && ip6->next == IPPROTO_TCP && *total <= available ? IP6_HEADER : 0;
}

static bool parse(const struct interface_entry *in, struct packet *packet, struct segment *s)
{
	uint32_t total;

	s->frame = packet_data(packet);
	s->ip = s->frame + ETHERNET_HEADER;
	if (!plain_frame(in, packet, s->frame))
		return false;
	uint32_t size = ip_lengths(s, packet->length - ETHERNET_HEADER, &total);
	if (size == 0 || total < size + TCP_HEADER)
		return false;
	s->tcp = s->ip + size;
	const struct tcp_header *tcp = (const void *)s->tcp;
	uint32_t options = tcp_header_length(s->tcp, total - size);
	if (options == 0 || (tcp->flags & ~TCP_PSH) != TCP_ACK)
		return false;
	s->header = ETHERNET_HEADER + size + options;
	s->payload = total - size - options;
	s->sequence = ntohl(tcp->sequence);
	s->push = (tcp->flags & TCP_PSH) != 0;
	return s->payload >= LEAST_PAYLOAD;
}

// Are both of one stream, alike in all that the stack looks at?
static bool alike(const struct segment *a, const struct segment *b)
{
	if (a->family != b->family || a->header != b->header || memcmp(a->frame, b->frame, ETHERNET_HEADER) != 0)
		return false;
	bool ip = a->family == FAMILY_IPV4
		? memcmp(a->ip, b->ip, 2) == 0 && memcmp(a->ip + 6, b->ip + 6, 4) == 0 && memcmp(a->ip + 12, b->ip + 12, 8) == 0
		: memcmp(a->ip, b->ip, 4) == 0 && memcmp(a->ip + 6, b->ip + 6, IP6_HEADER - 6) == 0;
	// Ports; acknowledgment and header length; window; urgent pointer and options.
	return ip && memcmp(a->tcp, b->tcp, 4) == 0 && memcmp(a->tcp + 8, b->tcp + 8, 5) == 0
		&& memcmp(a->tcp + 14, b->tcp + 14, 2) == 0
		&& memcmp(a->tcp + 18, b->tcp + 18, (size_t)(a->frame + a->header - a->tcp) - 18) == 0;
}

static uint64_t pseudo_header(const struct segment *s, uint32_t length)
{
	if (s->family == FAMILY_IPV4)
		return cksum_pseudo4(s->ip + 12, s->ip + 16, IPPROTO_TCP, length);
	return cksum_pseudo6(s->ip + 8, s->ip + 24, IPPROTO_TCP, length);
}

static bool checksums_good(const struct packet *packet, const struct segment *s)
{
	uint32_t length = s->header - (uint32_t)(s->tcp - s->frame) + s->payload;

	if (s->family == FAMILY_IPV4 && cksum(s->ip, IP4_HEADER) != 0)
		return false;
	if ((packet->vnet.flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID)) != 0)
		return true;
	return cksum_finish(cksum_add(pseudo_header(s, length), s->tcp, length)) == 0;
}

static bool ours(const struct forward *f, const struct segment *s)
{
	if (s->family == FAMILY_IPV4)
		return transit_own4(f->transit, &f->tables, s->ip + 16);
	return view_address(&f->tables, FAMILY_IPV6, s->ip + 24, 0) != NULL;
}

// --- their order ---

static bool same_stream(const struct segment *a, const struct segment *b)
{
	if (a->family != b->family || memcmp(a->tcp, b->tcp, 4) != 0)
		return false;
	return a->family == FAMILY_IPV4 ? memcmp(a->ip + 12, b->ip + 12, 8) == 0 : memcmp(a->ip + 8, b->ip + 8, 32) == 0;
}

// Its time stamp where it is the only option, as everybody writes it (RFC 7323 appendix A).
static bool stamp(const struct segment *s, uint32_t *value)
{
	if (s->header - (uint32_t)(s->tcp - s->frame) != TCP_HEADER + STAMP_BYTES || load32(s->tcp + TCP_HEADER) != STAMP)
		return false;
	*value = load32(s->tcp + TCP_HEADER + 4);
	return true;
}

// What was sent again goes behind what was sent before it: there a newer time stamp would condemn the others as old
// duplicates (RFC 7323 section 5.3).
static bool maybe_newer(const struct segment *before, const struct segment *late)
{
	uint32_t ours = 0, theirs = 0;
	if (stamp(late, &ours) && stamp(before, &theirs))
		return (int32_t)(ours - theirs) > 0;
	uint32_t headers = (uint32_t)(late->tcp - late->frame) + TCP_HEADER;
	return late->header != headers || before->header != headers;
}

static bool overtaken(const struct segment *before, const struct segment *late)
{
	return before->payload != 0 && (int32_t)(late->sequence - before->sequence) < 0 && same_stream(before, late)
		&& !maybe_newer(before, late);
}

// Put neighbors of one stream to us in the order of their sequence numbers.  A sender that runs on two processors, or
// over two queues, mixes what it sends within microseconds; told of it, it would take that for loss and slow down.
static void put_in_order(const struct forward *f, struct packet **packets, struct segment *segments, int count)
{
	for (int i = 1; i < count; i++) {
		const struct segment late = segments[i];
		struct packet *packet = packets[i];
		int at = i;
		if (late.payload == 0 || !overtaken(&segments[i - 1], &late) || !ours(f, &late))
			continue;
		while (at > 0 && overtaken(&segments[at - 1], &late))
			at--;
		const struct segment *before = at > 0 && segments[at - 1].payload != 0 ? &segments[at - 1] : NULL;
		if (before != NULL && before->sequence == late.sequence && same_stream(before, &late))
			continue; // it came twice: a retransmission
		memmove(&segments[at + 1], &segments[at], (size_t)(i - at) * sizeof(*segments));
		memmove(&packets[at + 1], &packets[at], (size_t)(i - at) * sizeof(*packets));
		segments[at] = late;
		packets[at] = packet;
	}
}

// --- a row of them ---

// How many segments go on where the first begins.
static int row(const struct forward *f, const struct segment *segments, int count)
{
	uint32_t bytes = segments[0].header - ETHERNET_HEADER + segments[0].payload;
	int found = 1;

	if (segments[0].payload == 0 || !ours(f, &segments[0]))
		return 1;
	for (; found < count && segments[found].payload != 0; found++) {
		const struct segment *before = &segments[found - 1], *next = &segments[found];
		bytes += next->payload;
		if (before->push || before->payload != segments[0].payload || next->payload > segments[0].payload
		    || next->sequence != before->sequence + before->payload || bytes > MOST || !alike(before, next))
			break;
	}
	return found;
}

// The headers of a super-packet, made of its first segment's.
static void head(struct packet *packet, const struct segment *first, const struct segment *last)
{
	struct segment s = *first;
	uint32_t before = (uint32_t)(first->tcp - first->frame);

	s.frame = packet_data(packet);
	s.ip = s.frame + ETHERNET_HEADER;
	s.tcp = s.frame + before;
	if (s.family == FAMILY_IPV4) {
		struct ip4_header *ip = (void *)s.ip;
		ip->total_length = htons((uint16_t)(packet->length - ETHERNET_HEADER));
		ip->checksum = 0;
		ip->checksum = cksum(ip, IP4_HEADER);
	} else {
		((struct ip6_header *)(void *)s.ip)->payload_length = htons((uint16_t)(packet->length - before));
	}
	struct tcp_header *tcp = (void *)s.tcp;
	tcp->flags |= last->push ? TCP_PSH : 0;
	tcp->checksum = cksum_fold(pseudo_header(&s, packet->length - before));
	packet->vnet = (struct virtio_net_hdr){
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = s.family == FAMILY_IPV4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6,
		.hdr_len = (uint16_t)s.header,
		.gso_size = (uint16_t)first->payload,
		.csum_start = (uint16_t)before,
		.csum_offset = TCP_CHECKSUM,
	};
}

// One packet of a row; NULL where a checksum is wrong or no buffer is left: they stay as they are.
static struct packet *join(struct forward *f, struct packet **packets, const struct segment *segments, int count)
{
	uint32_t bytes = segments[0].header;
	int good = 0;

	for (; good < count && checksums_good(packets[good], &segments[good]); good++)
		bytes += segments[good].payload;
	struct packet *super = good < count ? NULL : packet_get(f->pool, bytes);
	if (super == NULL)
		return NULL;
	uint8_t *at = packet_data(super);
	memcpy(at, segments[0].frame, segments[0].header);
	at += segments[0].header;
	for (int i = 0; i < count; i++) {
		memcpy(at, segments[i].frame + segments[i].header, segments[i].payload);
		at += segments[i].payload;
	}
	super->length = bytes;
	super->port = packets[0]->port;
	super->account = packets[0]->account;
	super->joined = (uint16_t)(count - 1);
	head(super, &segments[0], &segments[count - 1]);
	return super;
}

int join_batch(struct forward *f, const struct interface_entry *in, struct packet **packets, int count)
{
	struct interface_counters *counters = &f->counters[in->index];
	struct segment segments[BATCH_SIZE];
	int kept = 0;

	if (count < LEAST_SEGMENTS || count > BATCH_SIZE || f->observed || f->hands != NULL
	    || (in->features & FEATURES_INGRESS) != 0)
		return count;
	for (int i = 0; i < count; i++) {
		if (!parse(in, packets[i], &segments[i]))
			segments[i].payload = 0;
	}
	put_in_order(f, packets, segments, count);
	for (int i = 0, found; i < count; i += found) {
		found = row(f, segments + i, count - i);
		struct packet *super = found < LEAST_SEGMENTS ? NULL : join(f, packets + i, segments + i, found);
		if (super == NULL) {
			memmove(packets + kept, packets + i, (size_t)found * sizeof(*packets));
			kept += found;
			continue;
		}
		// Bytes as they came, with what links pad; the super-packet's own are counted with it.
		counters->rx_bytes -= super->length;
		for (int k = 0; k < found; k++) {
			counters->rx_bytes += packets[i + k]->length;
			packet_put(f->pool, packets[i + k]);
		}
		packets[kept++] = super;
	}
	return kept;
}
