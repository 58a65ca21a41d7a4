/*
 * Reads a BGP session as fast as it comes, and counts: what a monitor of a benchmark needs and no more.
 *
 * Prefixes of IPv4 in the fields of the UPDATE (RFC 4271 section 4.3), of IPv6 in MP_REACH_NLRI and
 * MP_UNREACH_NLRI (RFC 4760).  Runs in a thread of its own until the session or `stop` ends it.  Python reads the
 * counters meanwhile.  The peer is trusted to be well-formed; a length that cannot be is an error, not an overrun.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

struct count {
	volatile uint64_t announced; /* prefixes */
	volatile uint64_t withdrawn;
	volatile uint64_t messages; /* UPDATEs */
	volatile uint64_t bytes;
	volatile uint64_t ends_of_rib;
	volatile uint64_t last_ns; /* CLOCK_MONOTONIC of the last prefix */
	volatile uint64_t announce_target, announce_ns; /* when so many were announced since the start */
	volatile uint64_t withdraw_target, withdraw_ns;
	volatile int stop, ended, notification; /* code << 8 | subcode */
	uint8_t *kept; /* all UPDATEs as they came, up to kept_room bytes */
	uint64_t kept_room;
	volatile uint64_t kept_size;
};

enum { HEADER = 19, BUFFER = 1 << 20, EXTENDED = 0x10, MP_REACH = 14, MP_UNREACH = 15 };

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static unsigned be16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static unsigned prefixes(const uint8_t *p, const uint8_t *end)
{
	unsigned found = 0;

	while (p < end) {
		p += 1 + (*p + 7) / 8;
		found++;
	}
	return found;
}

/* Returns whether the message can be read. */
static int update(struct count *c, const uint8_t *p, const uint8_t *end)
{
	unsigned withdrawn = be16(p);
	const uint8_t *attributes, *nlri;
	uint64_t up = 0, down = 0;
	int family = 0;

	if (end - p < 4 || withdrawn > end - p - 4)
		return 0;
	down = prefixes(p + 2, p + 2 + withdrawn);
	attributes = p + 4 + withdrawn;
	nlri = attributes + be16(attributes - 2);
	if (nlri > end)
		return 0;
	while (nlri - attributes >= 4) {
		int wide = attributes[0] & EXTENDED;
		unsigned length = wide ? be16(attributes + 2) : attributes[2];
		const uint8_t *value = attributes + (wide ? 4 : 3);

		if (length > nlri - value)
			return 0;
		if (attributes[1] == MP_REACH && length >= 5 && value[3] + 5u <= length) {
			up += prefixes(value + 5 + value[3], value + length);
			family = 1;
		} else if (attributes[1] == MP_UNREACH && length >= 3) {
			down += prefixes(value + 3, value + length);
			family = 1;
		}
		attributes = value + length;
	}
	up += prefixes(nlri, end);
	c->messages++;
	if (!up && !down && (family || end - p == 4))
		c->ends_of_rib++;
	c->announced += up;
	c->withdrawn += down;
	return 1;
}

static size_t messages(struct count *c, const uint8_t *data, size_t size)
{
	size_t used = 0;

	while (size - used >= HEADER) {
		const uint8_t *at = data + used;
		unsigned length = be16(at + 16);

		if (length < HEADER || size - used < length)
			break;
		if (at[18] == 2) {
			if (length < HEADER + 4 || !update(c, at + HEADER, at + length))
				c->ended = EBADMSG;
			if (c->kept_size + length <= c->kept_room) {
				memcpy(c->kept + c->kept_size, at, length);
				c->kept_size += length;
			}
		} else if (at[18] == 3 && length >= HEADER + 2) {
			c->notification = at[19] << 8 | at[20];
		}
		used += length;
	}
	return used;
}

static void note(struct count *c, uint64_t prefixes_before)
{
	uint64_t now = now_ns();

	if (c->announced + c->withdrawn != prefixes_before)
		c->last_ns = now;
	if (c->announce_target && !c->announce_ns && c->announced >= c->announce_target)
		c->announce_ns = now;
	if (c->withdraw_target && !c->withdraw_ns && c->withdrawn >= c->withdraw_target)
		c->withdraw_ns = now;
}

void count_run(struct count *c, int fd);

void count_run(struct count *c, int fd)
{
	uint8_t *buffer = malloc(BUFFER);
	size_t have = 0;

	while (buffer && !c->stop && !c->ended) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		uint64_t before = c->announced + c->withdrawn;
		size_t used;
		ssize_t got;

		if (poll(&wait, 1, 50) <= 0)
			continue;
		got = recv(fd, buffer + have, BUFFER - have, MSG_DONTWAIT);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got <= 0) {
			c->ended = got ? errno : EPIPE;
			break;
		}
		c->bytes += (uint64_t)got;
		have += (size_t)got;
		used = messages(c, buffer, have);
		memmove(buffer, buffer + used, have - used);
		have -= used;
		note(c, before);
	}
	free(buffer);
}
