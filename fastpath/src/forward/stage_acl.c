// Access control lists: what a list looks at in a packet, and what its answer does to it.
//
// Stateless.  Fragments as RFC 1858 and RFC 3128 advise: one that is not the first has no transport
// header, and only entries that look at none match it; a first fragment of TCP that is too short to
// hold the flags, and one at offset 8 that would lie over them, are denied.  IPv6 extension headers
// are passed over up to a bound, and a packet whose chain of them is longer, or does not end inside
// (RFC 7112), is denied.  The end of a list denies, but lets neighbor solicitations and
// advertisements pass, which are to IPv6 what ARP is to IPv4, and ARP is not filtered.
#include "forward/stage.h"

#include "forward/hand.h"
#include "wire/icmp.h"
#include "wire/ip4.h"
#include "wire/ip6.h"
#include "wire/tcp.h"

#include <netinet/in.h>

enum {
	TINY_FRAGMENT = 16,      // RFC 1858 section 3.1: less of TCP than this does not reach the flags' end
	MAX_EXTENSIONS = 16,
	ICMP4_FILTERED = 13,     // "communication administratively prohibited", RFC 1812 section 5.2.7.1
	ND_HOP_LIMIT = 255
};

// Where the transport header begins, and how much of it is there.
struct transport {
	uint8_t protocol;
	uint32_t offset;
	uint32_t fragment;       // offset of this piece in bytes
	bool more;               // it is a piece, and not the last one
};

// False: its extension headers hide what it carries.
static bool find6(const uint8_t *ip, uint32_t length, struct transport *found)
{
	*found = (struct transport){.protocol = ((const struct ip6_header *)(const void *)ip)->next, .offset = IP6_HEADER};
	for (uint32_t i = 0; i < MAX_EXTENSIONS; i++) {
		const uint8_t *at = ip + found->offset;
		uint32_t header;

		if (found->protocol != IPPROTO_HOPOPTS && found->protocol != IPPROTO_ROUTING
		    && found->protocol != IPPROTO_DSTOPTS && found->protocol != IPPROTO_FRAGMENT)
			return true;
		if (found->fragment != 0)
			return true; // what follows is the middle of something
		if (length - found->offset < IP6_FRAGMENT_HEADER)
			return false;
		header = found->protocol == IPPROTO_FRAGMENT ? IP6_FRAGMENT_HEADER : (at[1] + 1u) * 8;
		if (header > length - found->offset)
			return false;
		if (found->protocol == IPPROTO_FRAGMENT) {
			found->fragment = load16(at + 2) & IP6_OFFSET;
			found->more |= (load16(at + 2) & IP6_MF) != 0; // a piece of a piece is one
		}
		found->protocol = at[0];
		found->offset += header;
	}
	return false;
}

static void find4(const uint8_t *ip, struct transport *found)
{
	const struct ip4_header *header = (const void *)ip;

	found->protocol = header->protocol;
	found->offset = ip4_header_length(header);
	found->fragment = (ip4_fragment(header) & IP4_OFFSET) * 8u;
	found->more = (ip4_fragment(header) & IP4_MF) != 0;
}

// RFC 1858 section 3, RFC 3128.
static bool is_attack(const struct transport *found, uint32_t available)
{
	if (found->protocol != IPPROTO_TCP)
		return false;
	return found->fragment == 8 || (found->fragment == 0 && found->more && available < TINY_FRAGMENT);
}

// The fields of the transport header; false where it is cut short.
static bool read_transport(const uint8_t *at, uint32_t available, struct filter_key *key)
{
	switch (key->protocol) {
	case IPPROTO_TCP:
		if (available < TINY_FRAGMENT)
			return false;
		key->flags = at[13];
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		if (available < 4)
			return false;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (available < 2)
			return false;
		key->destination_port = load16(at);
		return true;
	default:
		return true;
	}
	key->source_port = load16(at);
	key->destination_port = load16(at + 2);
	return true;
}

// What lists look at; false: nothing that hides itself in this way may pass.
static bool read_key(const struct stage *stage, struct filter_key *key)
{
	const uint8_t *ip = stage->ip;
	struct transport found;
	uint8_t dscp;

	if (stage->family == FAMILY_IPV4) {
		const struct ip4_header *header = (const void *)ip;
		find4(ip, &found);
		dscp = header->tos >> 2;
		key->source = key_of(FAMILY_IPV4, header->source);
		key->destination = key_of(FAMILY_IPV4, header->destination);
	} else {
		const struct ip6_header *header = (const void *)ip;
		if (!find6(ip, stage->length, &found))
			return false;
		dscp = (uint8_t)((load16(ip) >> 6) & 0x3f);
		key->source = key_of(FAMILY_IPV6, header->source);
		key->destination = key_of(FAMILY_IPV6, header->destination);
	}
	if (is_attack(&found, stage->length - found.offset))
		return false;
	key->source_port = 0;
	key->destination_port = 0;
	key->protocol = found.protocol;
	key->flags = 0;
	if (found.fragment != 0)
		key->form = (uint8_t)(dscp | FORM_LATER << 6);
	else if (read_transport(ip + found.offset, stage->length - found.offset, key))
		key->form = dscp;
	else if (found.more) // RFC 7112 section 5: what lists look at is in the first piece, or could hide in the others
		return false;
	else
		key->form = (uint8_t)(dscp | FORM_BARE << 6);
	return true;
}

static bool is_neighbor_discovery(const struct stage *stage, const struct filter_key *key)
{
	return stage->family == FAMILY_IPV6 && key->protocol == IPPROTO_ICMPV6 && key->form >> 6 == FORM_WHOLE
		&& (key->destination_port == ICMP6_NEIGHBOR_SOLICITATION << 8
		    || key->destination_port == ICMP6_NEIGHBOR_ADVERTISEMENT << 8)
		&& ((const struct ip6_header *)(const void *)stage->ip)->hop_limit == ND_HOP_LIMIT;
}

static void reject(struct forward *f, const struct stage *stage)
{
	uint8_t code = stage->family == FAMILY_IPV4 ? ICMP4_FILTERED : ICMP6_PROHIBITED;
	uint8_t type = stage->family == FAMILY_IPV4 ? ICMP4_UNREACHABLE : ICMP6_UNREACHABLE;

	if (stage->own_echo)
		return;
	if (f->hands != NULL)
		hand_error(f, stage->packet, stage->family, type, code, 0);
	else if (stage->family == FAMILY_IPV4)
		icmp4_error(f, stage->packet, type, code, 0);
	else
		icmp6_error(f, stage->packet, type, code, 0);
}

enum drop_reason stage_acl(struct forward *f, struct stage *stage)
{
	const struct filter_list *list = filter_bound(&f->filters, stage->interface->index, stage->direction);
	enum drop_reason refusal = stage->direction == STAGE_IN ? DROP_ACL_IN : DROP_ACL_OUT;
	const struct filter_entry *entry;
	struct filter_key key;
	bool readable;
	uint32_t found;

	if (stage->own)
		return DROP_NONE;
	if (list == NULL) // between two publications of control; what cannot be read denies
		return f->filters.broken ? refusal : DROP_NONE;
	readable = read_key(stage, &key);
	found = readable ? filter_match(&f->filters, list, stage->family, &key) : list->entry_count;
	entry = filter_entry(&f->filters, list, found);
	if (found == list->entry_count && readable && is_neighbor_discovery(stage, &key))
		return DROP_NONE;
	filter_count(f, entry, stage->length);
	forward_trace(f, stage->packet, "acl", "%s, entry %u of %u", list->name, found + 1, list->entry_count);
	if (entry->action == FILTER_PERMIT) {
		stage->mark = entry->mark;
		return DROP_NONE;
	}
	if (entry->action == FILTER_REJECT)
		reject(f, stage);
	return refusal;
}
