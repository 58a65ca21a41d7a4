// The echo function: RFC 5880 section 6.4, RFC 5881 section 4.
//
// Our echo packets are addressed to ourselves, and handed to the neighbor, who forwards them back.  What the
// neighbor sends in the same way is forwarded like any packet.  A digest keeps strangers from answering
// in its place.
#include "bfd/internal.h"

#include "base/bytes.h"
#include "base/siphash.h"

enum { ECHO_MAGIC = 0x42464445, ECHO_SIGNED = 20 };

static void sign(const struct bfd *bfd, const uint8_t *payload, uint8_t *digest)
{
	uint64_t value = siphash24(bfd->state->random_key, payload, ECHO_SIGNED);
	memcpy(digest, &value, sizeof(value));
}

static uint32_t wanted_interval(const struct bfd *bfd, uint32_t slot)
{
	const struct bfd_session *session = session_at(bfd, slot);
	const struct bfd_entry *entry = entry_at(bfd, slot);
	if (entry == NULL || (session->flags & BFD_MULTIHOP) || session->state != BFD_UP || entry->echo_us == 0 || session->remote_echo_us == 0)
		return 0;
	return entry->echo_us > session->remote_echo_us ? entry->echo_us : session->remote_echo_us;
}

void echo_stop(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	bfd->echoing -= session->echoing;
	session->echoing = 0;
	session->echo_us = 0;
	session->echo_ns = 0;
}

void echo_update(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	uint32_t interval = wanted_interval(bfd, slot);
	if (interval == 0) {
		echo_stop(bfd, slot);
		return;
	}
	if (!session->echoing) {
		session->echoing = 1;
		session->echo_missing = 0;
		bfd->echoing++;
	}
	if (interval != session->echo_us)
		session->echo_ns = bfd->now + session_jitter(bfd, interval, session->multiplier);
	session->echo_us = interval;
}

static void echo_send(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	uint8_t payload[ECHO_SIZE];
	struct bfd_datagram datagram = {
		.payload = payload,
		.length = sizeof(payload),
		.family = session->family,
		.ttl = BFD_TTL,
		.interface = session->interface,
		.source_port = (uint16_t)(49152 + slot),
		.destination_port = BFD_ECHO_PORT,
		.neighbor = session->remote,
	};
	if (!session_source(bfd, session, datagram.source))
		return;
	memcpy(datagram.destination, datagram.source, sizeof(datagram.destination));
	store32(payload, ECHO_MAGIC);
	store32(payload + 4, session->discriminator);
	store32(payload + 8, ++session->echo_sequence);
	memcpy(payload + 12, &bfd->now, sizeof(bfd->now));
	sign(bfd, payload, payload + ECHO_SIGNED);
	session->echo_missing++;
	session->tx_echoes++;
	bfd->ops.output(bfd->ops.user, &datagram);
}

void echo_tick(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	// RFC 5880 section 6.8.5; what waits in a ring has not been lost.
	if (session->echo_missing >= session->multiplier && session_heard(bfd, session->echo_ns)) {
		session_fail(bfd, slot, BFD_ECHO_FAILED);
		return;
	}
	echo_send(bfd, slot);
	session->echo_ns = bfd->now + session_jitter(bfd, session->echo_us, session->multiplier);
}

enum drop_reason echo_receive(struct bfd *bfd, const struct bfd_datagram *datagram)
{
	const uint8_t *payload = datagram->payload;
	uint8_t digest[8];
	if (datagram->length != ECHO_SIZE || load32(payload) != ECHO_MAGIC)
		return DROP_BFD_MALFORMED;
	sign(bfd, payload, digest);
	if (memcmp(digest, payload + ECHO_SIGNED, sizeof(digest)) != 0)
		return DROP_BFD_AUTHENTICATION;
	uint32_t slot = load32(payload + 4) & SLOT_MASK;
	struct bfd_session *session = session_at(bfd, slot);
	if (session->discriminator != load32(payload + 4) || !session->echoing || session->interface != datagram->interface)
		return DROP_BFD_NO_SESSION;
	// One that was sent before the last failures were counted says nothing of now.
	if (session->echo_sequence - load32(payload + 8) > session->multiplier)
		return DROP_BFD_MALFORMED;
	session->rx_echoes++;
	session->echo_missing = 0;
	return DROP_NONE;
}
