// Signed segments: the MD5 option of RFC 2385, over IPv4 and IPv6.
//
//   key chosen by peer (the longest prefix wins) --> bytes of the option --> sign | check
//
// Nobody outside this file knows how long the option is, what goes into a digest, or how a key
// is chosen, so that a second algorithm (RFC 5925) is a matter of this file.  A connection has a
// key of its own, copied from its listener; half-open connections and TIME-WAIT hold the one
// that they were begun or ended with.  Not supported: TCP-AO.
#include "host/tcp_internal.h"

#include <errno.h>
#include "base/md5.h"

enum {
	OPTION_NOP = 1,
	OPTION_MD5 = 19,
	MD5_OPTION = 18,        // kind, length, digest
	MD5_OPTION_PADDED = 20
};

static struct tcp_key *key_at(const struct tcp *tcp, uint32_t key)
{
	return &tcp->keys[key - 1];
}

static uint32_t key_new(struct tcp *tcp)
{
	uint32_t key = tcp->key_free;
	if (key != 0)
		tcp->key_free = key_at(tcp, key)->next;
	else if (tcp->key_used < TCP_MAX_KEYS)
		tcp->host->state->tcp_keys_used = key = ++tcp->key_used;
	else
		return 0;
	memset(key_at(tcp, key), 0, sizeof(struct tcp_key));
	key_at(tcp, key)->references = 1;
	return key;
}

// --- taking over ---

void tcp_auth_attach(struct tcp *tcp)
{
	uint64_t used = tcp->host->state->tcp_keys_used;
	tcp->key_used = used < TCP_MAX_KEYS ? (uint32_t)used : TCP_MAX_KEYS;
	tcp->key_free = 0;
	for (uint32_t key = 1; key <= tcp->key_used; key++)
		key_at(tcp, key)->references = 0;
}

bool tcp_auth_adopt(struct tcp *tcp, const struct tcp_socket *s)
{
	for (uint32_t at = s->keys; at != 0; at = key_at(tcp, at)->next) {
		if (at > tcp->key_used)
			return false;
		struct tcp_key *key = key_at(tcp, at);
		// One that is half written has no length yet; one that was met before closes a ring.
		if (key->references != 0 || key->length == 0 || key->length > TCP_KEY_LENGTH || key->prefix > 128)
			return false;
		key->references = 1;
	}
	return true;
}

void tcp_auth_attached(struct tcp *tcp)
{
	for (uint32_t key = tcp->key_used; key > 0; key--) {
		if (key_at(tcp, key)->references != 0)
			continue;
		explicit_bzero(key_at(tcp, key), sizeof(struct tcp_key));
		key_at(tcp, key)->next = tcp->key_free;
		tcp->key_free = key;
	}
}

// --- keys ---

void tcp_auth_hold(struct tcp *tcp, uint32_t key)
{
	if (key != 0)
		key_at(tcp, key)->references++;
}

void tcp_auth_put(struct tcp *tcp, uint32_t key)
{
	if (key == 0 || --key_at(tcp, key)->references > 0)
		return;
	explicit_bzero(key_at(tcp, key), sizeof(struct tcp_key));
	key_at(tcp, key)->next = tcp->key_free;
	tcp->key_free = key;
}

static bool prefix_covers(const struct tcp_key *key, const uint8_t *address)
{
	uint32_t bytes = key->prefix / 8u, bits = key->prefix % 8u;

	return memcmp(key->address, address, bytes) == 0 &&
		(bits == 0 || (key->address[bytes] ^ address[bytes]) >> (8 - bits) == 0);
}

static bool same_peers(const struct tcp_key *a, const struct tcp_key *b)
{
	return a->prefix == b->prefix && a->interface == b->interface && prefix_covers(a, b->address);
}

// The order of a socket's list: the first key that fits is the one to use.
static bool goes_before(const struct tcp_key *a, const struct tcp_key *b)
{
	return a->prefix != b->prefix ? a->prefix > b->prefix : a->interface != 0 && b->interface == 0;
}

// Where in the list of `s` a key for the same peers stands, or where it would have to be linked in.
static uint32_t *find_place(const struct tcp *tcp, struct tcp_socket *s, const struct tcp_key *key, bool *found)
{
	uint32_t *place = &s->keys;

	*found = false;
	while (*place != 0 && !*found) {
		const struct tcp_key *there = key_at(tcp, *place);
		*found = same_peers(there, key);
		if (*found || goes_before(key, there))
			break;
		place = &key_at(tcp, *place)->next;
	}
	return place;
}

int tcp_auth_set(struct tcp *tcp, struct tcp_socket *s, const struct tcp_key *key)
{
	if (key->length > TCP_KEY_LENGTH || key->prefix > 128)
		return -EINVAL;
	bool found;
	uint32_t *place = find_place(tcp, s, key, &found);
	if (key->length == 0) {
		if (!found)
			return -ENOENT;
		uint32_t old = *place;
		*place = key_at(tcp, old)->next;
		tcp_auth_put(tcp, old);
		return 0;
	}
	if (!found) {
		uint32_t made = key_new(tcp);
		if (made == 0)
			return -ENOMEM;
		key_at(tcp, made)->next = *place;
		*place = made;
	}
	struct tcp_key *entry = key_at(tcp, *place);
	memcpy(entry->address, key->address, sizeof(entry->address));
	entry->prefix = key->prefix;
	entry->interface = key->interface;
	entry->length = key->length;
	memcpy(entry->key, key->key, key->length);
	return 0;
}

uint32_t tcp_auth_key(const struct tcp *tcp, const struct tcp_socket *s, const uint8_t *remote, uint16_t interface)
{
	for (uint32_t at = s->keys; at != 0; at = key_at(tcp, at)->next) {
		const struct tcp_key *key = key_at(tcp, at);
		if ((key->interface == 0 || key->interface == interface) && prefix_covers(key, remote))
			return at;
	}
	return 0;
}

void tcp_auth_inherit(struct tcp *tcp, const struct tcp_socket *listener, struct tcp_socket *child)
{
	uint32_t key = tcp_auth_key(tcp, listener, child->remote, child->interface);
	if (key == 0)
		return;
	struct tcp_key copy = *key_at(tcp, key);
	memcpy(copy.address, child->remote, sizeof(copy.address));
	copy.prefix = 128;
	tcp_auth_set(tcp, child, &copy);
	explicit_bzero(&copy, sizeof(copy));
}

void tcp_auth_release(struct tcp *tcp, struct tcp_socket *s)
{
	while (s->keys != 0) {
		uint32_t key = s->keys;
		s->keys = key_at(tcp, key)->next;
		tcp_auth_put(tcp, key);
	}
}

uint32_t tcp_auth_bytes(const struct tcp *tcp, uint32_t key)
{
	(void)tcp;
	return key == 0 ? 0 : MD5_OPTION_PADDED;
}

// RFC 2385 section 2.0: pseudo header, TCP header without options and with a zero checksum, data, key.
static void compute_digest(const struct tcp_key *key, uint8_t family, const uint8_t *source, const uint8_t *destination,
	const uint8_t *header, uint32_t header_length, const uint8_t *payload, uint32_t length, uint8_t *digest)
{
	uint8_t pseudo[40] = {0}, fixed[TCP_HEADER];
	uint32_t address = family == FAMILY_IPV4 ? 4 : 16, size = 2 * address;
	struct md5 md5;

	memcpy(pseudo, source + 16 - address, address);
	memcpy(pseudo + address, destination + 16 - address, address);
	if (family == FAMILY_IPV4) {
		pseudo[size + 1] = IPPROTO_TCP;
		store16(pseudo + size + 2, (uint16_t)(header_length + length));
		size += 4;
	} else { // RFC 8200 section 8.1
		store32(pseudo + size, header_length + length);
		pseudo[size + 7] = IPPROTO_TCP;
		size += 8;
	}
	memcpy(fixed, header, sizeof(fixed));
	store16(fixed + TCP_CHECKSUM, 0);
	md5_begin(&md5);
	md5_add(&md5, pseudo, size);
	md5_add(&md5, fixed, sizeof(fixed));
	md5_add(&md5, payload, length);
	md5_add(&md5, key->key, key->length);
	md5_end(&md5, digest);
}

void tcp_auth_sign(const struct tcp *tcp, uint32_t key, uint8_t family, const uint8_t *source, const uint8_t *destination, uint8_t *header,
	uint32_t header_length, uint32_t at, const uint8_t *payload, uint32_t length)
{
	uint8_t *option = header + at;

	option[0] = OPTION_NOP;
	option[1] = OPTION_NOP;
	option[2] = OPTION_MD5;
	option[3] = MD5_OPTION;
	compute_digest(key_at(tcp, key), family, source, destination, header, header_length, payload, length, option + 4);
}

static bool digest_matches(const struct tcp_key *key, const struct tcp_arrival *arrival)
{
	const struct inbound *in = arrival->in;
	uint32_t length = in->length - in->transport - arrival->header_length; // trimming has not changed what was signed
	uint8_t digest[MD5_DIGEST], different = 0;

	compute_digest(key, in->flow.family, arrival->remote, arrival->local, arrival->header, arrival->header_length,
		arrival->header + arrival->header_length, length, digest);
	for (int i = 0; i < MD5_DIGEST; i++) // in a time that tells nothing about where they differ
		different |= digest[i] ^ arrival->options.md5[i];
	return different == 0;
}

enum drop_reason tcp_auth_check(struct tcp *tcp, uint32_t key, const struct tcp_arrival *arrival)
{
	bool is_signed = arrival->options.md5 != NULL;

	if (key == 0 && !is_signed)
		return DROP_NONE;
	bool right = key != 0 && is_signed && arrival->options.ao == NULL && digest_matches(key_at(tcp, key), arrival);
	return right ? DROP_NONE : DROP_TCP_AUTHENTICATION;
}
