// Options of stream sockets with the names, values and errors of Linux: socket(7), tcp(7), ip(7),
// ipv6(7).
//
// Not supported: TCP_FASTOPEN, TCP_REPAIR, TCP_ULP, TCP_AO (all ENOPROTOOPT).
#include "host/tcp_internal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>
#include "host/tcp_info.h"

#ifndef TCP_MD5SIG_EXT // in headers since glibc 2.28
#define TCP_MD5SIG_EXT 32
#endif

enum {
	BIND_TO_IFINDEX = 62,        // SO_BINDTOIFINDEX
	MIN_TTL4 = 21,               // IP_MINTTL
	MIN_HOPS6 = 73,              // IPV6_MINHOPCOUNT
	LATE_PORT4 = 24,             // IP_BIND_ADDRESS_NO_PORT
	SMALLEST_RCVBUF = 2304,
	SMALLEST_SNDBUF = 4608,
	LARGEST_BUFFER = 212992,     // net.core.rmem_max, wmem_max
	LARGEST_MSS = 32767,
	LARGEST_KEEPALIVE_S = 32767,
	LARGEST_COUNT = 127,
	LARGEST_LINGER2_S = 120,
	CONGESTION_NAME = 16,
	MD5_PREFIX_FLAG = 1, MD5_IFINDEX_FLAG = 2
};

// Options that are one bit.
static const struct option_switch switches[] = {
	{SOL_SOCKET, SO_REUSEADDR, false, TCP_REUSE_ADDRESS},
	{SOL_SOCKET, SO_REUSEPORT, false, TCP_REUSE_PORT},
	{SOL_SOCKET, SO_OOBINLINE, true, TCP_OOB_INLINE},
	{IPPROTO_IP, IP_RECVERR, false, TCP_RECV_ERRORS},
	{IPPROTO_IP, LATE_PORT4, true, TCP_LATE_PORT},
	{IPPROTO_IP, IP_FREEBIND, true, TCP_FREE_BIND},
	{IPPROTO_IPV6, IPV6_RECVERR, false, TCP_RECV_ERRORS},
	{IPPROTO_TCP, TCP_NODELAY, false, TCP_NODELAY_SET},
	{IPPROTO_TCP, TCP_CORK, false, TCP_CORK_SET},
};

enum { SWITCHES = sizeof(switches) / sizeof(switches[0]) };

static void switch_set(struct tcp *tcp, struct tcp_socket *s, int at, bool on)
{
	uint32_t *word = switches[at].other ? &s->engine : &s->flags;
	*word = on ? *word | switches[at].bit : *word & ~switches[at].bit;
	// What Nagle or the cork held back goes out at once.
	if (switches[at].level == IPPROTO_TCP && on == (switches[at].bit == TCP_NODELAY_SET) && s->flight != 0) {
		struct tcp_flight *f = tcp_flight(tcp, s);
		f->more = false;
		f->push = switches[at].bit == TCP_NODELAY_SET;
		tcp_dirty(tcp, s);
	}
}

static bool take_int(const uint8_t *value, uint32_t length, int *number)
{
	if (length < sizeof(*number))
		return false;
	memcpy(number, value, sizeof(*number));
	return true;
}

static bool between(int value, int least, int most)
{
	return value >= least && value <= most;
}

// --- SOL_SOCKET ---

static int pin(struct tcp *tcp, struct tcp_socket *s, uint32_t index)
{
	if (index >= MAX_INTERFACES || (index != 0 && view_interface(tcp->host->tables, (uint16_t)index) == NULL))
		return -ENODEV;
	s->interface = (uint16_t)index;
	s->engine = index != 0 ? s->engine | TCP_PINNED : s->engine & ~(uint32_t)TCP_PINNED;
	return 0;
}

static int pin_name(struct tcp *tcp, struct tcp_socket *s, const uint8_t *value, uint32_t length)
{
	int index = option_interface(tcp->host, value, length);
	return index < 0 ? index : pin(tcp, s, (uint32_t)index);
}

// Linux doubles what the app asks for, since it counts the cost of segments, too.
static uint32_t doubled(int value, uint32_t least)
{
	uint32_t bytes = (uint32_t)value < LARGEST_BUFFER ? (uint32_t)value : LARGEST_BUFFER;
	return 2 * bytes > least ? 2 * bytes : least;
}

static int set_linger(struct tcp_socket *s, const uint8_t *value, uint32_t length)
{
	struct linger linger;
	if (length < sizeof(linger))
		return -EINVAL;
	memcpy(&linger, value, sizeof(linger));
	s->flags = linger.l_onoff ? s->flags | TCP_LINGER_SET : s->flags & ~(uint32_t)TCP_LINGER_SET;
	if (linger.l_onoff)
		s->linger_s = linger.l_linger < 0 || linger.l_linger > UINT16_MAX ? UINT16_MAX : (uint16_t)linger.l_linger;
	return 0;
}

static int set_socket(struct tcp *tcp, struct tcp_socket *s, int name, const uint8_t *value, uint32_t length)
{
	int number;
	if (name == SO_BINDTODEVICE)
		return pin_name(tcp, s, value, length);
	if (!take_int(value, length, &number))
		return -EINVAL;
	switch (name) {
	case SO_LINGER:
		return set_linger(s, value, length);
	case SO_KEEPALIVE:
		tcp_keepalive_set(tcp, s, number != 0);
		return 0;
	case SO_SNDBUF:
		s->flags |= TCP_SNDBUF_LOCKED;
		s->sndbuf = doubled(number, SMALLEST_SNDBUF);
		queue_wake_writer(tcp, s);
		return 0;
	case SO_RCVBUF:
		s->flags |= TCP_RCVBUF_LOCKED;
		s->rcvbuf = doubled(number, SMALLEST_RCVBUF);
		return 0;
	case BIND_TO_IFINDEX:
		return number < 0 ? -EINVAL : pin(tcp, s, (uint32_t)number);
	case SO_BROADCAST:
	case SO_PRIORITY:
	case SO_DONTROUTE:
		return 0; // nothing to a connection here
	default:
		return -ENOPROTOOPT;
	}
}

static int get_socket(struct tcp_socket *s, int name, int *number)
{
	switch (name) {
	case SO_ERROR: // once
		*number = s->error != 0 ? s->error : s->soft_error;
		s->error = s->soft_error = 0;
		return 0;
	case SO_TYPE:
		*number = SOCK_STREAM;
		return 0;
	case SO_DOMAIN:
		*number = s->family;
		return 0;
	case SO_PROTOCOL:
		*number = IPPROTO_TCP;
		return 0;
	case SO_ACCEPTCONN:
		*number = s->state == TCP_STATE_LISTEN;
		return 0;
	case SO_SNDBUF:
		*number = (int)s->sndbuf;
		return 0;
	case SO_RCVBUF:
		*number = (int)s->rcvbuf;
		return 0;
	case SO_KEEPALIVE:
		*number = (s->flags & TCP_KEEPALIVE_SET) != 0;
		return 0;
	case BIND_TO_IFINDEX:
		*number = s->engine & TCP_PINNED ? s->interface : 0;
		return 0;
	case SO_BROADCAST:
	case SO_PRIORITY:
	case SO_DONTROUTE:
		*number = 0;
		return 0;
	default:
		return -ENOPROTOOPT;
	}
}

// --- IPPROTO_TCP ---

// Linux's struct tcp_md5sig, of which older headers lack the interface.
struct key_request {
	struct sockaddr_storage address;
	uint8_t flags;
	uint8_t prefix;
	uint16_t length;
	int32_t interface;
	uint8_t key[TCP_KEY_LENGTH];
};

// A key for the peers of a prefix; length 0 takes it away.
static int set_key(struct tcp *tcp, struct tcp_socket *s, const uint8_t *value, uint32_t length, bool extended)
{
	struct key_request wish;
	struct tcp_key key = {.prefix = 128};
	uint8_t plain[16] = {0};
	if (length < sizeof(wish))
		return -EINVAL;
	memcpy(&wish, value, sizeof(wish));
	bool four = wish.address.ss_family == AF_INET;
	if (!four && (wish.address.ss_family != AF_INET6 || s->family == AF_INET))
		return -EINVAL;
	if (wish.length > TCP_KEY_LENGTH)
		return -EINVAL;
	memcpy(plain, (const uint8_t *)&wish.address + (four ? offsetof(struct sockaddr_in, sin_addr) : offsetof(struct sockaddr_in6, sin6_addr)),
		four ? 4 : 16);
	address_map(four ? FAMILY_IPV4 : FAMILY_IPV6, plain, key.address);
	four = address_mapped(key.address);
	uint8_t flags = extended ? wish.flags : 0;
	if (flags & MD5_PREFIX_FLAG) {
		if (wish.prefix > (four ? 32 : 128))
			return -EINVAL;
		key.prefix = (uint8_t)(wish.prefix + (four ? 96 : 0));
	}
	if (flags & MD5_IFINDEX_FLAG) {
		if (wish.interface < 0 || wish.interface >= MAX_INTERFACES)
			return -EINVAL;
		key.interface = (uint16_t)wish.interface;
	}
	key.length = (uint8_t)wish.length;
	memcpy(key.key, wish.key, key.length);
	int error = tcp_auth_set(tcp, s, &key);
	if (error == 0 && tcp_synchronized(s)) // its option takes room, or no more
		tcp_sync_mss(tcp, s, s->pmtu);
	return error;
}

static int set_congestion(struct tcp *tcp, struct tcp_socket *s, const uint8_t *value, uint32_t length)
{
	uint32_t size = (uint32_t)strnlen((const char *)value, length < CONGESTION_NAME ? length : CONGESTION_NAME - 1);
	int found = tcp_congestion_named((const char *)value, size);
	if (size == 0)
		return -EINVAL;
	if (found < 0)
		return -ENOENT;
	if (found == s->congestion)
		return 0;
	s->congestion = (uint8_t)found;
	// What the role holds is the algorithm's only once the connection has begun.
	if (s->state != TCP_STATE_CLOSED && s->state != TCP_STATE_LISTEN && tcp_congestion_of(s)->init != NULL)
		tcp_congestion_of(s)->init(tcp, s);
	return 0;
}

static int set_quick_ack(struct tcp *tcp, struct tcp_socket *s, int number)
{
	if (number == 0) {
		s->engine |= TCP_PINGPONG;
		return 0;
	}
	s->engine &= ~(uint32_t)TCP_PINGPONG;
	if ((s->flags & TCP_ACK_PENDING) && (s->state == TCP_STATE_ESTABLISHED || s->state == TCP_STATE_CLOSE_WAIT)) {
		s->flags |= TCP_ACK_NOW;
		tcp_dirty(tcp, s);
		if (!(number & 1)) // for this one ACK only
			s->engine |= TCP_PINGPONG;
	}
	return 0;
}

// The listener may let this many seconds of SYN-ACKs pass; rounded up to the times when they are sent.
static int set_defer_accept(const struct tcp *tcp, struct tcp_socket *s, int number)
{
	uint32_t period = tcp->config.initial_rto_us / 1000000, total = period;
	s->flags &= ~(uint32_t)TCP_DEFER_ACCEPT_SET;
	s->defer_accept_s = 0;
	if (number <= 0)
		return 0;
	while (total < (uint32_t)number && total < UINT8_MAX) {
		period = period * 2 < tcp->config.max_rto_us / 1000000 ? period * 2 : tcp->config.max_rto_us / 1000000;
		total += period;
	}
	s->defer_accept_s = (uint8_t)(total < UINT8_MAX ? total : UINT8_MAX);
	s->flags |= TCP_DEFER_ACCEPT_SET;
	return 0;
}

static int set_window_clamp(struct tcp_socket *s, int number)
{
	if (number == 0) {
		if (s->state != TCP_STATE_CLOSED)
			return -EINVAL;
		s->window_clamp = 0;
		return 0;
	}
	s->window_clamp = number < SMALLEST_RCVBUF / 2 ? SMALLEST_RCVBUF / 2 : (uint32_t)number;
	if (s->rcv_ssthresh > s->window_clamp)
		s->rcv_ssthresh = s->window_clamp;
	return 0;
}

static int set_keepalive(struct tcp *tcp, struct tcp_socket *s, int name, int number)
{
	if (!between(number, 1, name == TCP_KEEPCNT ? LARGEST_COUNT : LARGEST_KEEPALIVE_S))
		return -EINVAL;
	if (name == TCP_KEEPCNT)
		s->keep_count = (uint8_t)number;
	else if (name == TCP_KEEPINTVL)
		s->keep_interval_s = (uint16_t)number;
	else
		s->keep_idle_s = (uint32_t)number;
	if (name == TCP_KEEPIDLE && (s->flags & TCP_KEEPALIVE_SET) && s->state != TCP_STATE_CLOSED && s->state != TCP_STATE_LISTEN)
		tcp_keepalive_set(tcp, s, true);
	return 0;
}

static int set_tcp(struct tcp *tcp, struct tcp_socket *s, int name, const uint8_t *value, uint32_t length)
{
	int number;
	if (name == TCP_CONGESTION)
		return set_congestion(tcp, s, value, length);
	if (name == TCP_MD5SIG || name == TCP_MD5SIG_EXT)
		return set_key(tcp, s, value, length, name == TCP_MD5SIG_EXT);
	if (!take_int(value, length, &number))
		return -EINVAL;
	switch (name) {
	case TCP_MAXSEG:
		if (number != 0 && !between(number, TCP_MIN_MSS, LARGEST_MSS))
			return -EINVAL;
		s->user_mss = (uint16_t)number;
		return 0;
	case TCP_KEEPIDLE:
	case TCP_KEEPINTVL:
	case TCP_KEEPCNT:
		return set_keepalive(tcp, s, name, number);
	case TCP_SYNCNT:
		if (!between(number, 1, LARGEST_COUNT))
			return -EINVAL;
		s->syn_retries = (uint8_t)number;
		return 0;
	case TCP_LINGER2:
		s->linger2_s = (int16_t)(number < 0 ? -1 : number > LARGEST_LINGER2_S ? LARGEST_LINGER2_S : number);
		return 0;
	case TCP_DEFER_ACCEPT:
		return set_defer_accept(tcp, s, number);
	case TCP_WINDOW_CLAMP:
		return set_window_clamp(s, number);
	case TCP_QUICKACK:
		return set_quick_ack(tcp, s, number);
	case TCP_USER_TIMEOUT:
		if (number < 0)
			return -EINVAL;
		s->user_timeout_ms = (uint32_t)number;
		return 0;
	case TCP_NOTSENT_LOWAT:
		s->low_water = (uint32_t)number;
		queue_wake_writer(tcp, s);
		return 0;
	default:
		return -ENOPROTOOPT;
	}
}

static int get_tcp(const struct tcp *tcp, const struct tcp_socket *s, int name, int *number)
{
	const struct host_config *config = &tcp->config;
	bool closed = s->state == TCP_STATE_CLOSED || s->state == TCP_STATE_LISTEN;
	switch (name) {
	case TCP_MAXSEG:
		*number = closed || s->mss == 0 ? (s->user_mss != 0 ? s->user_mss : 536) : s->mss;
		return 0;
	case TCP_KEEPIDLE:
		*number = (int)(s->keep_idle_s != 0 ? s->keep_idle_s : config->keep_idle_s);
		return 0;
	case TCP_KEEPINTVL:
		*number = (int)(s->keep_interval_s != 0 ? s->keep_interval_s : config->keep_interval_s);
		return 0;
	case TCP_KEEPCNT:
		*number = (int)(s->keep_count != 0 ? s->keep_count : config->keep_count);
		return 0;
	case TCP_SYNCNT:
		*number = (int)(s->syn_retries != 0 ? s->syn_retries : config->syn_retries);
		return 0;
	case TCP_LINGER2:
		*number = s->linger2_s != 0 ? s->linger2_s : (int)config->fin_timeout_s;
		return 0;
	case TCP_DEFER_ACCEPT:
		*number = s->defer_accept_s;
		return 0;
	case TCP_WINDOW_CLAMP:
		*number = (int)s->window_clamp;
		return 0;
	case TCP_QUICKACK:
		*number = !(s->engine & TCP_PINGPONG);
		return 0;
	case TCP_USER_TIMEOUT:
		*number = (int)s->user_timeout_ms;
		return 0;
	case TCP_NOTSENT_LOWAT:
		*number = (int)s->low_water;
		return 0;
	case TCP_TIMESTAMP:
		*number = (int)(tcp_now_ms(tcp) + s->ts_offset);
		return 0;
	default:
		return -ENOPROTOOPT;
	}
}

// --- IPPROTO_IP, IPPROTO_IPV6 ---

// A number up to `most`, where -1 stands for the default.
static int set_byte(uint8_t *field, int value, int most)
{
	if (!between(value, -1, most))
		return -EINVAL;
	*field = value == -1 ? 0 : (uint8_t)value;
	return 0;
}

static int set_v6only(struct tcp_socket *s, int number)
{
	if (s->local_port != 0 || s->state != TCP_STATE_CLOSED)
		return -EINVAL;
	s->flags = number ? s->flags | TCP_V6ONLY : s->flags & ~(uint32_t)TCP_V6ONLY;
	return 0;
}

static int set_ip(struct tcp_socket *s, bool four, int name, int number)
{
	if (name == (four ? IP_TTL : IPV6_UNICAST_HOPS))
		return four && number == 0 ? -EINVAL : set_byte(&s->ttl, number, 255);
	if (name == (four ? IP_TOS : IPV6_TCLASS)) {
		if (!four && !between(number, -1, 255))
			return -EINVAL;
		// The two lowest bits are TCP's own (RFC 3168 section 5).
		s->tos = (uint8_t)((number == -1 && !four ? 0 : number & 0xfc) | (s->tos & 3));
		return 0;
	}
	if (name == (four ? (int)MIN_TTL4 : (int)MIN_HOPS6)) {
		if (!between(number, 0, 255))
			return -EINVAL;
		s->min_ttl = (uint8_t)number;
		return 0;
	}
	if (name == (four ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER)) {
		if (!between(number, IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT))
			return -EINVAL;
		s->pmtu_discover = (uint8_t)number;
		return 0;
	}
	if (!four && name == IPV6_V6ONLY)
		return set_v6only(s, number);
	return -ENOPROTOOPT;
}

static int path_mtu_now(struct tcp *tcp, const struct tcp_socket *s)
{
	uint8_t family, plain[16];
	if (s->remote_port == 0 || s->state == TCP_STATE_CLOSED)
		return -ENOTCONN;
	address_unmap(AF_INET6, s->remote, &family, plain);
	uint32_t mtu = tcp->host->ops.path_mtu(tcp->host->ops.user, family, plain, s->interface);
	return mtu == 0 ? -ENETUNREACH : (int)path_mtu_clamp(tcp->host, family, plain, mtu);
}

static int get_ip(struct tcp *tcp, const struct tcp_socket *s, bool four, int name, int *number)
{
	if (name == (four ? IP_TTL : IPV6_UNICAST_HOPS))
		*number = s->ttl != 0 ? s->ttl : DEFAULT_TTL;
	else if (name == (four ? IP_TOS : IPV6_TCLASS))
		*number = s->tos;
	else if (name == (four ? (int)MIN_TTL4 : (int)MIN_HOPS6))
		*number = s->min_ttl;
	else if (name == (four ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER))
		*number = s->pmtu_discover;
	else if (name == (four ? IP_MTU : IPV6_MTU))
		*number = path_mtu_now(tcp, s);
	else if (!four && name == IPV6_V6ONLY)
		*number = (s->flags & TCP_V6ONLY) != 0;
	else
		return -ENOPROTOOPT;
	return *number < 0 ? *number : 0;
}

// --- all of them ---

int tcp_setopt(struct tcp *tcp, struct tcp_socket *s, int level, int name, const uint8_t *value, uint32_t length)
{
	int number, at = option_switch_at(switches, SWITCHES, level, name);
	if (level == IPPROTO_IPV6 && s->family != AF_INET6)
		return -ENOPROTOOPT;
	if (level == SOL_SOCKET && at < 0)
		return set_socket(tcp, s, name, value, length);
	if (level == IPPROTO_TCP && at < 0)
		return set_tcp(tcp, s, name, value, length);
	if (level != SOL_SOCKET && level != IPPROTO_TCP && level != IPPROTO_IP && level != IPPROTO_IPV6)
		return -ENOPROTOOPT;
	if (!take_int(value, length, &number)) {
		if (level != IPPROTO_IP || length == 0) // ip(7): a byte will do
			return -EINVAL;
		number = value[0];
	}
	if (at < 0)
		return set_ip(s, level == IPPROTO_IP, name, number);
	switch_set(tcp, s, at, number != 0);
	return 0;
}

static int give(uint8_t *value, uint32_t *length, const void *from, uint32_t bytes)
{
	if (*length > bytes)
		*length = bytes;
	memcpy(value, from, *length);
	return 0;
}

static int get_device(const struct tcp *tcp, const struct tcp_socket *s, uint8_t *value, uint32_t *length)
{
	const struct interface_entry *interface = view_interface(tcp->host->tables, s->interface);
	if (interface == NULL || !(s->engine & TCP_PINNED)) {
		*length = 0;
		return 0;
	}
	return give(value, length, interface->name, (uint32_t)strnlen(interface->name, INTERFACE_NAME_SIZE - 1) + 1);
}

static int get_number(struct tcp *tcp, struct tcp_socket *s, int level, int name, int *number)
{
	int at = option_switch_at(switches, SWITCHES, level, name);
	if (level == IPPROTO_IPV6 && s->family != AF_INET6)
		return -ENOPROTOOPT;
	if (at >= 0) {
		*number = ((switches[at].other ? s->engine : s->flags) & switches[at].bit) != 0;
		return 0;
	}
	if (level == SOL_SOCKET)
		return get_socket(s, name, number);
	if (level == IPPROTO_TCP)
		return get_tcp(tcp, s, name, number);
	if (level == IPPROTO_IP || level == IPPROTO_IPV6)
		return get_ip(tcp, s, level == IPPROTO_IP, name, number);
	return -ENOPROTOOPT;
}

int tcp_getopt(struct tcp *tcp, struct tcp_socket *s, int level, int name, uint8_t *value, uint32_t *length)
{
	if (level == SOL_SOCKET && name == SO_BINDTODEVICE)
		return get_device(tcp, s, value, length);
	if (level == SOL_SOCKET && name == SO_LINGER) {
		struct linger linger = {.l_onoff = (s->flags & TCP_LINGER_SET) != 0, .l_linger = s->linger_s};
		return give(value, length, &linger, sizeof(linger));
	}
	if (level == IPPROTO_TCP && name == TCP_INFO) {
		struct tcp_info_record info;
		tcp_info_fill(tcp, s, &info);
		return give(value, length, &info, sizeof(info));
	}
	if (level == IPPROTO_TCP && name == TCP_CONGESTION) {
		char known[CONGESTION_NAME] = {0};
		const char *algorithm = tcp_congestion_of(s)->name;
		memcpy(known, algorithm, strnlen(algorithm, sizeof(known) - 1));
		return give(value, length, known, sizeof(known));
	}
	int number = 0;
	int error = get_number(tcp, s, level, name, &number);
	if (error < 0)
		return error;
	return give(value, length, &number, sizeof(number));
}
