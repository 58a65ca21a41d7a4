// libFuzzer target: what the C client of the socket layer reads from others.
//
// The first byte of the input chooses: names of fds, maps, DNS messages, resolv.conf, replies of a forwarder,
// records on a datagram socket's fd, control messages of an app.  Replies and records go through real sockets; all
// buffers that are read from are exactly as long as the input.
//
//   clang -fsanitize=fuzzer,address,undefined -Irsock/c tests/fuzz/fuzz_rsock_client.c rsock/c/*.c (but link.c)
#define _GNU_SOURCE
#include "link.c"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum what { NAME, MAP, DNS, RESOLV_CONF, REPLY, RECORD, CONTROL, KINDS };

static void check(bool sound)
{
	if (!sound)
		abort();
}

static void *exactly(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size > 0 ? size : 1);
	check(copy != NULL);
	if (size > 0)
		memcpy(copy, data, size);
	return copy;
}

static char *as_text(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	check(text != NULL);
	memcpy(text, data, size);
	text[size] = '\0';
	return text;
}

static void names(const uint8_t *data, size_t size)
{
	struct name_parts parts;
	char *copy = exactly(data, size);
	if (name_parse(copy, size, &parts))
		check((parts.vr[0] == '\0' || name_valid(parts.vr)) && parts.slot <= 0xffffff && parts.kind >= 'a' &&
			parts.kind <= 'z');
	free(copy);
}

static void maps(const uint8_t *data, size_t size)
{
	struct map map;
	const char *wrong = NULL;
	char *text = as_text(data, size);
	const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {.s_addr = 0x0100000a}};
	if (map_parse(text, &map, &wrong) == 0)
		(void)map_find(&map, (const struct sockaddr *)(const void *)&address, sizeof(address));
	else
		check(wrong >= text && wrong <= text + size);
	free(text);
}

static void dns(const uint8_t *data, size_t size)
{
	static const uint16_t types[] = {DNS_A, DNS_AAAA, DNS_PTR};
	static const char name[] = "www.example.net";
	struct dns_answer answer;
	uint8_t query[DNS_QUERY];
	uint8_t *copy = exactly(data, size);
	for (int i = 0; i < 3; i++) {
		int length = dns_query(0, name, types[i], DNS_IN, true, query);
		check(length > 0);
		(void)dns_matches(query, (size_t)length, copy, size);
		if (dns_parse(copy, size, name, types[i], &answer) == 0)
			check(
				answer.count <= DNS_VALUES && strlen(answer.canonical) < DNS_NAME && strlen(answer.target) < DNS_NAME);
	}
	free(copy);
	char *text = as_text(data, size);
	int length = dns_query(0, text, DNS_A, DNS_IN, true, query);
	check(length < 0 || length <= DNS_QUERY);
	free(text);
}

static void resolv_conf(const uint8_t *data, size_t size)
{
	struct name_servers servers;
	char candidate[DNS_NAME];
	char *text = as_text(data, size);
	name_servers_parse(text, &servers);
	check(servers.count <= NAME_SERVERS && servers.search_count <= SEARCH_DOMAINS);
	int tried = 0;
	while (resolver_candidate("a.b", &servers, tried, candidate))
		check(tried++ <= SEARCH_DOMAINS && strlen(candidate) < DNS_NAME);
	free(text);
}

static void pair(int ends[2])
{
	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends) == 0);
}

static void replies(const uint8_t *data, size_t size)
{
	const struct question question = {.header = {.request = 1}};
	struct answer answer = {.fd = -1};
	int ends[2], error;
	pair(ends);
	if (send(ends[1], data, size, 0) == (ssize_t)size) {
		int got = receive(ends[0], &question, &answer, &error);
		check(got <= 1 && answer.fd < 0 && answer.length <= sizeof(answer.body));
	}
	(void)close(ends[0]);
	(void)close(ends[1]);
}

static void records(const uint8_t *data, size_t size)
{
	struct handle handle = {
		.file = 1, .flags = HANDLE_OURS | HANDLE_STATE_KNOWN | HANDLE_WANTS_KNOWN, .type = SOCK_DGRAM};
	int ends[2];
	if (size < 2)
		return;
	handle.domain = data[0] & 1 ? AF_INET6 : AF_INET;
	handle.wants = 0x3ff;
	size_t room = data[1];
	uint8_t *control = exactly(data, 0);
	control = realloc(control, room + 1);
	uint8_t *payload = malloc(16);
	check(control != NULL && payload != NULL);
	struct sockaddr_storage sender;
	struct iovec part = {.iov_base = payload, .iov_len = 16};
	struct msghdr message = {
		.msg_name = &sender,
		.msg_namelen = data[0] & 2 ? 3 : sizeof(sender),
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = room,
	};
	pair(ends);
	if (send(ends[1], data + 2, size - 2, 0) == (ssize_t)size - 2) {
		ssize_t got = datagram_receive(ends[0], &handle, &message,
			data[0] & 4       ? MSG_PEEK
				: data[0] & 8 ? MSG_ERRQUEUE
							  : 0);
		check(got <= 16 && message.msg_controllen <= room);
		message.msg_controllen = room;
		(void)datagram_receive(ends[0], &handle, &message, MSG_ERRQUEUE);
	}
	(void)close(ends[0]);
	(void)close(ends[1]);
	free(control);
	free(payload);
}

static void controls(const uint8_t *data, size_t size)
{
	uint8_t *copy = exactly(data, size);
	struct rsock_datagram header = {.family = size & 1 ? 4 : 6};
	const struct msghdr message = {.msg_control = copy, .msg_controllen = size};
	(void)ancillary_to_send(&message, &header);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const targets[KINDS])(const uint8_t *, size_t) = {
		[NAME] = names, [MAP] = maps, [DNS] = dns, [RESOLV_CONF] = resolv_conf,
		[REPLY] = replies, [RECORD] = records, [CONTROL] = controls,
	};
	if (size > 0)
		targets[data[0] % KINDS](data + 1, size - 1);
	return 0;
}
