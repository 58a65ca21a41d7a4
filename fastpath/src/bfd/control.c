// The bytes of BFD control packets, and their authentication: RFC 5880 sections 4 and 6.7.
#include "bfd/internal.h"

#include "base/bytes.h"
#include "base/md5.h"
#include "base/sha1.h"

enum {
	VERSION = 1,
	FLAG_POLL = 0x20, FLAG_FINAL = 0x10, FLAG_AUTHENTICATION = 0x04, FLAG_DEMAND = 0x02, FLAG_MULTIPOINT = 0x01,
	AUTHENTICATION_HEADER = 8, // type, length, key id, reserved, sequence number
	SIMPLE_HEADER = 3,         // type, length, key id
	MAX_PASSWORD = 16
};

bool authentication_meticulous(uint8_t type)
{
	return type == BFD_AUTH_METICULOUS_MD5 || type == BFD_AUTH_METICULOUS_SHA1;
}

static bool is_sha1(uint8_t type)
{
	return type == BFD_AUTH_SHA1 || type == BFD_AUTH_METICULOUS_SHA1;
}

static uint32_t digest_size(uint8_t type)
{
	return is_sha1(type) ? SHA1_DIGEST : MD5_DIGEST;
}

static uint32_t section_size(const struct bfd_entry *entry)
{
	if (entry->authentication == BFD_AUTH_NONE)
		return 0;
	if (entry->authentication == BFD_AUTH_SIMPLE)
		return SIMPLE_HEADER + (entry->key_length < MAX_PASSWORD ? entry->key_length : (uint32_t)MAX_PASSWORD);
	return AUTHENTICATION_HEADER + digest_size(entry->authentication);
}

// RFC 5880 section 6.8.6, in its order, up to the choice of a session.
enum drop_reason control_parse(const struct bfd_datagram *datagram, struct control *control)
{
	const uint8_t *at = datagram->payload;
	if (datagram->length < CONTROL_SIZE || at[0] >> 5 != VERSION)
		return DROP_BFD_MALFORMED;
	*control = (struct control){
		.diagnostic = at[0] & 0x1f,
		.state = at[1] >> 6,
		.poll = at[1] & FLAG_POLL,
		.final = at[1] & FLAG_FINAL,
		.demand = at[1] & FLAG_DEMAND,
		.authenticated = at[1] & FLAG_AUTHENTICATION,
		.multiplier = at[2],
		.my_discriminator = load32(at + 4),
		.your_discriminator = load32(at + 8),
		.desired_us = load32(at + 12),
		.required_us = load32(at + 16),
		.echo_us = load32(at + 20),
	};
	uint32_t least = control->authenticated ? CONTROL_SIZE + 2 : CONTROL_SIZE;
	if (at[3] < least || at[3] > datagram->length)
		return DROP_BFD_MALFORMED;
	if (control->multiplier == 0 || (at[1] & FLAG_MULTIPOINT) || control->my_discriminator == 0)
		return DROP_BFD_MALFORMED;
	if (control->your_discriminator == 0 && control->state != BFD_DOWN && control->state != BFD_ADMIN_DOWN)
		return DROP_BFD_MALFORMED;
	return DROP_NONE;
}

// The digest of a packet whose digest field is at `field`: the key stands there while it is made.
static void digest_of(const struct bfd_entry *entry, const uint8_t *packet, uint32_t field, uint8_t *digest)
{
	uint32_t size = digest_size(entry->authentication);
	uint8_t key[SHA1_DIGEST] = {0};
	memcpy(key, entry->key, entry->key_length < size ? entry->key_length : size);
	if (is_sha1(entry->authentication)) {
		struct sha1 sha1;
		sha1_begin(&sha1);
		sha1_add(&sha1, packet, field);
		sha1_add(&sha1, key, size);
		sha1_end(&sha1, digest);
	} else {
		struct md5 md5;
		md5_begin(&md5);
		md5_add(&md5, packet, field);
		md5_add(&md5, key, size);
		md5_end(&md5, digest);
	}
}

// In a time that does not tell where they differ.
static bool same(const uint8_t *a, const uint8_t *b, uint32_t length)
{
	uint8_t difference = 0;
	for (uint32_t i = 0; i < length; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

// RFC 5880 sections 6.7.3 and 6.7.4: numbers may be missing, but never come again.
static bool sequence_fits(const struct bfd_session *session, uint32_t sequence)
{
	if (!session->sequence_known)
		return true;
	uint32_t least = authentication_meticulous(session->authentication) ? 1 : 0;
	uint32_t ahead = sequence - session->received_sequence;
	return ahead >= least && ahead <= 3u * session->multiplier;
}

bool control_authentic(const struct bfd_entry *entry, struct bfd_session *session, const struct bfd_datagram *datagram)
{
	const uint8_t *packet = datagram->payload, *section = packet + CONTROL_SIZE;
	bool present = packet[1] & FLAG_AUTHENTICATION;
	uint32_t size = section_size(entry);
	if (!present || entry->authentication == BFD_AUTH_NONE)
		return !present && entry->authentication == BFD_AUTH_NONE;
	// The section ends the packet: nothing behind it would be under the digest.
	if (packet[3] != CONTROL_SIZE + size || section[0] != entry->authentication || section[1] != size || section[2] != entry->key_id)
		return false;
	if (entry->authentication == BFD_AUTH_SIMPLE)
		return same(section + SIMPLE_HEADER, entry->key, size - SIMPLE_HEADER);
	uint8_t digest[SHA1_DIGEST];
	uint32_t sequence = load32(section + 4);
	digest_of(entry, packet, CONTROL_SIZE + AUTHENTICATION_HEADER, digest);
	if (!same(section + AUTHENTICATION_HEADER, digest, digest_size(entry->authentication)) || !sequence_fits(session, sequence))
		return false;
	session->received_sequence = sequence;
	session->sequence_known = 1;
	return true;
}

static void build_section(const struct bfd_entry *entry, const struct bfd_session *session, uint8_t *packet)
{
	uint8_t *section = packet + CONTROL_SIZE;
	uint32_t size = section_size(entry);
	section[0] = entry->authentication;
	section[1] = (uint8_t)size;
	section[2] = entry->key_id;
	if (entry->authentication == BFD_AUTH_SIMPLE) {
		memcpy(section + SIMPLE_HEADER, entry->key, size - SIMPLE_HEADER);
		return;
	}
	section[3] = 0;
	store32(section + 4, session->sent_sequence);
	digest_of(entry, packet, CONTROL_SIZE + AUTHENTICATION_HEADER, section + AUTHENTICATION_HEADER);
}

uint32_t control_build(const struct control *control, const struct bfd_entry *entry, const struct bfd_session *session, uint8_t *bytes)
{
	uint32_t length = CONTROL_SIZE + section_size(entry);
	bytes[0] = (uint8_t)(VERSION << 5 | control->diagnostic);
	bytes[1] = (uint8_t)(control->state << 6 | (control->poll ? FLAG_POLL : 0) | (control->final ? FLAG_FINAL : 0) |
		(length > CONTROL_SIZE ? FLAG_AUTHENTICATION : 0));
	bytes[2] = control->multiplier;
	bytes[3] = (uint8_t)length;
	store32(bytes + 4, control->my_discriminator);
	store32(bytes + 8, control->your_discriminator);
	store32(bytes + 12, control->desired_us);
	store32(bytes + 16, control->required_us);
	store32(bytes + 20, control->echo_us);
	if (length > CONTROL_SIZE)
		build_section(entry, session, bytes);
	return length;
}
