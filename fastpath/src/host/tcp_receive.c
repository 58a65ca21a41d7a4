// The receive side of a connection: from acceptable segments to the app.
//
//   tcp_receive --in order--> flight.packets (by reference) --tcp_deliver--> app's fd
//        |                           '--no room there, or no fd--> blocks --'
//        '-------beyond a gap------> ranges (tcp_range.c) --gap filled--^
//
// RFC 9293 section 3.10.7.4 (steps seven and eight), RFC 5681 section 4.2, RFC 3168 section 6.1.3.  Payload stays in
// the packet that brought it until the end of the batch, and some of it longer, so that what the app takes soon is
// never copied.
#include "host/tcp_internal.h"

#include <sys/uio.h>

enum {
	DELIVER_PARTS = 64,
	PACKETS_MOST = 256 * 1024, // bytes held by reference: packets are a common good
	KEPT_MOST = 4096 * 1024,   // of their buffers, of all connections, that wait for apps
	ECN_BITS = 3
};

// --- the queue of bytes in order: blocks, then packets ---

uint32_t tcp_unread(const struct tcp *tcp, const struct tcp_socket *s)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	return f->rcv_queued + f->packets_bytes;
}

uint32_t tcp_receive_append(struct tcp *tcp, struct tcp_socket *s, const uint8_t *data, uint32_t length)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t copied = 0;

	while (copied < length) {
		if (f->rcv_block_tail == 0 || f->rcv_tail_used == TCP_BLOCK) {
			uint32_t block = block_new(tcp);
			if (block == 0)
				break;
			tcp->block_next[block - 1] = 0;
			if (f->rcv_block_tail != 0) {
				tcp->block_next[f->rcv_block_tail - 1] = block;
			} else {
				f->rcv_block_head = block;
				f->rcv_head_offset = 0;
			}
			f->rcv_block_tail = block;
			f->rcv_tail_used = 0;
		}
		uint32_t room = (uint32_t)TCP_BLOCK - f->rcv_tail_used;
		uint32_t piece = length - copied < room ? length - copied : room;
		memcpy(block_bytes(tcp, f->rcv_block_tail) + f->rcv_tail_used, data + copied, piece);
		f->rcv_tail_used = (uint16_t)(f->rcv_tail_used + piece);
		copied += piece;
	}
	f->rcv_queued += copied;
	return copied;
}

static void keep_packet(struct tcp *tcp, struct tcp_flight *f, const struct tcp_arrival *a)
{
	struct packet *packet = a->in->packet;

	packet->offset = (uint32_t)(a->payload - packet->buffer);
	packet->length = a->length;
	packet->next = NULL;
	if (f->packets != NULL)
		f->packets_last->next = packet;
	else
		f->packets = packet;
	f->packets_last = packet;
	f->packets_bytes += a->length;
	tcp->packets_room += packet->room;
	a->in->taken = true;
}

static void drop_packet(struct tcp *tcp, struct tcp_flight *f)
{
	struct packet *packet = f->packets;
	f->packets = packet->next;
	packet->next = NULL;
	tcp->packets_room -= packet->room;
	tcp->host->ops.packet_put(tcp->host->ops.user, packet);
}

bool tcp_receive_settle(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	while (f->packets != NULL) {
		struct packet *packet = f->packets;
		uint32_t copied = tcp_receive_append(tcp, s, packet_data(packet), packet->length);
		packet->offset += copied;
		packet->length -= copied;
		f->packets_bytes -= copied;
		if (packet->length > 0)
			return false;
		drop_packet(tcp, f);
	}
	return true;
}

// What the app has not taken yet, as far as the parts reach.
static int describe(const struct tcp *tcp, const struct tcp_flight *f, struct iovec *parts)
{
	uint32_t left = f->rcv_queued, offset = f->rcv_head_offset;
	int count = 0;

	for (uint32_t block = f->rcv_block_head; left > 0 && count < DELIVER_PARTS; block = tcp->block_next[block - 1]) {
		uint32_t piece = TCP_BLOCK - offset < left ? TCP_BLOCK - offset : left;
		parts[count++] = (struct iovec){block_bytes(tcp, block) + offset, piece};
		left -= piece;
		offset = 0;
	}
	for (struct packet *packet = f->packets; packet != NULL && count < DELIVER_PARTS; packet = packet->next)
		parts[count++] = (struct iovec){packet_data(packet), packet->length};
	return count;
}

static uint32_t consume_blocks(struct tcp *tcp, struct tcp_flight *f, uint32_t bytes)
{
	uint32_t done = 0;

	while (done < bytes && f->rcv_queued > 0) {
		uint32_t room = (uint32_t)TCP_BLOCK - f->rcv_head_offset;
		uint32_t here = f->rcv_queued < room ? f->rcv_queued : room;
		uint32_t piece = bytes - done < here ? bytes - done : here;
		f->rcv_head_offset = (uint16_t)(f->rcv_head_offset + piece);
		f->rcv_queued -= piece;
		done += piece;
		if (piece < here)
			break;
		uint32_t block = f->rcv_block_head;
		f->rcv_block_head = tcp->block_next[block - 1];
		f->rcv_head_offset = 0;
		block_free(tcp, block);
	}
	if (f->rcv_queued == 0) {
		f->rcv_block_head = f->rcv_block_tail = 0;
		f->rcv_head_offset = f->rcv_tail_used = 0;
	}
	return done;
}

static void consume(struct tcp *tcp, struct tcp_flight *f, uint32_t bytes)
{
	bytes -= consume_blocks(tcp, f, bytes);
	while (bytes > 0 && f->packets != NULL) {
		struct packet *packet = f->packets;
		uint32_t piece = packet->length < bytes ? packet->length : bytes;
		packet->offset += piece;
		packet->length -= piece;
		f->packets_bytes -= piece;
		bytes -= piece;
		if (packet->length == 0)
			drop_packet(tcp, f);
	}
}

// --- the app ---

static bool window_opens(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint32_t left = tcp_window_left(s);
	if ((s->flags & (TCP_FIN_RECEIVED | TCP_RECEIVE_SHUT)) || left > s->window_clamp / 2)
		return false;
	uint32_t offer = tcp_window_offer(tcp, s);
	return offer != 0 && offer / 2 >= left;
}

// An ACK that waited for this: more than a full segment is unacknowledged, or the sender has probably nothing
// more to send now (a short segment) and we have nothing to answer.
static bool pending_ack_due(const struct tcp *tcp, const struct tcp_socket *s)
{
	if (!(s->flags & TCP_ACK_PENDING))
		return false;
	if (s->rcv_nxt - s->rcv_wup > s->received_mss)
		return true;
	bool ended = (s->engine & TCP_SMALLS_RECEIVED) || ((s->engine & TCP_SMALL_RECEIVED) && !(s->engine & TCP_PINGPONG));
	return ended && tcp_unread(tcp, s) == 0;
}

void tcp_receive_taken(struct tcp *tcp, struct tcp_socket *s, uint32_t bytes)
{
	if (bytes == 0)
		return;
	s->copied_seq += bytes;
	tcp_window_taken(tcp, s);
	if (pending_ack_due(tcp, s) || window_opens(tcp, s)) {
		s->flags |= TCP_ACK_PENDING | TCP_ACK_NOW;
		tcp_dirty(tcp, s);
	}
}

static void offer(struct tcp *tcp, struct tcp_socket *s)
{
	const struct host_ops *ops = &tcp->host->ops;
	struct iovec parts[DELIVER_PARTS];

	while (tcp_unread(tcp, s) > 0) {
		struct tcp_flight *f = tcp_flight(tcp, s);
		int count = describe(tcp, f, parts);
		uint32_t given = 0;
		for (int i = 0; i < count; i++)
			given += (uint32_t)parts[i].iov_len;
		uint32_t taken = ops->deliver(ops->user, tcp_slot(tcp, s), parts, count);
		if (s->flight == 0)
			return; // the app's end was found closed, and with it the connection
		if (taken > given)
			taken = given;
		consume(tcp, f, taken);
		tcp_receive_taken(tcp, s, taken);
		if (taken < given) {
			s->engine |= TCP_READ_BLOCKED;
			return;
		}
	}
	s->engine &= ~(uint32_t)TCP_READ_BLOCKED;
}

// The peer's FIN was reached, and nothing stands before it any more.
static void tell_end(struct tcp *tcp, struct tcp_socket *s)
{
	if (!(s->flags & TCP_FIN_RECEIVED) || tcp_unread(tcp, s) > 0)
		return;
	if (!(s->engine & TCP_PEER_CLOSE_TOLD)) {
		s->engine |= TCP_PEER_CLOSE_TOLD;
		tcp_notify(tcp, s, HOST_STREAM_PEER_CLOSED);
	}
}

// The app's fd is full for a moment: what waits in its packets is not copied for that, while they are few.
static bool may_wait(const struct tcp *tcp, const struct tcp_socket *s)
{
	return (s->engine & TCP_READ_BLOCKED) && tcp->packets_room <= KEPT_MOST;
}

void tcp_deliver(struct tcp *tcp, struct tcp_socket *s)
{
	bool fresh = tcp_flight(tcp, s)->fresh;

	if ((s->flags & TCP_ORPHAN) || (s->engine & TCP_IN_ACCEPT_QUEUE)) {
		(void)tcp_receive_settle(tcp, s); // nobody is there, or not yet
		return;
	}
	if (tcp->host->ops.deliver != NULL)
		offer(tcp, s);
	if (tcp_unread(tcp, s) > 0) {
		if (!may_wait(tcp, s))
			(void)tcp_receive_settle(tcp, s); // without memory the rest stays in its packets
		if (fresh) {
			tcp_flight(tcp, s)->fresh = false;
			tcp_notify(tcp, s, HOST_STREAM_READABLE);
		}
	}
	tell_end(tcp, s);
}

uint32_t tcp_receive_read(struct tcp *tcp, struct tcp_socket *s, uint8_t *buffer, uint32_t length, bool peek)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	struct iovec parts[DELIVER_PARTS];
	uint32_t total = 0;

	while (total < length && tcp_unread(tcp, s) > (peek ? total : 0)) {
		uint32_t round = 0;
		int count = describe(tcp, f, parts);
		for (int i = 0; i < count && total + round < length; i++) {
			uint32_t room = length - total - round;
			uint32_t piece = parts[i].iov_len < room ? (uint32_t)parts[i].iov_len : room;
			memcpy(buffer + total + round, parts[i].iov_base, piece);
			round += piece;
		}
		total += round;
		if (peek)
			break; // as much as the parts show
		consume(tcp, f, round);
	}
	if (!peek) {
		tcp_receive_taken(tcp, s, total);
		tell_end(tcp, s);
	}
	return total;
}

// --- arrival ---

static void trim_front(struct tcp_arrival *a, uint32_t bytes)
{
	a->seq += bytes;
	a->payload += bytes;
	a->length -= bytes;
}

void tcp_receive_duplicate(struct tcp *tcp, struct tcp_socket *s, uint32_t start, uint32_t end)
{
	tcp_quickack(tcp, s, TCP_MAX_QUICKACKS);
	tcp_range_duplicate(tcp, s, start, end);
}

// RFC 3168 section 6.1.3: ECE until CWR comes.  A segment that is not ECN-capable, after others that were, is
// probably a retransmission: ACKs had better come soon.
static void take_congestion(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (!(s->flags & TCP_ECN_OK) || a->length == 0)
		return;
	if (a->congestion_experienced) {
		if (!(s->flags & TCP_ECN_ECHO))
			tcp_quickack(tcp, s, 2);
		s->flags |= TCP_ECN_ECHO | TCP_ECN_SEEN;
	} else if (a->in->tos & ECN_BITS) {
		s->flags |= TCP_ECN_SEEN;
	} else if (s->flags & TCP_ECN_SEEN) {
		tcp_quickack(tcp, s, 2);
	}
}

static void take_cwr(struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (!(a->flags & TCP_CWR))
		return;
	s->flags &= ~(uint32_t)TCP_ECN_ECHO;
	if (a->length > 0) // its window may be down to this one segment
		s->flags |= TCP_ACK_PENDING | TCP_ACK_NOW;
}

// Behind the peer's last byte (RFC 9293 section 3.10.7.4, eighth step).
static void take_fin(struct tcp *tcp, struct tcp_socket *s)
{
	s->rcv_nxt++;
	s->flags |= TCP_FIN_RECEIVED | TCP_ACK_PENDING;
	tcp_range_purge(tcp, s);
	switch (s->state) {
	case TCP_STATE_SYN_RECEIVED:
	case TCP_STATE_ESTABLISHED:
		tcp_set_state(tcp, s, TCP_STATE_CLOSE_WAIT);
		s->engine |= TCP_PINGPONG; // the app will probably close too: one segment for ACK and FIN
		tcp_ack_decide(tcp, s);
		break;
	case TCP_STATE_FIN_WAIT_1:
		tcp_send_ack(tcp, s);
		tcp_set_state(tcp, s, TCP_STATE_CLOSING);
		break;
	case TCP_STATE_FIN_WAIT_2:
		tcp_send_ack(tcp, s);
		tcp_time_wait(tcp, s);
		break;
	default:
		break;
	}
}

static enum drop_reason refuse(struct tcp *tcp, struct tcp_socket *s)
{
	tcp_count(tcp, TCP_STAT_MEMORY_PRESSURE);
	s->flags |= TCP_ACK_PENDING | TCP_ACK_NOW;
	return DROP_TCP_NO_MEMORY;
}

static enum drop_reason take_data(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	struct tcp_flight *f = tcp_flight_hold(tcp, s);
	if (f == NULL || (tcp_memory_pressure(tcp) && tcp_unread(tcp, s) > 0))
		return refuse(tcp, s);
	keep_packet(tcp, f, a);
	f->fresh = true;
	s->rcv_nxt += a->length;
	s->bytes_received += a->length;
	s->flags |= TCP_ACK_PENDING;
	tcp_ack_measure(tcp, s, a);
	tcp_window_received(tcp, s, a);
	tcp_ack_estimate(tcp, s);
	take_congestion(tcp, s, a);
	return DROP_NONE;
}

static enum drop_reason receive_in_order(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	bool fin = a->flags & TCP_FIN;

	if (a->length > 0) {
		enum drop_reason reason = take_data(tcp, s, a);
		if (reason != DROP_NONE)
			return reason;
	}
	if (tcp_flight(tcp, s)->range_head != 0) {
		if (!fin)
			fin = tcp_range_join(tcp, s);
		if (tcp_flight(tcp, s)->range_head == 0)
			s->flags |= TCP_ACK_PENDING | TCP_ACK_NOW; // RFC 5681 section 4.2: the gap is filled
	}
	if (tcp_flight(tcp, s)->packets_bytes > PACKETS_MOST && !may_wait(tcp, s))
		tcp_deliver(tcp, s);
	if (fin)
		take_fin(tcp, s);
	else
		tcp_ack_decide(tcp, s);
	return DROP_NONE;
}

static enum drop_reason receive_out_of_order(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	take_congestion(tcp, s, a);
	tcp_count(tcp, TCP_STAT_OUT_OF_ORDER);
	s->ooo_packets += a->segments;
	if (a->length > 0)
		tcp_ack_measure(tcp, s, a);
	bool stored = tcp_range_add(tcp, s, a);
	s->flags |= TCP_ACK_PENDING;
	tcp_send_ack(tcp, s); // each one at once: the peer counts them (RFC 5681 section 4.2)
	if (stored)
		return DROP_NONE;
	tcp_count(tcp, TCP_STAT_MEMORY_PRESSURE);
	return DROP_TCP_NO_MEMORY;
}

// Nothing of it can be taken: the peer is told where we are.
static enum drop_reason answer_useless(struct tcp *tcp, struct tcp_socket *s, enum drop_reason reason)
{
	tcp_quickack(tcp, s, TCP_MAX_QUICKACKS);
	s->flags |= TCP_ACK_PENDING;
	tcp_send_ack(tcp, s);
	return reason;
}

enum drop_reason tcp_receive(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *a)
{
	uint32_t left = tcp_window_left(s);

	take_cwr(s, a);
	// Behind the peer's FIN there is nothing, whatever it says.
	if (!seq_after(a->end, s->rcv_nxt) || (s->flags & TCP_FIN_RECEIVED)) {
		tcp_receive_duplicate(tcp, s, a->seq, seq_after(a->end, s->rcv_nxt) ? s->rcv_nxt : a->end);
		return answer_useless(tcp, s, DROP_NONE);
	}
	if (seq_after(a->seq, s->rcv_nxt) && !seq_before(a->seq, s->rcv_nxt + left))
		return answer_useless(tcp, s, DROP_TCP_STRAY);
	if (seq_after(a->seq, s->rcv_nxt))
		return receive_out_of_order(tcp, s, a);
	if (seq_before(a->seq, s->rcv_nxt)) {
		tcp_receive_duplicate(tcp, s, a->seq, s->rcv_nxt);
		trim_front(a, s->rcv_nxt - a->seq);
	}
	if (left == 0 && a->length > 0) // a window probe
		return answer_useless(tcp, s, DROP_TCP_STRAY);
	return receive_in_order(tcp, s, a);
}
