// Endpoints: the families a socket can speak, and how well it fits a packet.
//
// An AF_INET6 socket names an IPv4 peer ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2); packets
// always carry the plain form.  Preferences are those of Linux: the more a socket has
// fixed, the better it fits.
#include "host/internal.h"

void address_map(uint8_t family, const uint8_t *address, uint8_t *mapped)
{
	if (family == FAMILY_IPV6) {
		memcpy(mapped, address, 16);
		return;
	}
	memset(mapped, 0, 10);
	mapped[10] = 0xff;
	mapped[11] = 0xff;
	memcpy(mapped + 12, address, 4);
}

bool address_unmap(uint16_t domain, const uint8_t *address, uint8_t *family, uint8_t *plain)
{
	memset(plain, 0, 16);
	if (domain == AF_INET) {
		*family = FAMILY_IPV4;
		memcpy(plain, address, 4);
		return true;
	}
	if (domain != AF_INET6)
		return false;
	if (address_mapped(address)) {
		*family = FAMILY_IPV4;
		memcpy(plain, address + 12, 4);
	} else {
		*family = FAMILY_IPV6;
		memcpy(plain, address, 16);
	}
	return true;
}

static bool family_fits(const struct socket_entry *entry, const struct flow *flow)
{
	if (entry->family == AF_INET)
		return flow->family == FAMILY_IPV4;
	if (flow->family == FAMILY_IPV6)
		return true;
	// Raw AF_INET6 sockets never see IPv4 (RFC 3542 section 3).
	return !(entry->flags & SOCKET_V6ONLY) && entry->type != SOCK_RAW;
}

int endpoint_score(const struct socket_entry *entry, const struct flow *flow)
{
	if (!family_fits(entry, flow))
		return -1;
	bool native = entry->family == AF_INET;
	const uint8_t *local = native ? flow->local : flow->local6;
	const uint8_t *remote = native ? flow->remote : flow->remote6;
	int score = native || flow->family == FAMILY_IPV6 ? 2 : 1;

	if (!address_any(entry->local)) {
		if (!address_equal(entry->local, local))
			return -1;
		score += 4;
	}
	if (entry->flags & SOCKET_CONNECTED) {
		if (!address_equal(entry->remote, remote))
			return -1;
		if (entry->protocol == IPPROTO_UDP && entry->type == SOCK_DGRAM && entry->remote_port != flow->remote_port)
			return -1;
		score += 8;
	}
	if (entry->interface != 0) {
		if (entry->interface != flow->interface)
			return -1;
		score += 4;
	}
	return score;
}
