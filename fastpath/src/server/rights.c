// Who may do what: the rules that control publishes (abi/tables.h).
//
// The first rule that names the peer's uid, or one of its groups, or anybody, decides alone; without
// one everything is denied.  A remote app is known by its CURVE key, and by nothing else: the relay,
// whose uid the rules name, opens sockets in the name of a key, and may do nothing in its own.
// Root and the VR's own uid pass.
//
// A port range limits what an app may bind by number, not what an ephemeral bind gives it; prefixes
// limit remote addresses.  Verdicts are taken anew at each bind, connect and send, and where the
// rules change (review.c), so a rule that goes stops the sockets it let in.
#include "server/internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>

enum { EVERYTHING = RULE_CONNECT | RULE_LISTEN | RULE_UDP | RULE_RAW | RULE_MULTICAST };

bool rights_trusted(const struct server *server, uint32_t uid)
{
	return uid == 0 || uid == server->uid;
}

bool rights_relay(const struct server *server, uint32_t uid)
{
	for (uint32_t i = 0; i < server->tables->rule_count; i++)
		if (server->tables->rules[i].identity == RULE_RELAY && server->tables->rules[i].id == uid)
			return true;
	return false;
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

static bool names_peer(const struct rule_entry *rule, const struct peer *peer, const uint8_t *key)
{
	if (key != NULL)
		return rule->identity == RULE_CURVE && memcmp(rule->curve_key, key, sizeof(rule->curve_key)) == 0;
	return rule->identity == RULE_ANY || (rule->identity == RULE_UID && rule->id == peer->uid) ||
	       (rule->identity == RULE_GID && in_groups(peer, rule->id));
}

static const struct rule_entry *find_rule(const struct server *server, const struct peer *peer, const uint8_t *key)
{
	for (uint32_t i = 0; i < server->tables->rule_count; i++)
		if (names_peer(&server->tables->rules[i], peer, key))
			return &server->tables->rules[i];
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
	return find_rule(server, &peer, accounts_key(server, owner->account));
}

static bool trusted(const struct server *server, const struct owner *owner)
{
	return rights_trusted(server, owner->uid) && accounts_key(server, owner->account) == NULL;
}

uint32_t rights_of_peer(const struct server *server, const struct peer *peer, const uint8_t *key, uint32_t *gid)
{
	*gid = peer->gid;
	if (key == NULL && rights_trusted(server, peer->uid))
		return EVERYTHING;
	const struct rule_entry *rule = find_rule(server, peer, key);
	if (rule == NULL)
		return 0;
	if (rule->identity == RULE_GID)
		*gid = rule->id;
	return rule->operations & EVERYTHING;
}

uint32_t rights_of_socket(const struct server *server, const struct owner *owner)
{
	if (trusted(server, owner))
		return EVERYTHING;
	const struct rule_entry *rule = rule_of_socket(server, owner);
	return rule == NULL ? 0 : rule->operations & EVERYTHING;
}

const struct quota *rights_quota(const struct server *server, const struct owner *owner)
{
	static const struct quota none;
	if (trusted(server, owner))
		return NULL;
	const struct rule_entry *rule = rule_of_socket(server, owner);
	return rule == NULL ? &none : &rule->quota;
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

// The key in whose name an OPEN comes; NULL where the connection's own uid asks.
static int read_key(const struct server *server, const struct connection *connection, struct admission *admission, const uint8_t **key)
{
	struct rsock_identity identity;
	uint32_t length = admission->identity;
	*key = NULL;
	if (length == 0)
		return 0;
	if (!rights_relay(server, connection->peer.uid))
		return accounts_deny(server, connection->account, DENIAL_IDENTITY, EPERM);
	if (length != sizeof(identity) || admission->app_length < length)
		return -EINVAL;
	memcpy(&identity, admission->app, sizeof(identity));
	if (identity.kind != RULE_CURVE)
		return -EINVAL;
	*key = admission->app + offsetof(struct rsock_identity, key);
	admission->app += length;
	admission->app_length -= length;
	return 0;
}

int rights_admit(struct server *server, const struct connection *connection, struct admission *admission)
{
	struct owner *owner = &admission->owner;
	const uint8_t *key;
	int error = read_key(server, connection, admission, &key);
	if (error < 0)
		return error;
	owner->uid = connection->peer.uid;
	owner->account = connection->account;
	admission->rights = rights_of_peer(server, &connection->peer, key, &owner->gid);
	// A key that no rule names gets no place in the books: there is no end to those.
	int account = key != NULL && admission->rights != 0 ? accounts_of(server, owner->uid, key) : (int)owner->account;
	int denied = rights_open(admission->rights, owner->type, owner->protocol);
	if (account < 0)
		return accounts_deny(server, owner->account, DENIAL_SOCKETS, EMFILE);
	owner->account = (uint32_t)account;
	return denied != 0 ? accounts_deny(server, owner->account, DENIAL_OPEN, denied) : 0;
}

bool rights_port(const struct server *server, const struct owner *owner, uint16_t port)
{
	if (trusted(server, owner) || port == 0)
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
	if (trusted(server, owner))
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
