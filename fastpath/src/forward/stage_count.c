// Packets and bytes for each prefix that an operator wants counted: what is forwarded counts for the
// longest of these prefixes that holds its destination.
#include "forward/stage.h"

#include "wire/ip4.h"
#include "wire/ip6.h"

void stage_count_route(struct forward *f, const struct packet *packet)
{
	const uint8_t *ip = packet->buffer + packet->offset;
	bool ip6 = ip[0] >> 4 == 6;
	const uint8_t *destination = ip + (ip6 ? offsetof(struct ip6_header, destination)
		: offsetof(struct ip4_header, destination));
	const struct filter_entry *entry = filter_counted(&f->filters, ip6 ? FAMILY_IPV6 : FAMILY_IPV4, destination);

	if (entry != NULL)
		filter_count(f, entry, packet_bytes(packet));
}
