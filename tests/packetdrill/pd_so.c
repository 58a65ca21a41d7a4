// A host stack behind packetdrill's interface: its world (segments, packets, operations) and the
// network device, which is a tun device with segmentation offload: super-packets pass whole,
// checksums are complete.
//
// Environment: ANABRANCH_PD_KNOBS names the file of settings (pd_knobs.c), ANABRANCH_PD_TRACE one
// that gets a line for each packet.  Flags are NAME=VALUE separated by commas: local4, local6
// (our addresses), mtu, gro (segment size of merged packets that come in).
// Not supported: pipes and splice; sockets other than TCP.
#include "pd_so.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <unistd.h>
#include "base/bytes.h"
#include "base/cksum.h"
#include "base/crc32.h"
#include "../wire/offload.h"

enum { IP4_HEADER_LENGTH = 20, IP6_HEADER_LENGTH = 40, ETHERNET_LENGTH = 14 };

// packetdrill takes one instance in a process; close() and getsockopt() below have no other way to it.
static struct pd_world *the_world;

void pd_give_up(const char *format, ...)
{
	va_list more;
	va_start(more, format);
	fputs("facade: ", stderr);
	vfprintf(stderr, format, more);
	fputc('\n', stderr);
	va_end(more);
	fflush(NULL);
	_exit(EXIT_FAILURE);
}

// --- operations of the stack ---

static void queue_packet(struct pd_world *w, const uint8_t *data, uint32_t length)
{
	struct pd_packet *out = malloc(sizeof(*out) + length);
	if (out == NULL)
		pd_give_up("no memory");
	*out = (struct pd_packet){.at = w->paced ? pd_departure(w, data, length) : w->now, .length = length};
	memcpy(out->data, data, length);
	pd_trace(w, '>', data, length);
	*(w->last != NULL ? &w->last->next : &w->first) = out;
	w->last = out;
}

static void take_frame(void *user, const uint8_t *frame, uint32_t length)
{
	queue_packet(user, frame + ETHERNET_LENGTH, length - ETHERNET_LENGTH);
}

// The wire's own splitter wants a link header before it.
static bool split_packet(struct pd_world *w, struct packet *packet)
{
	static uint8_t scratch[SUPER_ROOM + ETHERNET_LENGTH];
	uint16_t type = packet_data(packet)[0] >> 4 == 4 ? 0x0800 : 0x86dd;
	if (!packet_push(packet, ETHERNET_LENGTH))
		return false;
	memset(packet_data(packet), 0, ETHERNET_LENGTH);
	store16(packet_data(packet) + 12, type);
	return offload_split(&packet->vnet, packet_data(packet), packet->length, scratch, take_frame, w) > 0;
}

static void finish_checksum(struct packet *packet)
{
	uint32_t start = packet->vnet.csum_start, field = start + packet->vnet.csum_offset;
	if ((packet->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0)
		return;
	if (field + 2 > packet->length)
		pd_give_up("a checksum field lies outside its packet");
	uint8_t *data = packet_data(packet);
	uint16_t checksum = cksum_finish(cksum_add(0, data + start, packet->length - start));
	memcpy(data + field, &checksum, sizeof(checksum));
}

static enum drop_reason output(void *user, uint16_t interface, uint8_t family, struct packet *packet)
{
	struct pd_world *w = user;
	(void)interface;
	(void)family;
	if (w->congested)
		return DROP_TX_FULL;
	if (w->split && packet->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		if (!split_packet(w, packet))
			pd_give_up("a super-packet cannot be split");
	} else {
		finish_checksum(packet);
		queue_packet(w, packet_data(packet), packet->length);
	}
	packet_put(w->pool, packet);
	return DROP_NONE;
}

static bool source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *address, uint16_t *egress)
{
	const struct pd_world *w = user;
	(void)destination;
	(void)interface;
	memcpy(address, w->local[family == FAMILY_IPV6], 16);
	*egress = PD_INTERFACE;
	return true;
}

static uint32_t path_mtu(void *user, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	const struct pd_world *w = user;
	(void)family;
	(void)destination;
	(void)interface;
	return w->mtu;
}

// The link is a place of scripts: no multicast listener reports there.
static bool interface_up(void *user, uint16_t interface)
{
	(void)user;
	(void)interface;
	return false;
}

static void unreachable(void *user, struct packet *packet, uint8_t code)
{
	(void)user;
	(void)packet;
	(void)code;
}

static bool upcall(void *user, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	(void)user;
	(void)slot;
	(void)header;
	(void)payload;
	(void)length;
	return true;
}

static void pending_error(void *user, uint32_t slot, int error)
{
	(void)user;
	(void)slot;
	(void)error;
}

static struct packet *pool_get(void *user, uint32_t room)
{
	return packet_get(((struct pd_world *)user)->pool, room);
}

static void pool_put(void *user, struct packet *packet)
{
	packet_put(((struct pd_world *)user)->pool, packet);
}

// --- the network device ---

// A packet larger than a segment arrives as if a driver had merged it.
static void mark_merged(const struct pd_world *w, struct packet *packet)
{
	const uint8_t *ip = packet_data(packet);
	bool four = ip[0] >> 4 == 4;
	uint32_t headers = four ? (ip[0] & 0x0fu) * 4 : IP6_HEADER_LENGTH;
	if (w->gro_size == 0 || ip[four ? 9 : 6] != IPPROTO_TCP || headers + 20 > packet->length)
		return;
	headers += (uint32_t)(ip[headers + 12] >> 4) * 4;
	if (packet->length <= headers + w->gro_size)
		return;
	packet->vnet.gso_type = four ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	packet->vnet.gso_size = (uint16_t)w->gro_size;
	packet->vnet.hdr_len = (uint16_t)headers;
}

int pd_netdev_send(void *user, const void *buffer, size_t count)
{
	struct pd_world *w = user;
	pd_enter(w);
	struct packet *packet = count >= IP4_HEADER_LENGTH ? packet_get(w->pool, (uint32_t)count) : NULL;
	if (packet == NULL) {
		pd_leave(w);
		return -1;
	}
	packet->offset = PACKET_HEADROOM;
	packet->length = (uint32_t)count;
	packet->ingress = PD_INTERFACE;
	packet->l3 = 0;
	memcpy(packet_data(packet), buffer, count);
	mark_merged(w, packet);
	pd_trace(w, '<', buffer, (uint32_t)count);
	if (host_input(w->host, packet, w->now) != DROP_NONE)
		packet_put(w->pool, packet);
	pd_leave(w);
	return 0;
}

int pd_netdev_receive(void *user, void *buffer, size_t *count, long long *time_us)
{
	struct pd_world *w = user;
	pd_enter(w);
	uint64_t limit = w->now + PD_PATIENCE;
	while (w->first == NULL)
		if (w->now > limit || !pd_step(w))
			pd_give_up("no packet is sent within %llu s", PD_PATIENCE / PD_S);
	pd_advance(w, w->first->at);
	struct pd_packet *out = w->first;
	w->first = out->next;
	if (w->first == NULL)
		w->last = NULL;
	if (out->length < *count)
		*count = out->length;
	memcpy(buffer, out->data, *count);
	*time_us = (long long)(out->at / PD_US);
	free(out);
	pd_leave(w);
	return 0;
}

// --- the world ---

void pd_tell_listeners(struct pd_world *w)
{
	char path[4096];
	if (w->knobs_path == NULL || snprintf(path, sizeof(path), "%s.sockets", w->knobs_path) >= (int)sizeof(path))
		return;
	FILE *file = fopen(path, "w");
	if (file == NULL)
		return;
	for (int i = 0; i < PD_HANDLES; i++) {
		const struct tcp_socket *s = w->handles[i].kind == PD_STREAM ? host_stream(w->host, w->handles[i].slot) : NULL;
		if (s != NULL && s->state == TCP_STATE_LISTEN)
			fprintf(file, "%4d: 00000000:%04X 00000000:0000 0A \n", i, s->local_port);
	}
	fclose(file);
}

static void read_flag(struct pd_world *w, const char *name, const char *value)
{
	bool good = true;
	if (strcmp(name, "local4") == 0)
		good = inet_pton(AF_INET, value, w->local[0]) == 1;
	else if (strcmp(name, "local6") == 0)
		good = inet_pton(AF_INET6, value, w->local[1]) == 1;
	else if (strcmp(name, "mtu") == 0)
		w->mtu = w->device_mtu = (uint32_t)strtoul(value, NULL, 10);
	else if (strcmp(name, "gro") == 0)
		w->gro_size = (uint32_t)strtoul(value, NULL, 10);
	else
		good = false;
	if (!good)
		pd_give_up("flag %s=%s is not understood", name, value);
}

static void read_flags(struct pd_world *w, const char *flags)
{
	char *copy = strdup(flags != NULL ? flags : ""), *rest = copy;
	for (char *item; (item = strsep(&rest, ",")) != NULL;) {
		char *value = strchr(item, '=');
		if (*item == '\0')
			continue;
		if (value == NULL)
			pd_give_up("flag %s has no value", item);
		*value++ = '\0';
		read_flag(w, item, value);
	}
	free(copy);
}

static void *map(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		pd_give_up("no memory");
	return memory;
}

static void publish_tables(struct pd_world *w)
{
	struct tables_segment *segment = map(sizeof(*segment) + 4096);
	struct tables_root *root = (void *)(segment + 1);
	struct interface_entry *interface = (void *)(root + 1);
	struct address_entry *addresses = (void *)(interface + 1);
	*interface = (struct interface_entry){.index = PD_INTERFACE, .port = 1, .kind = INTERFACE_ETHERNET,
		.flags = INTERFACE_ADMIN_UP, .mtu = w->mtu, .name = "tun0"};
	addresses[0] = (struct address_entry){.family = FAMILY_IPV4, .length = 16, .interface = PD_INTERFACE};
	addresses[1] = (struct address_entry){.family = FAMILY_IPV6, .length = 64, .interface = PD_INTERFACE};
	memcpy(addresses[0].address, w->local[0], 16);
	memcpy(addresses[1].address, w->local[1], 16);
	*root = (struct tables_root){.epoch = 1, .interface_count = 1, .address_count = 2};
	root->interfaces = (uint64_t)((uint8_t *)interface - (uint8_t *)segment);
	root->addresses = (uint64_t)((uint8_t *)addresses - (uint8_t *)segment);
	root->rules = root->addresses + 2 * sizeof(*addresses);
	root->checksum = crc32_update(crc32_update(0, root, sizeof(*root)), interface, sizeof(*interface) + 2 * sizeof(*addresses));
	segment->root = (uint64_t)((uint8_t *)root - (uint8_t *)segment);
	w->tables_segment = (void *)segment;
	view_open(&w->tables, segment, sizeof(*segment) + 4096);
	if (!view_refresh(&w->tables))
		pd_give_up("the tables are refused");
}

struct pd_world *pd_world_new(const char *flags)
{
	struct pd_world *w = calloc(1, sizeof(*w));
	if (w == NULL)
		pd_give_up("no memory");
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->guest_moved, NULL);
	pthread_cond_init(&w->host_moved, NULL);
	w->main = pthread_self();
	w->now = 1000 * PD_S;
	w->mtu = w->device_mtu = 1500;
	w->knobs_path = getenv("ANABRANCH_PD_KNOBS");
	const char *path = getenv("ANABRANCH_PD_TRACE");
	w->trace = path != NULL ? pd_trace_open(path) : NULL;
	read_flags(w, flags);
	publish_tables(w);
	w->state = map(sizeof(*w->state));
	w->state->random_key[0] = 0x0123456789abcdef; // any, but the same in each run
	w->state->random_key[1] = 0xfedcba9876543210;
	w->state->attaches = 1;
	w->pool = packet_pool_new(4096, 512);
	const struct host_ops ops = {
		.output = output, .source = source, .path_mtu = path_mtu, .unreachable = unreachable, .upcall = upcall,
		.error = pending_error, .stream = pd_stream_event, .interface_up = interface_up,
		.packet_get = pool_get, .packet_put = pool_put, .user = w,
	};
	w->host = host_new(w->state, &w->tables, &ops);
	if (w->pool == NULL || w->host == NULL)
		pd_give_up("no memory");
	host_attach(w->host);
	return w;
}

void pd_world_free(struct pd_world *w)
{
	while (w->first != NULL) {
		struct pd_packet *out = w->first;
		w->first = out->next;
		free(out);
	}
	host_free(w->host);
	packet_pool_free(w->pool);
	view_close(&w->tables);
	munmap(w->tables_segment, sizeof(struct tables_segment) + 4096);
	munmap(w->state, sizeof(*w->state));
	pd_trace_close(w->trace);
	free(w);
}

// --- what packetdrill calls ---

static void interface_free(void *user)
{
	the_world = NULL;
	pd_world_free(user);
}

static int no_pipe(void *user, int fds[2])
{
	(void)user;
	(void)fds;
	errno = ENOSYS;
	return -1;
}

static int no_splice(void *user, int in, loff_t *in_offset, int out, loff_t *out_offset, size_t length, unsigned int flags)
{
	(void)user;
	(void)in;
	(void)in_offset;
	(void)out;
	(void)out_offset;
	(void)length;
	(void)flags;
	errno = ENOSYS;
	return -1;
}

void packetdrill_interface_init(const char *flags, struct packetdrill_interface *interface)
{
	// packetdrill has locked all pages to come, and ours are many and never touched.
	munlockall();
	unsetenv("LD_PRELOAD"); // commands of the script have no use for it
	the_world = pd_world_new(flags);
	*interface = (struct packetdrill_interface){
		.userdata = the_world, .free = interface_free, .socket = pd_socket, .bind = pd_bind, .listen = pd_listen,
		.accept = pd_accept, .connect = pd_connect, .read = pd_read, .readv = pd_readv, .recv = pd_recv,
		.recvfrom = pd_recvfrom, .recvmsg = pd_recvmsg, .write = pd_write, .writev = pd_writev, .send = pd_send,
		.sendto = pd_sendto, .sendmsg = pd_sendmsg, .fcntl = pd_fcntl, .ioctl = pd_ioctl, .close = pd_close,
		.shutdown = pd_shutdown, .getsockopt = pd_getsockopt, .setsockopt = pd_setsockopt, .poll = pd_poll,
		.netdev_send = pd_netdev_send, .netdev_receive = pd_netdev_receive, .usleep = pd_usleep,
		.gettimeofday = pd_gettimeofday, .epoll_create = pd_epoll_create, .epoll_ctl = pd_epoll_ctl,
		.epoll_wait = pd_epoll_wait, .pipe = no_pipe, .splice = no_splice,
	};
}

// --- calls of packetdrill that go round the interface; LD_PRELOAD brings them here ---

// At the end of a script it closes what is open with the C library's close, and it reads
// TCP_INFO with the C library's getsockopt.
int close(int fd)
{
	if (fd >= PD_FIRST && the_world != NULL)
		return pd_close(the_world, fd);
	return (int)syscall(SYS_close, fd);
}

int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict length)
{
	if (fd >= PD_FIRST && the_world != NULL)
		return pd_getsockopt(the_world, fd, level, name, value, length);
	return (int)syscall(SYS_getsockopt, fd, level, name, value, length);
}

// Real time means nothing here: no page needs locking, no priority is needed, and no tick of the
// kernel's clock is waited for.
int mlockall(int flags)
{
	(void)flags;
	return 0;
}

int sched_setscheduler(pid_t pid, int policy, const struct sched_param *param)
{
	(void)pid;
	(void)policy;
	(void)param;
	return 0;
}

clock_t times(struct tms *buffer)
{
	static clock_t ticks;
	(void)buffer;
	return ++ticks;
}
