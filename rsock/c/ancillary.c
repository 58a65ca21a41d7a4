// Ancillary data of recvmsg(2) and sendmsg(2): packet info, TTL, time stamps, the error queue.
//
// ip(7), ipv6(7), RFC 3542.  Connected sockets carry bare payloads and therefore none of it.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <string.h>
#include <time.h>

enum { IPV4 = 4 };
#define NS_PER_S 1000000000ll

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static const struct want {
	int level, name;
	uint16_t bit;
} wants[] = {
	{IPPROTO_IP, IP_PKTINFO, WANT_PKTINFO},
	{IPPROTO_IP, IP_RECVTTL, WANT_TTL},
	{IPPROTO_IP, IP_RECVTOS, WANT_TOS},
	{IPPROTO_IP, IP_RECVERR, WANT_ERROR},
	{IPPROTO_IPV6, IPV6_RECVPKTINFO, WANT_PKTINFO6},
	{IPPROTO_IPV6, IPV6_RECVHOPLIMIT, WANT_HOPLIMIT},
	{IPPROTO_IPV6, IPV6_RECVTCLASS, WANT_TCLASS},
	{IPPROTO_IPV6, IPV6_RECVERR, WANT_ERROR6},
	{SOL_SOCKET, SO_TIMESTAMP, WANT_TIMESTAMP},
	{SOL_SOCKET, SO_TIMESTAMPNS, WANT_TIMESTAMPNS},
};

enum { WANTS = sizeof(wants) / sizeof(wants[0]) };

uint16_t ancillary_want(int level, int name)
{
	for (int i = 0; i < WANTS; i++)
		if (wants[i].level == level && wants[i].name == name)
			return wants[i].bit;
	return 0;
}

void ancillary_learn(int fd, struct handle *handle)
{
	for (int i = 0; i < WANTS; i++) {
		int value = 0;
		socklen_t length = sizeof(value);
		if (wants[i].level == IPPROTO_IPV6 && handle->domain != AF_INET6)
			continue;
		if (option_get(fd, handle, wants[i].level, wants[i].name, &value, &length) == 0 && value != 0)
			handle->wants |= wants[i].bit;
	}
	handle->flags |= HANDLE_WANTS_KNOWN;
	handle_put(fd, handle);
}

// --- what was received ---

struct writer {
	uint8_t *at;
	size_t room;
	size_t used;
	bool cut;
};

static void put(struct writer *writer, int level, int type, const void *data, size_t length)
{
	struct cmsghdr header = {.cmsg_len = CMSG_LEN(length), .cmsg_level = level, .cmsg_type = type};
	size_t space = CMSG_SPACE(length);
	size_t left = writer->room - writer->used;
	if (writer->cut || left < CMSG_LEN(length)) {
		writer->cut = true;
		return;
	}
	uint8_t *place = writer->at + writer->used;
	memcpy(place, &header, sizeof(header));
	memcpy(place + CMSG_LEN(0), data, length);
	writer->used += space < left ? space : left;
}

static struct writer begin(struct msghdr *message)
{
	return (struct writer){
		.at = message->msg_control, .room = message->msg_control == NULL ? 0 : message->msg_controllen};
}

static void finish(struct msghdr *message, const struct writer *writer)
{
	message->msg_controllen = writer->used;
	if (writer->cut)
		message->msg_flags |= MSG_CTRUNC;
}

static void put_number(struct writer *writer, int level, int type, int number)
{
	put(writer, level, type, &number, sizeof(number));
}

static void put_four(struct writer *writer, uint16_t wanted, const struct rsock_datagram *header)
{
	if (wanted & WANT_PKTINFO) {
		struct in_pktinfo info = {.ipi_ifindex = (int)header->interface};
		memcpy(&info.ipi_spec_dst, header->local, sizeof(info.ipi_spec_dst));
		memcpy(&info.ipi_addr, header->local, sizeof(info.ipi_addr));
		put(writer, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	}
	if (wanted & WANT_TTL)
		put_number(writer, IPPROTO_IP, IP_TTL, header->ttl);
	if (wanted & WANT_TOS)
		put(writer, IPPROTO_IP, IP_TOS, &header->tos, sizeof(header->tos));
}

static void put_six(struct writer *writer, uint16_t wanted, const struct rsock_datagram *header)
{
	if (wanted & WANT_PKTINFO6) {
		struct in6_pktinfo info = {.ipi6_ifindex = header->interface};
		uint8_t *address = info.ipi6_addr.s6_addr;
		if (header->family == IPV4) {
			memcpy(address, mapped, sizeof(mapped));
			memcpy(address + sizeof(mapped), header->local, 4);
		} else {
			memcpy(address, header->local, sizeof(header->local));
		}
		put(writer, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
	}
	if (wanted & WANT_HOPLIMIT)
		put_number(writer, IPPROTO_IPV6, IPV6_HOPLIMIT, header->ttl);
	if (wanted & WANT_TCLASS)
		put_number(writer, IPPROTO_IPV6, IPV6_TCLASS, header->tos);
}

// The forwarder's clock is CLOCK_BOOTTIME; apps expect the time of day.
static struct timespec time_of_day(uint64_t boottime)
{
	struct timespec real, boot;
	(void)clock_gettime(CLOCK_REALTIME, &real);
	(void)clock_gettime(CLOCK_BOOTTIME, &boot);
	uint64_t age = (uint64_t)(boot.tv_sec * NS_PER_S + boot.tv_nsec) - boottime;
	int64_t stamp = (int64_t)((uint64_t)(real.tv_sec * NS_PER_S + real.tv_nsec) - age);
	if (stamp < 0) // nobody's clock
		stamp = 0;
	return (struct timespec){.tv_sec = stamp / NS_PER_S, .tv_nsec = stamp % NS_PER_S};
}

void ancillary_received(const struct handle *handle, const struct rsock_datagram *header, struct msghdr *message)
{
	struct writer writer = begin(message);
	if (handle->wants & (WANT_TIMESTAMP | WANT_TIMESTAMPNS)) {
		struct timespec stamp = time_of_day(header->timestamp);
		struct timeval coarse = {.tv_sec = stamp.tv_sec, .tv_usec = stamp.tv_nsec / 1000};
		if (handle->wants & WANT_TIMESTAMPNS)
			put(&writer, SOL_SOCKET, SO_TIMESTAMPNS, &stamp, sizeof(stamp));
		else
			put(&writer, SOL_SOCKET, SO_TIMESTAMP, &coarse, sizeof(coarse));
	}
	if (header->family == IPV4)
		put_four(&writer, handle->wants, header);
	if (handle->domain == AF_INET6)
		put_six(&writer, handle->wants, header);
	finish(message, &writer);
}

void ancillary_error(const struct handle *handle, const struct rsock_datagram *header, struct msghdr *message)
{
	bool four = header->family == IPV4;
	bool icmp = header->flags & RSOCK_DATAGRAM_ICMP;
	struct writer writer = begin(message);
	struct {
		struct sock_extended_err error;
		union {
			struct sockaddr_in four;
			struct sockaddr_in6 six;
		} offender;
	} item = {
		.error = {
			.ee_errno = header->error,
			.ee_origin = icmp ? four ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6 : SO_EE_ORIGIN_LOCAL,
			.ee_type = header->icmp_type,
			.ee_code = header->icmp_code,
			.ee_info = header->info,
		},
	};
	if (icmp && four) {
		item.offender.four.sin_family = AF_INET;
		memcpy(&item.offender.four.sin_addr, header->local, sizeof(item.offender.four.sin_addr));
	} else if (icmp) {
		item.offender.six.sin6_family = AF_INET6;
		item.offender.six.sin6_scope_id = header->interface;
		memcpy(&item.offender.six.sin6_addr, header->local, sizeof(item.offender.six.sin6_addr));
	}
	(void)handle;
	size_t length = sizeof(item.error) + (four ? sizeof(item.offender.four) : sizeof(item.offender.six));
	put(&writer, four ? IPPROTO_IP : IPPROTO_IPV6, four ? IP_RECVERR : IPV6_RECVERR, &item, length);
	message->msg_flags |= MSG_ERRQUEUE;
	finish(message, &writer);
}

// --- what is to be sent ---

static bool any(const uint8_t *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (bytes[i] != 0)
			return true;
	return false;
}

static void from_local(struct rsock_datagram *header, const uint8_t *address, size_t size)
{
	if (!any(address, size))
		return;
	header->flags |= RSOCK_DATAGRAM_LOCAL;
	memset(header->local, 0, sizeof(header->local));
	if (size == sizeof(header->local) && header->family == IPV4 && memcmp(address, mapped, sizeof(mapped)) == 0)
		memcpy(header->local, address + sizeof(mapped), 4);
	else
		memcpy(header->local, address, size);
}

static int take_number(const uint8_t *data, size_t length, uint8_t *byte)
{
	int number;
	if (length != sizeof(number))
		return -EINVAL;
	memcpy(&number, data, sizeof(number));
	if (number < -1 || number > UINT8_MAX)
		return -EINVAL;
	*byte = number < 0 ? 0 : (uint8_t)number;
	return 0;
}

static int take_item(const struct cmsghdr *item, const uint8_t *data, size_t length, struct rsock_datagram *header)
{
	struct in_pktinfo four;
	struct in6_pktinfo six;
	if (item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_PKTINFO) {
		if (length != sizeof(four))
			return -EINVAL;
		memcpy(&four, data, sizeof(four));
		if (four.ipi_ifindex != 0)
			header->interface = (uint32_t)four.ipi_ifindex;
		from_local(header, (const uint8_t *)&four.ipi_spec_dst, sizeof(four.ipi_spec_dst));
		return 0;
	}
	if (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_PKTINFO) {
		if (length < sizeof(six))
			return -EINVAL;
		memcpy(&six, data, sizeof(six));
		if (six.ipi6_ifindex != 0)
			header->interface = six.ipi6_ifindex;
		from_local(header, six.ipi6_addr.s6_addr, sizeof(six.ipi6_addr));
		return 0;
	}
	if ((item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_TTL) ||
	    (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_HOPLIMIT))
		return take_number(data, length, &header->ttl);
	// The socket's own is used: the record has no room for another.
	if ((item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_TOS) ||
	    (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_TCLASS))
		return 0;
	return -EINVAL;
}

int ancillary_to_send(const struct msghdr *message, struct rsock_datagram *header)
{
	const uint8_t *at = message->msg_control;
	size_t left = at == NULL ? 0 : message->msg_controllen;
	while (left >= sizeof(struct cmsghdr)) {
		struct cmsghdr item;
		memcpy(&item, at, sizeof(item));
		if (item.cmsg_len < CMSG_LEN(0) || item.cmsg_len > left)
			return -EINVAL;
		int error = take_item(&item, at + CMSG_LEN(0), item.cmsg_len - CMSG_LEN(0), header);
		if (error < 0)
			return error;
		size_t space = CMSG_ALIGN(item.cmsg_len);
		if (space >= left)
			break;
		at += space;
		left -= space;
	}
	return 0;
}
