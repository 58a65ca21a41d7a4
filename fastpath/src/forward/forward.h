// The forwarding plane of one VR: packets in, packets out, no system calls, no clock.
//
//   port rx -> forward_receive -> ethernet -> arp | ip4 | ip6 -> fib -> next hop
//     -> neighbor -> egress queue -> port tx
//                          |-> host stack (local delivery)
//
// One struct forward for each VR; its memory beyond the two segments is private.
#ifndef FORWARD_FORWARD_H
#define FORWARD_FORWARD_H

#include "abi/core.h"
#include "abi/drop_reason.h"
#include "abi/state.h"
#include "base/packet.h"
#include "table/fib.h"
#include "table/filter.h"
#include "table/view.h"

enum { EGRESS_QUEUE = 4 * BATCH_SIZE };

struct egress_queue {           // packets with their link header, of one port
	struct packet *packets[EGRESS_QUEUE];
	int count;
};

// What the layers above and beside give to forwarding.
struct forward_ops {
	// Take a packet for one of our addresses (or a group we joined); l3 and family are
	// set, the IP header was checked, data begins at the link header, or at the IP header
	// (l3 is 0) where the packet is one of our own that came back.  Takes the packet on
	// DROP_NONE; forwarding counts the punt then, so `ingress` stays what it is.
	// Fragments come as they are; vnet is as received (a partial checksum is good).
	enum drop_reason (*deliver)(void *user, struct packet *packet, uint64_t now);
	// An echo request that forwarding is about to answer, or a router solicitation or
	// advertisement; raw sockets get a copy, as in Linux.  Does not take the packet; tells whether
	// there was one.  May be NULL, as the next one.
	bool (*overheard)(void *user, struct packet *packet, uint64_t now);
	// What is known of the path beyond the first link: at most `mtu`.
	uint32_t (*path_mtu)(void *user, uint8_t family, const uint8_t *destination, uint32_t mtu);
	// Is anybody in this VR interested in this multicast group on this interface?
	bool (*group_joined)(void *user, uint16_t interface, uint8_t family, const uint8_t *group);
	// Interfaces, links or usable addresses may be other ones now.  May be NULL.
	void (*interfaces_changed)(void *user);
	// Send the queue of one port now; called when it is full and at the end of a batch.
	// Entries that were sent are freed and counted by egress_sent, others by egress_lost.
	void (*flush)(void *user, uint16_t port);
	// A frame that another worker received and handed over, while `observed`.  May be NULL.
	void (*handed)(void *user, struct packet *packet);
	// One stage of a traced packet's life (packet_traced), or the end of one with a trace id; detail may be empty.
	void (*trace)(void *user, const struct packet *packet, const char *stage, const char *detail);
	void *user;
};

struct forward {
	struct tables_view tables;
	struct state_segment *state;
	struct interface_counters *counters; // of this worker, by interface
	uint64_t *host_drops;         // the same, by reason
	struct filter_view filters;   // what stages do (forward/stage.h)
	struct filter_counter *filter_counters; // of this worker
	struct packet_pool *pool;
	uint32_t worker;              // number; those but 0 serve transit only
	struct hand_ring *hands;      // hand.h: where they give all else to worker 0; NULL: this is worker 0
	uint64_t served[MAX_PORTS / 64]; // ports that this worker sends on itself
	struct forward_ops ops;
	uint64_t now;                 // of the running iteration, ns
	uint64_t random;              // state of the private generator
	struct egress_queue *queues[MAX_PORTS]; // NULL: no such port
	struct port_spec ports[MAX_PORTS];      // link_up, mtu
	struct icmp_limiter *icmp;    // private to forward/icmp.c
	struct neighbor_table *neighbors; // private to forward/neighbor*.c, and worker 0's
	struct police *police;        // forward/police.h; of all workers
	struct transit *transit;      // private to forward/transit.c
	struct bypass *bypass;        // bypass.h: the XDP offload; NULL: none
	bool observed;                // traces or captures see packets
	uint64_t egress_pending[MAX_PORTS / 64]; // ports whose queue is not empty
	uint16_t ip4_id;
	bool own_echoes;              // BFD echo packets from us to us come back from our neighbors
	uint8_t local_depth;          // nesting of our own packets that come back to us
};

int forward_init(struct forward *f, const uint8_t *tables, size_t tables_size, struct state_segment *state,
	const struct forward_ops *ops);
void forward_fini(struct forward *f);
// A transit worker of `main`: same VR, own pool, queues and counters; `number` from 1 on.  It shares the neighbors.
// Of `ops` it needs flush alone.
int forward_init_worker(struct forward *f, const struct forward *main, uint32_t number, const struct forward_ops *ops);
// Worker 0: do what the traffic of the others asks for.
void neighbor_collect(struct forward *f);
// Tell of a port that came (spec) or went (NULL), or whose link changed.
void forward_port(struct forward *f, uint16_t port, const struct port_spec *spec);
// Interfaces or addresses may have changed: start DAD, announce, drop stale neighbors.
void forward_tables_changed(struct forward *f);
// Take a batch off a port: count, run every packet to its fate.
void forward_receive(struct forward *f, uint16_t port, struct packet **packets, int count);
// Count frames that the driver could not hand over.
void forward_lost(struct forward *f, uint16_t port, enum drop_reason reason, uint64_t count);
void forward_tick(struct forward *f);
// Send what is queued on any port.  forward_receive and forward_tick do so at their end;
// whoever made packets outside of them calls this before the iteration ends.
void forward_flush(struct forward *f);
// Not for secrets: spreads jitter, identifications and timers.
uint64_t forward_random(struct forward *f);
// Configured up, and its port has a carrier.
bool interface_up(const struct forward *f, const struct interface_entry *interface);
// Tell the layers above of ops.interfaces_changed.
static inline void forward_interfaces_changed(struct forward *f)
{
	if (f->ops.interfaces_changed != NULL)
		f->ops.interfaces_changed(f->ops.user);
}
uint64_t forward_deadline(const struct forward *f);

// --- egress.c: queues and their accounting ---
// Queue a packet whose link header is in place.  Takes the packet on DROP_NONE.
enum drop_reason egress_queue(struct forward *f, const struct interface_entry *interface, struct packet *packet);
void egress_sent(struct forward *f, struct packet *packet);
void egress_lost(struct forward *f, struct packet *packet, enum drop_reason reason);
// Count a drop where it belongs (ingress interface, or host_drops for our own) and free it.
void packet_drop(struct forward *f, struct packet *packet, enum drop_reason reason);
void forward_trace(struct forward *f, const struct packet *packet, const char *stage, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

// --- ethernet.c ---
enum drop_reason ethernet_input(struct forward *f, struct packet *packet);
// Put the link header before an IP packet (data begins at the IP header) and queue it.
enum drop_reason ethernet_output(struct forward *f, const struct interface_entry *interface,
	const uint8_t *destination, uint16_t ethertype, struct packet *packet);

// --- ip4.c, ip6.c: data begins at the link header on input, at the IP header on output ---
enum drop_reason ip4_input(struct forward *f, const struct interface_entry *in, struct packet *packet);
enum drop_reason ip6_input(struct forward *f, const struct interface_entry *in, struct packet *packet);
// Route one of our own packets: the whole IP header is filled in, except that ip4_output
// sets the header checksum and, where it is 0 and DF is clear, the identification.
// `interface` pins the egress (0: by the FIB); multicast, broadcast and link-local need it.
// Fragments where allowed, loops back what is for ourselves (except multicast: the host
// stack does that as its sockets ask).  Takes the packet on DROP_NONE.
enum drop_reason ip4_output(struct forward *f, uint16_t interface, struct packet *packet);
enum drop_reason ip6_output(struct forward *f, uint16_t interface, struct packet *packet);
// Source address selection (RFC 6724 for IPv6): false where there is none.  Sets *egress.
bool ip_source(struct forward *f, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *source,
	uint16_t *egress);
// Send to a resolved next hop after the MTU check, with fragmentation (RFC 791) or
// splitting of super-packets.  Data begins at the IP header.
// Sends no ICMP errors: those are due before the TTL is decremented.
enum drop_reason ip_transmit(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *nexthop, struct packet *packet);
// Largest packet that the route to this destination takes; 0: no route.
uint32_t ip_path_mtu(const struct forward *f, uint8_t family, const uint8_t *destination, uint16_t interface);
// An ICMP message that the host stack put together from fragments (data begins at the IP
// header, ingress is 0, the fragments were counted): as icmp4_input and icmp6_input.
enum drop_reason ip_icmp(struct forward *f, uint16_t interface, struct packet *packet, uint32_t icmp_offset);
// Tell the sender of a delivered packet that nobody speaks its protocol, or has its port.
void ip_unreachable(struct forward *f, struct packet *packet, bool protocol);
// With data at the link header when l3 is set, else at the IP header.
uint32_t flow_hash(const struct forward *f, const struct packet *packet);

// --- fragment.c ---
// Cut a packet (data begins at the IP header, no super-packet, checksum finished) into pieces
// of at most `mtu` bytes, which hang on ->next; the first keeps the account.  NULL, and the
// packet is still the caller's, where that cannot be done.
struct packet *fragment4(struct forward *f, struct packet *packet, uint32_t mtu);
struct packet *fragment6(struct forward *f, struct packet *packet, uint32_t mtu);
// A new packet, counted as a further piece: `header` bytes of the front, a gap that the
// caller fills, and `length` bytes from offset `from` on.  NULL without a buffer.
struct packet *packet_piece(struct forward *f, const struct packet *packet, uint32_t header, uint32_t gap,
	uint32_t from, uint32_t length);
// Free a chain; nothing is counted.
void packet_put_chain(struct forward *f, struct packet *chain);

// --- offload.c: checksums and super-packets ---
// Finish a partial checksum (VIRTIO_NET_HDR_F_NEEDS_CSUM) in software.
bool offload_finish_checksum(struct packet *packet);
// Split a super-packet (data begins at the IP header) into packets of gso_size; they hang
// on ->next.  NULL where it cannot.  Frees the packet on success.
struct packet *offload_segment(struct forward *f, struct packet *packet);
// Largest IP packet length once split: gso_size + headers, or the length itself.
uint32_t offload_unit(const struct packet *packet);

// The VR takes a received packet for itself: count the punt, once, by whoever consumes it
// (arp_input, nd_input, icmp4_input and icmp6_input when they return DROP_NONE; the local
// path counts for ops.deliver).  From here on it is one of ours: drops go to host_drops.
static inline void packet_punt(struct forward *f, struct packet *packet)
{
	if (packet->ingress != 0 && packet->ingress < MAX_INTERFACES)
		f->counters[packet->ingress].punt_packets++;
	packet->ingress = 0;
	packet->account = ACCOUNT_ORIGINATED;
}

// --- neighbor.c, arp.c, nd.c: packet data begins at the link header, l3 is the offset of
// the ARP or IP header, icmp_offset counts from packet_data ---
int neighbor_init(struct forward *f);
void neighbor_fini(struct forward *f);
void neighbor_tick(struct forward *f);
uint64_t neighbor_deadline(const struct forward *f);
// Interfaces or addresses are other ones: forget the neighbors that they led to.
void neighbor_tables_changed(struct forward *f);
// The carrier of a port came or went (or the port did).
void neighbor_link(struct forward *f, uint16_t port, bool up);
// Give an IP packet (data begins at the IP header) to a neighbor: send, hold or refuse.
enum drop_reason neighbor_output(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *address, struct packet *packet);
enum drop_reason arp_input(struct forward *f, const struct interface_entry *in, struct packet *packet);
// ICMPv6 types 133..137, checksum already good; l3 and family are set.
enum drop_reason nd_input(struct forward *f, const struct interface_entry *in, struct packet *packet,
	uint32_t icmp_offset);
// Is this address ours and usable (past DAD)?
bool address_usable(const struct forward *f, uint8_t family, const uint8_t *address, uint16_t interface);

// --- dad.c: which of our addresses are usable (RFC 4862, RFC 5227) ---
void dad_tick(struct forward *f);
uint64_t dad_deadline(const struct forward *f);
void dad_tables_changed(struct forward *f);

// --- icmp_limit.c, icmp4.c, icmp6.c ---
int icmp_limit_init(struct forward *f);
void icmp_limit_fini(struct forward *f);
// Answer an offending packet (data begins at the link header when l3 is set, else at the
// IP header) with an error; counts DROP_ICMP_RATE_LIMITED in host_drops where it may not.
// Does not take the packet.  `info` is the second word in host order: the MTU; the pointer
// (IPv4: in its highest byte).
void icmp4_error(struct forward *f, const struct packet *packet, uint8_t type, uint8_t code, uint32_t info);
void icmp6_error(struct forward *f, const struct packet *packet, uint8_t type, uint8_t code, uint32_t info);
// Echo requests are answered here; returns DROP_NONE when taken, DROP_REASON_COUNT when the
// message is for the host stack (echo replies, errors), else the reason.
enum drop_reason icmp4_input(struct forward *f, struct packet *packet, uint32_t icmp_offset);
enum drop_reason icmp6_input(struct forward *f, const struct interface_entry *in, struct packet *packet,
	uint32_t icmp_offset);

#endif
