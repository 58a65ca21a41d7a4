// Opening a port: the driver that the spec names, wrapped where it asks for faults.
#include "port/port.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 // headers older than Linux 6.2
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

void port_init(struct port *port, const struct port_ops *ops, const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state)
{
	port->ops = ops;
	port->spec = *spec;
	port->spec.plain = ops->plain;
	port->state = state;
	port->fd = -1;
	port->more_first = port->more_count = 0;
	port->fd_count = fd_count;
	for (int i = 0; i < PORT_FDS; i++)
		port->fds[i] = i < fd_count ? fds[i] : -1;
}

void port_close_fds(struct port *port)
{
	for (int i = 0; i < port->fd_count; i++)
		close(port->fds[i]);
}

void port_vnet_check(struct packet *packet)
{
	struct virtio_net_hdr *vnet = &packet->vnet;
	uint32_t checksum_end = (uint32_t)vnet->csum_start + vnet->csum_offset + 2u;
	bool partial = (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
	uint8_t gso = vnet->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	bool known = gso == VIRTIO_NET_HDR_GSO_NONE || gso == VIRTIO_NET_HDR_GSO_TCPV4 ||
		gso == VIRTIO_NET_HDR_GSO_TCPV6 || gso == VIRTIO_NET_HDR_GSO_UDP_L4 || gso == VIRTIO_NET_HDR_GSO_UDP;
	if (!known || (partial && checksum_end > packet->length) ||
	    (gso != VIRTIO_NET_HDR_GSO_NONE && vnet->gso_size == 0))
		memset(vnet, 0, sizeof(*vnet));
	else if (vnet->hdr_len > packet->length)
		vnet->hdr_len = (uint16_t)packet->length;
}

static bool port_wants_faults(const struct port_spec *spec)
{
	for (int i = 0; i < 4; i++) {
		if (spec->fault_permille[i] != 0)
			return true;
	}
	return false;
}

int port_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out)
{
	struct port *port;
	int error;

	if (spec->port == 0 || spec->port >= MAX_PORTS || fd_count < 0 || fd_count > PORT_FDS)
		return -EINVAL;
	switch (spec->driver) {
	case DRIVER_AF_PACKET:
		error = af_packet_open(spec, fds, fd_count, state, &port);
		break;
	case DRIVER_AF_PACKET_V3:
		error = af_packet_v3_open(spec, fds, fd_count, state, &port);
		break;
	case DRIVER_LINK:
		error = link_open(spec, fds, fd_count, state, &port);
		break;
	case DRIVER_PCAP:
		error = pcap_open(spec, fds, fd_count, state, &port);
		break;
	case DRIVER_AF_XDP:
		error = af_xdp_open(spec, fds, fd_count, state, &port);
		break;
	case DRIVER_TAP:
		error = tap_open(spec, fds, fd_count, state, &port);
		break;
	default:
		return -ENODEV;
	}
	if (error < 0)
		return error;

	if (port_wants_faults(spec)) {
		struct port *wrapped;
		error = fault_wrap(port, &wrapped);
		if (error < 0) {
			port->fd_count = 0; // the fds stay the caller's
			port->ops->close(port);
			return error;
		}
		port = wrapped;
	}
	*out = port;
	return 0;
}
