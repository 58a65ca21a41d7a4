// Socket options: most are the forwarder's, some the fd's own.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <string.h>
#include "sys.h"

// Of the kernel's headers; the C library has only those of its own size of time_t.
enum { RCVTIMEO_OLD = 20, SNDTIMEO_OLD = 21, RCVTIMEO_NEW = 66, SNDTIMEO_NEW = 67 };

static bool native(const struct handle *handle, int level, int name)
{
	if (level != SOL_SOCKET)
		return false;
	switch (name) {
	case RCVTIMEO_OLD:
	case SNDTIMEO_OLD:
	case RCVTIMEO_NEW:
	case SNDTIMEO_NEW:
	case SO_RCVLOWAT:
	case SO_COOKIE:
		return true;
	case SO_SNDBUF:
		return handle->type != SOCK_STREAM;
	default:
		return false;
	}
}

// Past a limit that a router's sockets do not have; CAP_NET_ADMIN is root's here.
static int without_force(int level, int name)
{
	bool forces = level == SOL_SOCKET && (name == SO_RCVBUFFORCE || name == SO_SNDBUFFORCE);
	if (!forces)
		return name;
	return geteuid() != 0 ? -EPERM : name == SO_RCVBUFFORCE ? SO_RCVBUF : SO_SNDBUF;
}

int option_set(int fd, struct handle *handle, int level, int name, const void *value, socklen_t length)
{
	struct {
		struct rsock_option option;
		uint8_t value[CLIENT_OPTION];
	} __attribute__((packed)) body;
	name = without_force(level, name);
	if (name < 0)
		return name;
	if (native(handle, level, name))
		return sys_setsockopt(fd, level, name, value, length);
	if (length > sizeof(body.value) || (value == NULL && length > 0))
		return value == NULL ? -EFAULT : -EINVAL;
	body.option = (struct rsock_option){.level = (uint32_t)level, .name = (uint32_t)name, .length = length};
	if (length > 0)
		memcpy(body.value, value, length);
	int error = handle_call(handle, RSOCK_OP_SETOPT, &body, (uint32_t)sizeof(body.option) + length, NULL);
	uint16_t want = error == 0 ? ancillary_want(level, name) : 0;
	if (want != 0) {
		bool on = false;
		for (socklen_t i = 0; i < length; i++)
			on |= body.value[i] != 0;
		handle->wants = (uint16_t)(on ? handle->wants | want : handle->wants & ~want);
		handle_put(fd, handle);
	}
	return error;
}

static int give_number(int number, void *value, socklen_t *length)
{
	memcpy(value, &number, *length < sizeof(number) ? *length : sizeof(number));
	if (*length > sizeof(number))
		*length = sizeof(number);
	return 0;
}

static int ask(const struct handle *handle, int level, int name, void *value, socklen_t *length)
{
	struct answer answer;
	struct {
		struct rsock_option option;
		uint8_t question[CLIENT_OPTION];
	} __attribute__((packed)) body;
	socklen_t room = *length < sizeof(body.question) ? *length : (socklen_t)sizeof(body.question);
	body.option = (struct rsock_option){.level = (uint32_t)level, .name = (uint32_t)name, .length = room};
	// Some options are questions, as MCAST_MSFILTER: what stands in the buffer goes along.
	memcpy(body.question, value, room);
	int error = handle_call(handle, RSOCK_OP_GETOPT, &body, (uint32_t)sizeof(body.option) + room, &answer);
	if (error < 0)
		return error;
	if (answer.length < sizeof(body.option))
		return -EPROTO;
	memcpy(&body.option, answer.body, sizeof(body.option));
	uint32_t got = answer.length - (uint32_t)sizeof(body.option);
	if (body.option.length > got || body.option.length > room)
		return -EPROTO;
	memcpy(value, answer.body + sizeof(body.option), body.option.length);
	*length = body.option.length;
	return 0;
}

int option_get(int fd, const struct handle *handle, int level, int name, void *value, socklen_t *length)
{
	if (value == NULL || length == NULL)
		return -EFAULT;
	if (*length > INT32_MAX)
		return -EINVAL;
	if (native(handle, level, name))
		return sys_getsockopt(fd, level, name, value, length);
	if (level == SOL_SOCKET) {
		switch (name) {
		case SO_DOMAIN:
			return give_number(handle->domain, value, length);
		case SO_TYPE:
			return give_number(handle->type, value, length);
		case SO_PROTOCOL:
			return give_number(handle->protocol, value, length);
		case SO_ACCEPTCONN:
			return give_number(sys_int_option(fd, SOL_SOCKET, SO_ACCEPTCONN, 0), value, length);
		default:
			break;
		}
	}
	if (level == SOL_RSOCK && name == RSOCK_VR) {
		const char *vr = link_router_name(handle->router);
		socklen_t size = (socklen_t)strlen(vr) + 1;
		if (*length < size)
			return -EINVAL;
		memcpy(value, vr, size);
		*length = size;
		return 0;
	}
	int error = ask(handle, level, name, value, length);
	// The forwarder may know the connection no more; the fd does.
	bool over = error == -ENOTCONN || error == -ECONNRESET || error == -ENETDOWN;
	if (over && handle->type == SOCK_STREAM && level == SOL_SOCKET && name == SO_ERROR) {
		if (error == -ECONNRESET)
			return give_number(ECONNRESET, value, length);
		return sys_getsockopt(fd, level, name, value, length);
	}
	return error;
}
