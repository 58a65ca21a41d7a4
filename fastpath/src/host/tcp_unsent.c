// What the app wrote and was not sent yet, in pieces (struct tcp_segment, in a list of their own).
//
// A packet is made of one piece or a part of one, never of two: so a piece remembers where the app ended
// a write (PSH, RFC 9293 section 3.9.1.2) and a record (MSG_EOR).  Writes join the last piece until it has the
// size of the largest packet.  The send buffer is charged for bytes and for each piece and record, and is
// asked only where a new piece begins: a write may exceed it by the rest of one.  Both as in Linux, since
// what a write accepts, and when poll(2) reports room, can be seen by apps.
#include "host/tcp_internal.h"

enum { RECORD_CHARGE = 1280 };     // what Linux charges for a buffer's head

uint32_t queue_memory(const struct tcp *tcp, const struct tcp_socket *s)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	return s->flight == 0 ? 0 : s->write_seq - f->snd_data_seq + f->records * RECORD_CHARGE;
}

static uint32_t low_water(const struct tcp *tcp, const struct tcp_socket *s)
{
	return s->low_water != 0 ? s->low_water : tcp->config.notsent_lowat;
}

static bool may_begin(const struct tcp *tcp, const struct tcp_socket *s)
{
	return queue_memory(tcp, s) < s->sndbuf && tcp_unsent(s) < low_water(tcp, s) &&
		(queue_memory(tcp, s) == 0 || !tcp_memory_pressure(tcp));
}

uint32_t queue_room(const struct tcp *tcp, const struct tcp_socket *s)
{
	return may_begin(tcp, s) ? s->sndbuf - queue_memory(tcp, s) : 0;
}

bool queue_writable(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint32_t used = queue_memory(tcp, s);
	return used < s->sndbuf && s->sndbuf - used >= used / 2 && (uint64_t)tcp_unsent(s) * 2 < low_water(tcp, s);
}

// The size of the largest packet, in whole segments.
static uint32_t largest(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t mss = tcp_current_mss(tcp, s), bytes = tcp_half_window(s, TCP_MAX_PAYLOAD);
	return bytes > mss ? bytes - bytes % mss : mss;
}

// What the last piece takes without growing beyond that size.
static uint32_t tail_room(struct tcp *tcp, struct tcp_socket *s)
{
	const struct tcp_segment *tail = segment_at(tcp, tcp_flight(tcp, s)->unsent_tail);
	uint32_t most = tail == NULL || tail->end_of_record ? 0 : largest(tcp, s);
	return most > 0 && tail->end - tail->seq < most ? most - (tail->end - tail->seq) : 0;
}

uint32_t unsent_room(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t room = tail_room(tcp, s);
	if (room == 0 && may_begin(tcp, s))
		room = largest(tcp, s);
	return room;
}

static struct tcp_segment *begin(struct tcp *tcp, struct tcp_flight *f, uint32_t seq)
{
	uint32_t number = segment_new(tcp);
	if (number == 0)
		return NULL;
	struct tcp_segment *piece = segment_at(tcp, number);
	piece->seq = piece->end = seq;
	*(f->unsent_tail != 0 ? &segment_at(tcp, f->unsent_tail)->next : &f->unsent_head) = number;
	f->unsent_tail = number;
	f->records++;
	return piece;
}

bool unsent_extend(struct tcp *tcp, struct tcp_socket *s, uint32_t bytes)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t seq = s->write_seq - bytes;
	limit_start(tcp, s, TCP_LIMIT_BUSY);
	while (bytes > 0) {
		uint32_t room = tail_room(tcp, s);
		struct tcp_segment *piece = room > 0 ? segment_at(tcp, f->unsent_tail) : begin(tcp, f, seq);
		if (piece == NULL && f->unsent_tail == 0)
			return false;
		if (piece == NULL) { // no record is left: a larger piece is only sent in more packets
			piece = segment_at(tcp, f->unsent_tail);
			room = bytes;
		} else if (room == 0) {
			room = largest(tcp, s);
		}
		uint32_t part = bytes < room ? bytes : room;
		piece->end += part;
		seq += part;
		bytes -= part;
	}
	return true;
}

bool unsent_full(struct tcp *tcp, struct tcp_socket *s)
{
	return tcp_flight(tcp, s)->unsent_tail != 0 && tail_room(tcp, s) == 0;
}

bool unsent_overdue(const struct tcp *tcp, const struct tcp_socket *s)
{
	return seq_after(s->write_seq, tcp_flight(tcp, s)->pushed_seq + s->max_window / 2);
}

void unsent_mark(struct tcp *tcp, struct tcp_socket *s, bool push, bool end_of_record)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	struct tcp_segment *tail = segment_at(tcp, f->unsent_tail);
	if (tail == NULL) // it was sent while the app wrote
		return;
	if (push) {
		tail->flags |= SEGMENT_PUSH;
		f->pushed_seq = s->write_seq;
	}
	tail->end_of_record |= end_of_record;
}

void unsent_look(const struct tcp *tcp, const struct tcp_flight *f, uint32_t end, bool *push, bool *end_of_record)
{
	*end_of_record = false;
	for (const struct tcp_segment *piece = segment_at(tcp, f->unsent_head); piece != NULL && !seq_after(piece->end, end);
	     piece = segment_at(tcp, piece->next)) {
		*push |= (piece->flags & SEGMENT_PUSH) != 0;
		*end_of_record |= piece->end_of_record && piece->end == end;
	}
}

static void drop_head(struct tcp *tcp, struct tcp_flight *f)
{
	uint32_t number = f->unsent_head;
	f->unsent_head = segment_at(tcp, number)->next;
	if (f->unsent_head == 0)
		f->unsent_tail = 0;
	f->records--;
	segment_free(tcp, number);
}

void unsent_pass(struct tcp *tcp, struct tcp_flight *f, uint32_t end)
{
	while (f->unsent_head != 0 && !seq_after(segment_at(tcp, f->unsent_head)->end, end))
		drop_head(tcp, f);
	struct tcp_segment *piece = segment_at(tcp, f->unsent_head);
	if (piece != NULL && seq_before(piece->seq, end))
		piece->seq = end;
}

void unsent_purge(struct tcp *tcp, struct tcp_flight *f)
{
	while (f->unsent_head != 0)
		drop_head(tcp, f);
}
