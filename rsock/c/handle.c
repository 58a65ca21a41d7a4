// Which socket an fd is.
//
// What is known of an fd is cached under its number, and believed while SO_COOKIE says that the number still means
// the same socket; else the fd is asked: the abstract names at its two ends tell router, slot and nonce (name.c), and
// the forwarder the rest.  Readers and writers never wait for each other: a writer that finds another at work, or an
// interrupted one, leaves the entry alone, and a reader that finds one half written asks the fd.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "sys.h"

enum { PAGE_ENTRIES = 1024, PAGES = 1024, WORDS = sizeof(struct handle) / sizeof(uint64_t) };
_Static_assert(sizeof(struct handle) == 56, "a handle and its sequence fill one cache line");

struct entry {
	uint64_t sequence;           // odd: being written
	uint64_t words[WORDS];
};

static struct entry *pages[PAGES];
bool handle_any_datagram;

static struct entry *entry_at(int fd, bool make)
{
	size_t page = (size_t)fd / PAGE_ENTRIES;
	if (fd < 0 || page >= PAGES)
		return NULL;
	struct entry *found = __atomic_load_n(&pages[page], __ATOMIC_ACQUIRE);
	if (found == NULL && make) {
		struct entry *none = NULL;
		void *made =
			mmap(NULL, PAGE_ENTRIES * sizeof(struct entry), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (made == MAP_FAILED)
			return NULL;
		if (__atomic_compare_exchange_n(&pages[page], &none, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
			found = made;
		} else {
			(void)munmap(made, PAGE_ENTRIES * sizeof(struct entry));
			found = none;
		}
	}
	return found == NULL ? NULL : found + (size_t)fd % PAGE_ENTRIES;
}

void handle_put(int fd, const struct handle *handle)
{
	uint64_t words[WORDS];
	struct entry *entry = entry_at(fd, true);
	if (entry == NULL)
		return;
	uint64_t sequence = __atomic_load_n(&entry->sequence, __ATOMIC_RELAXED);
	if ((sequence & 1) ||
		!__atomic_compare_exchange_n(
			&entry->sequence, &sequence, sequence + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return;
	memcpy(words, handle, sizeof(words));
	__atomic_thread_fence(__ATOMIC_RELEASE);
	for (int i = 0; i < WORDS; i++)
		__atomic_store_n(&entry->words[i], words[i], __ATOMIC_RELAXED);
	__atomic_store_n(&entry->sequence, sequence + 2, __ATOMIC_RELEASE);
}

static bool cached(int fd, uint64_t file, struct handle *handle)
{
	uint64_t words[WORDS];
	const struct entry *entry = entry_at(fd, false);
	if (entry == NULL)
		return false;
	uint64_t sequence = __atomic_load_n(&entry->sequence, __ATOMIC_ACQUIRE);
	for (int i = 0; i < WORDS; i++)
		words[i] = __atomic_load_n(&entry->words[i], __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if ((sequence & 1) || __atomic_load_n(&entry->sequence, __ATOMIC_RELAXED) != sequence)
		return false;
	memcpy(handle, words, sizeof(words));
	return handle->file == file;
}

// --- asking the fd ---

static bool name_of(int fd, bool remote, struct name_parts *parts)
{
	struct sockaddr_un name;
	socklen_t length = sizeof(name);
	int error = remote ? sys_getpeername(fd, &name, &length) : sys_getsockname(fd, &name, &length);
	const socklen_t head = offsetof(struct sockaddr_un, sun_path);
	if (error < 0 || length <= head || length > sizeof(name) || name.sun_family != AF_UNIX)
		return false;
	return name_parse(name.sun_path, length - head, parts);
}

// Router, slot and nonce from the names of both ends.
static bool discover(int fd, struct handle *handle)
{
	struct name_parts here, there;
	bool near = name_of(fd, false, &here);
	bool far = name_of(fd, true, &there);
	if (!near && !far)
		return false;
	// An accepted fd has its listener's name; what it is stands in the other one.
	const struct name_parts *told = far && (there.accepted || !near) ? &there : &here;
	const char *vr = told->vr[0] != '\0' ? told->vr : near ? here.vr : "";
	int router = link_router(vr);
	if (router < 0)
		return false;
	handle->router = (uint16_t)router;
	handle->slot = told->slot;
	handle->key = told->nonce;
	handle->domain = told->family;
	handle->flags = HANDLE_OURS;
	if (told->kind == 't') {
		struct sockaddr_un name;
		socklen_t length = sizeof(name);
		handle->type = SOCK_STREAM;
		handle->protocol = IPPROTO_TCP;
		handle->flags |= HANDLE_STATE_KNOWN | (sys_getpeername(fd, &name, &length) == 0 ? HANDLE_JOINED : 0) |
			(sys_int_option(fd, SOL_SOCKET, SO_ACCEPTCONN, 0) ? HANDLE_LISTENING : 0);
	}
	return true;
}

// What a datagram socket's fd does not tell.
static int ask_state(struct handle *handle)
{
	struct {
		struct rsock_resolved resolved;
		struct rsock_name name;
	} __attribute__((packed)) told;
	struct answer answer;
	int error = handle_call(handle, RSOCK_OP_RESOLVE, NULL, 0, &answer);
	if (error < 0)
		return error;
	if (answer.length < sizeof(told))
		return -EPROTO;
	memcpy(&told, answer.body, sizeof(told));
	handle->key = told.resolved.cookie;
	handle->type = (uint8_t)told.resolved.type;
	handle->protocol = told.resolved.protocol;
	handle->domain = (uint8_t)told.resolved.family;
	handle->flags |= HANDLE_STATE_KNOWN | (told.resolved.state != RSOCK_STATE_NEW ? HANDLE_BOUND : 0);
	if (told.resolved.state == RSOCK_STATE_CONNECTED) {
		handle->flags |= HANDLE_CONNECTED;
		handle->remote_port = told.name.remote_port;
		handle->remote_interface = told.name.remote_interface;
		memcpy(handle->remote, told.name.remote_address, sizeof(handle->remote));
	}
	return 0;
}

int handle_peek(int fd, struct handle *handle)
{
	uint64_t file = sys_cookie(fd);
	if (file == 0)
		return 0;
	if (cached(fd, file, handle))
		return handle->flags & HANDLE_OURS ? 1 : 0;
	memset(handle, 0, sizeof(*handle));
	handle->file = file;
	if (sys_int_option(fd, SOL_SOCKET, SO_DOMAIN, 0) == AF_UNIX) {
		if (sys_int_option(fd, SOL_SOCKET, SO_TYPE, 0) == SOCK_SEQPACKET)
			handle->type = SOCK_DGRAM;
		if (discover(fd, handle) && handle->type != SOCK_STREAM)
			handle_any_datagram = true;
	}
	handle_put(fd, handle);
	return handle->flags & HANDLE_OURS ? 1 : 0;
}

int handle_get(int fd, struct handle *handle)
{
	if (!handle_peek(fd, handle))
		return 0;
	if (!(handle->flags & HANDLE_STATE_KNOWN) && ask_state(handle) == 0)
		handle_put(fd, handle);
	return 1;
}

int handle_call(const struct handle *handle, int op, const void *body, uint32_t length, struct answer *answer)
{
	int error = link_call(handle->router, op, handle->slot, handle->key, body, length, answer);
	// The router was started anew, or has given the socket up: it knows nothing of us.
	return error == -EBADF ? handle->type == SOCK_STREAM && (handle->flags & HANDLE_JOINED) ? -ENOTCONN : -ENETDOWN
						   : error;
}
