// Who may do what: the rules that control publishes (abi/tables.h).
//
// The first rule that names the peer's uid, or one of its groups, or anybody, decides
// alone; without one everything is denied.  Root and the VR's own uid pass.  A port range
// limits what an app may bind by number, not what an ephemeral bind gives it; prefixes
// limit remote addresses.  Verdicts are taken anew at each bind, connect and send, so a
// rule that goes stops the sockets it let in.
#include "server/internal.h"

#include <errno.h>
#include <netinet/in.h>

enum { EVERYTHING = RULE_CONNECT | RULE_LISTEN | RULE_UDP | RULE_RAW | RULE_MULTICAST };

bool rights_trusted(const struct server *server, uint32_t uid)
{
	return uid == 0 || uid == server->uid;
}

static bool in_groups(const struct peer *peer, uint32_t gid)
{
	if (peer->gid == gid)
		return true;
	for (uint32_t i = 0; i < peer->group_count; i++)
		if (peer->groups[i] == gid)
			return true;
	return false;
}

static const struct rule_entry *find_rule(const struct server *server, const struct peer *peer)
{
	for (uint32_t i = 0; i < server->tables->rule_count; i++) {
		const struct rule_entry *rule = &server->tables->rules[i];
		if (rule->identity == RULE_ANY || (rule->identity == RULE_UID && rule->id == peer->uid) ||
		    (rule->identity == RULE_GID && in_groups(peer, rule->id)))
			return rule;
	}
	return NULL;
}

// A socket remembers the one group that let it in: enough to find the same rule again,
// also after a restart, when the peer is out of sight.
static const struct rule_entry *rule_of_socket(const struct server *server, const struct owner *owner)
{
	struct peer peer;
	peer.uid = owner->uid;
	peer.gid = owner->gid;
	peer.group_count = 0;
	return find_rule(server, &peer);
}

uint32_t rights_of_peer(const struct server *server, const struct peer *peer, uint32_t *gid)
{
	*gid = peer->gid;
	if (rights_trusted(server, peer->uid))
		return EVERYTHING;
	const struct rule_entry *rule = find_rule(server, peer);
	if (rule == NULL)
		return 0;
	if (rule->identity == RULE_GID)
		*gid = rule->id;
	return rule->operations & EVERYTHING;
}

uint32_t rights_of_socket(const struct server *server, const struct owner *owner)
{
	if (rights_trusted(server, owner->uid))
		return EVERYTHING;
	const struct rule_entry *rule = rule_of_socket(server, owner);
	return rule == NULL ? 0 : rule->operations & EVERYTHING;
}

int rights_open(uint32_t operations, uint16_t type, uint16_t protocol)
{
	if (type == SOCK_RAW)
		return operations & RULE_RAW ? 0 : EPERM;
	if (type == SOCK_STREAM)
		return operations & (RULE_CONNECT | RULE_LISTEN) ? 0 : EACCES;
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return operations & (RULE_UDP | RULE_RAW) ? 0 : EACCES;
	return operations & RULE_UDP ? 0 : EACCES;
}

bool rights_port(const struct server *server, const struct owner *owner, uint16_t port)
{
	if (rights_trusted(server, owner->uid) || port == 0)
		return true;
	const struct rule_entry *rule = rule_of_socket(server, owner);
	if (rule == NULL)
		return false;
	if (rule->port_count == 0)
		return true;
	for (uint32_t i = 0; i < rule->port_count && i < MAX_RULE_PORTS; i++)
		if (port >= rule->ports[i].first && port <= rule->ports[i].last)
			return true;
	return false;
}

static bool covers(const struct prefix *prefix, uint8_t family, const uint8_t *address)
{
	uint32_t bits = prefix->length;
	if (prefix->family != family || bits > (family == FAMILY_IPV4 ? 32u : 128u))
		return false;
	if (memcmp(prefix->address, address, bits / 8) != 0)
		return false;
	uint32_t rest = bits % 8;
	return rest == 0 || ((prefix->address[bits / 8] ^ address[bits / 8]) >> (8 - rest)) == 0;
}

bool rights_destination(const struct server *server, const struct owner *owner, uint32_t operations, uint8_t family, const uint8_t *address)
{
	if (rights_trusted(server, owner->uid))
		return true;
	const struct rule_entry *rule = rule_of_socket(server, owner);
	if (rule == NULL || rights_open(rule->operations & operations, owner->type, owner->protocol) != 0)
		return false;
	bool multicast = family == FAMILY_IPV4 ? (address[0] & 0xf0) == 0xe0 : address[0] == 0xff;
	if (multicast && !(rule->operations & RULE_MULTICAST))
		return false;
	if (rule->prefix_count == 0)
		return true;
	for (uint32_t i = 0; i < rule->prefix_count && i < MAX_RULE_PREFIXES; i++)
		if (covers(&rule->prefixes[i], family, address))
			return true;
	return false;
}
