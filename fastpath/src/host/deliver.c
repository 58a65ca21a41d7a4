// What an app is told: received payloads and errors, as struct rsock_datagram.
#include "host/internal.h"

bool deliver_payload(struct host *host, uint32_t slot, const struct inbound *in, const uint8_t *payload, uint32_t length)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	struct rsock_datagram header = {
		.version = RSOCK_VERSION,
		.family = in->flow.family,
		.flags = RSOCK_DATAGRAM_LOCAL,
		.ttl = in->ttl,
		.tos = in->tos,
		.port = in->flow.remote_port,
		.interface = in->flow.interface,
		.local_port = in->flow.local_port,
		.timestamp = host->now,
	};
	memcpy(header.address, in->flow.remote, sizeof(header.address));
	memcpy(header.local, in->flow.local, sizeof(header.local));
	if (!host->ops.upcall(host->ops.user, slot, &header, payload, length)) {
		entry->rx_drops++;
		return false;
	}
	entry->rx_packets++;
	return true;
}

static bool wants_record(const struct socket_entry *entry, uint8_t family)
{
	// An AF_INET6 socket asks for its IPv4 errors with IP_RECVERR (ipv6(7)).
	return entry->options & (family == FAMILY_IPV4 ? OPTION_ERRORS4 : OPTION_ERRORS6);
}

void deliver_failure(struct host *host, uint32_t slot, const struct socket_failure *failure)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	bool connected = entry->flags & SOCKET_CONNECTED;
	bool record = wants_record(entry, failure->flow.family);
	if (connected) {
		// RFC 1122 section 4.1.3.3, as far as Linux goes: soft errors only on demand.
		if (failure->fatal || record)
			host_fail(host, slot, failure->error);
		return;
	}
	if (!record)
		return;
	struct rsock_datagram header = {
		.version = RSOCK_VERSION,
		.family = failure->flow.family,
		.flags = RSOCK_DATAGRAM_ERROR | RSOCK_DATAGRAM_ICMP,
		.port = failure->flow.remote_port,
		.interface = failure->flow.interface,
		.error = (uint32_t)failure->error,
		.icmp_type = failure->type,
		.icmp_code = failure->code,
		.local_port = failure->flow.local_port,
		.info = failure->info,
		.timestamp = host->now,
	};
	memcpy(header.address, failure->flow.remote, sizeof(header.address));
	memcpy(header.local, failure->reporter, sizeof(header.local));
	if (!host->ops.upcall(host->ops.user, slot, &header, failure->payload, failure->length))
		entry->rx_drops++;
}
