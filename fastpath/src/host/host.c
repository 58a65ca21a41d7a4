// The host stack's instance and its dispatch: which protocol takes a packet (RFC 1122
// section 3.2, RFC 8200 section 4).
//
//   host_input -> inbound_parse -> reassembly -> host_dispatch -> raw copies
//                                                             -> tcp | udp | icmp | igmp | unreachable
#include "host/tcp_internal.h"

#include <errno.h>
#include <stdlib.h>
#include "base/siphash.h"
#include "host/listener.h"

enum { FLUSH_ROUNDS = 8 };

struct host *host_new(struct state_segment *state, const struct tables_view *tables, const struct host_ops *ops)
{
	struct host *host = calloc(1, sizeof(*host));
	if (host == NULL)
		return NULL;
	host->state = state;
	host->tables = tables;
	host->ops = *ops;
	host->reassembly = reassembly_new();
	host->listener = listener_new();
	if (host->reassembly == NULL || host->listener == NULL) {
		host_free(host);
		return NULL;
	}
	host->tcp = tcp_new(host);
	if (host->tcp == NULL) {
		host_free(host);
		return NULL;
	}
	return host;
}

static struct packet *next_own(struct host *host)
{
	struct packet *packet = host->own;
	if (packet != NULL) {
		host->own = packet->next;
		packet->next = NULL;
		host->own_count--;
	}
	return packet;
}

void host_free(struct host *host)
{
	if (host == NULL)
		return;
	for (struct packet *packet; (packet = next_own(host)) != NULL;)
		host->ops.packet_put(host->ops.user, packet);
	tcp_free(host->tcp);
	reassembly_free(host->reassembly);
	listener_free(host->listener);
	free(host);
}

// A keyed function of a counter that no predecessor used: apps see single values of it
// (ports, cookies) and cannot compute the next one.
uint64_t host_random(struct host *host)
{
	uint64_t input[2] = {host->state->attaches, ++host->random};
	return siphash24(host->state->random_key, input, sizeof(input));
}

struct socket_entry *host_entry(const struct host *host, uint32_t slot)
{
	if (slot >= MAX_SOCKETS || host->state->sockets[slot].cookie == 0)
		return NULL;
	return &host->state->sockets[slot];
}

void host_drop(struct host *host, enum drop_reason reason)
{
	host->state->host_drops[reason]++;
}

void host_fail(struct host *host, uint32_t slot, int error)
{
	host->state->sockets[slot].error = error;
	host->ops.error(host->ops.user, slot, error);
}

// A message in pieces went past forwarding, which answers echo requests.
static enum drop_reason offer_icmp(struct host *host, struct inbound *in)
{
	if (host->ops.icmp == NULL || in->protocol != (in->flow.family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return DROP_REASON_COUNT;
	in->packet->ingress = 0; // its fragments have been counted there
	host->reassembled_on = in->flow.interface;
	enum drop_reason reason = host->ops.icmp(host->ops.user, in->flow.interface, in->packet, in->packet->l3 + in->transport);
	host->reassembled_on = 0;
	if (reason == DROP_REASON_COUNT)
		in->packet->ingress = in->flow.interface;
	return reason;
}

static enum drop_reason input_whole(struct host *host, struct packet *packet, bool *taken)
{
	struct inbound in;
	enum drop_reason reason = inbound_parse(host, packet, &in);
	if (reason != DROP_NONE)
		return reason;
	if (in.fragment)
		return DROP_REASSEMBLY_MALFORMED;
	reason = offer_icmp(host, &in);
	*taken = reason == DROP_NONE;
	if (reason != DROP_REASON_COUNT)
		return reason;
	reason = host_dispatch(host, &in);
	*taken = in.taken;
	return reason;
}

static enum drop_reason input_fragment(struct host *host, const struct inbound *in)
{
	struct packet *whole = NULL;
	enum drop_reason reason = reassembly_add(host, in, &whole);
	if (reason != DROP_NONE || whole == NULL)
		return reason;
	// Its fragments have been taken already, so the loss of the whole is ours.
	bool taken = false;
	reason = input_whole(host, whole, &taken);
	if (reason != DROP_NONE)
		host_drop(host, reason);
	if (!taken)
		host->ops.packet_put(host->ops.user, whole);
	return DROP_NONE;
}

bool host_overhear(struct host *host, struct packet *packet, uint64_t now)
{
	bool four = packet->family == FAMILY_IPV4;
	struct inbound in;

	host->now = now;
	if (demux_first(host, four ? DEMUX_RAW4 : DEMUX_RAW6, four ? IPPROTO_ICMP : IPPROTO_ICMPV6) == 0)
		return false;
	if (inbound_parse(host, packet, &in) != DROP_NONE || in.fragment)
		return false;
	if (in.flow.interface == 0)
		in.flow.interface = host->reassembled_on;
	return raw_input(host, &in) > 0;
}

// What TCP sends to this VR itself, and errors about it, come back while it is being sent, in the middle of whatever
// changed the connection: they wait until that is done.
static bool comes_back(const struct inbound *in)
{
	return in->packet->ingress == 0 && !in->fragment &&
		(in->protocol == IPPROTO_TCP || in->protocol == IPPROTO_ICMP || in->protocol == IPPROTO_ICMPV6);
}

static enum drop_reason keep_own(struct host *host, struct packet *packet)
{
	if (host->own_count == OWN_PACKETS)
		return DROP_LOOP;
	packet->next = NULL;
	*(host->own != NULL ? &host->own_last->next : &host->own) = packet;
	host->own_last = packet;
	host->own_count++;
	return DROP_NONE;
}

// Only those that wait now: what answers them has its turn in the next round.
static void input_own(struct host *host)
{
	for (uint32_t left = host->own_count; left > 0; left--) {
		struct packet *packet = next_own(host);
		struct inbound in;
		enum drop_reason reason = inbound_parse(host, packet, &in);
		if (reason == DROP_NONE)
			reason = host_dispatch(host, &in);
		if (reason != DROP_NONE)
			host_drop(host, reason);
		if (!in.taken)
			host->ops.packet_put(host->ops.user, packet);
	}
}

enum drop_reason host_input(struct host *host, struct packet *packet, uint64_t now)
{
	host->now = now;
	struct inbound in;
	enum drop_reason reason = inbound_parse(host, packet, &in);
	if (reason == DROP_NONE && comes_back(&in))
		return keep_own(host, packet);
	if (reason == DROP_NONE)
		reason = in.fragment ? input_fragment(host, &in) : host_dispatch(host, &in);
	if (in.taken && reason != DROP_NONE) {
		host_drop(host, reason);
		return DROP_NONE;
	}
	if (reason == DROP_NONE && !in.taken)
		host->ops.packet_put(host->ops.user, packet);
	return reason;
}

enum drop_reason host_dispatch(struct host *host, struct inbound *in)
{
	uint8_t icmp = in->flow.family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	if (in->protocol == icmp && !icmp_valid(in))
		return in->length - in->transport < 8 ? DROP_ICMP_MALFORMED : DROP_ICMP_CHECKSUM;
	int copies = raw_input(host, in);
	if (in->protocol == IPPROTO_TCP)
		return tcp_input(host, in);
	if (in->protocol == IPPROTO_UDP)
		return udp_input(host, in);
	if (in->protocol == icmp)
		return icmp_input(host, in, copies);
	if (in->protocol == IPPROTO_IGMP && in->flow.family == FAMILY_IPV4) {
		enum drop_reason reason = igmp_input(host, in);
		return copies > 0 ? DROP_NONE : reason;
	}
	if (copies > 0)
		return DROP_NONE;
	if (!in->flow.multicast && !in->flow.broadcast && in->protocol != IPPROTO_NONE)
		host->ops.unreachable(host->ops.user, in->packet, HOST_PROTOCOL_UNREACHABLE);
	return DROP_NO_PROTOCOL;
}

void host_tick(struct host *host, uint64_t now)
{
	host->now = now;
	reassembly_tick(host);
	listener_tick(host);
	tcp_tick(host->tcp);
}

void host_clock(struct host *host, uint64_t now)
{
	host->now = now;
}

void host_flush(struct host *host, uint64_t now)
{
	host->now = now;
	// A connection of the VR with itself does not hold up the others: what is left waits for the next iteration.
	for (int round = 0; round < FLUSH_ROUNDS && (round == 0 || host->own != NULL); round++) {
		input_own(host);
		tcp_flush(host->tcp);
	}
}

bool host_owes(const struct host *host)
{
	return host->tcp->dirty_head != 0;
}

void host_sent(struct host *host)
{
	tcp_sent(host->tcp);
}

uint64_t host_deadline(const struct host *host)
{
	uint64_t reassembly = reassembly_deadline(host->reassembly);
	uint64_t listener = listener_deadline(host);
	bool waiting = host->own != NULL || host->tcp->dirty_head != 0 || (host->tcp->attach_ready && host->tcp->attach_left > 0);
	uint64_t tcp = waiting ? host->now : tcp_deadline(host->tcp);
	uint64_t first = reassembly < listener ? reassembly : listener;
	return first < tcp ? first : tcp;
}

static int open_stream(struct host *host, uint16_t family, uint16_t protocol, uint32_t *slot)
{
	if (protocol != 0 && protocol != IPPROTO_TCP)
		return -EPROTONOSUPPORT;
	struct tcp_socket *s = tcp_socket_new(host->tcp, family);
	if (s == NULL)
		return -ENFILE;
	*slot = tcp_slot(host->tcp, s);
	return 0;
}

static bool supported(uint16_t family, uint16_t type, uint16_t protocol)
{
	if (type == SOCK_RAW)
		return protocol > 0 && protocol <= IPPROTO_RAW;
	return protocol == IPPROTO_UDP || protocol == (family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

int host_socket(struct host *host, uint16_t family, uint16_t type, uint16_t protocol, uint32_t *slot)
{
	if (family != AF_INET && family != AF_INET6)
		return -EAFNOSUPPORT;
	if (type == SOCK_STREAM)
		return open_stream(host, family, protocol, slot);
	if (type != SOCK_DGRAM && type != SOCK_RAW)
		return -ESOCKTNOSUPPORT;
	if (protocol == 0 && type == SOCK_DGRAM)
		protocol = IPPROTO_UDP;
	if (!supported(family, type, protocol))
		return -EPROTONOSUPPORT;
	// The lowest free slot: pages of the table that were never touched cost nothing.
	while (host->slot_hint < MAX_SOCKETS && host->state->sockets[host->slot_hint].cookie != 0)
		host->slot_hint++;
	if (host->slot_hint == MAX_SOCKETS)
		return -ENFILE;
	*slot = host->slot_hint++;

	if (host->state->sockets_used <= *slot)
		__atomic_store_n(&host->state->sockets_used, *slot + 1, __ATOMIC_RELEASE);

	struct socket_entry *entry = &host->state->sockets[*slot];
	memset(entry, 0, sizeof(*entry));
	entry->family = family;
	entry->type = type;
	entry->protocol = protocol;
	entry->multicast_ttl = 1;
	entry->multicast_loop = 1;
	entry->pmtu_discover = IP_PMTUDISC_WANT;
	if (type == SOCK_RAW && protocol == IPPROTO_RAW)
		entry->flags = SOCKET_HEADER_INCLUDED;
	if (type == SOCK_RAW && family == AF_INET6 && protocol == IPPROTO_ICMPV6) {
		// RFC 3542 section 3.1: always computed, and the app cannot change that.
		entry->checksum_offset_set = 1;
		entry->checksum_offset = 2;
	}
	// The cookie makes the slot live: a crash before this store leaves it free.
	uint64_t cookie = host_random(host);
	__atomic_store_n(&entry->cookie, cookie != 0 ? cookie : 1, __ATOMIC_RELEASE);
	if (type == SOCK_RAW)
		demux_add(host, *slot);
	return 0;
}

void host_close(struct host *host, uint32_t slot)
{
	struct tcp_socket *stream = host_stream(host, slot);
	if (stream != NULL) {
		tcp_close(host->tcp, stream);
		return;
	}
	struct socket_entry *entry = host_entry(host, slot);
	if (entry == NULL)
		return;
	membership_close(host, slot);
	demux_remove(host, slot);
	__atomic_store_n(&entry->cookie, 0, __ATOMIC_RELEASE);
	memset(entry, 0, sizeof(*entry));
	if (slot < host->slot_hint)
		host->slot_hint = slot;
}

void host_attach(struct host *host)
{
	memset(host->heads, 0, sizeof(host->heads));
	memset(host->listed, 0, sizeof(host->listed));
	for (uint32_t slot = 0; slot < host_slots(host->state); slot++) {
		struct socket_entry *entry = host_entry(host, slot);
		if (entry == NULL)
			continue;
		if (!supported(entry->family, entry->type, entry->protocol)) {
			memset(entry, 0, sizeof(*entry)); // a predecessor died between two stores
			continue;
		}
		entry->flags |= SOCKET_ORPHANED;
		if (entry->type == SOCK_RAW || entry->local_port != 0)
			demux_add(host, slot);
	}
	membership_attach(host);
	host_interfaces_changed(host);
	tcp_attach(host->tcp);
}

void host_attach_ready(struct host *host)
{
	host->tcp->attach_ready = true;
}
