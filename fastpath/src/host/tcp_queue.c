// The send queue of a connection: the app's bytes in blocks, from the first unacknowledged one to
// write_seq, and the records of what of them was sent.
//
//   snd_data_seq                     snd_nxt             write_seq
//   |<- snd_head_offset in the head block                | snd_tail_used in the tail block
//   [ record ][ record ][ record ]   [ pieces of tcp_unsent.c ]
//
// A block that no byte of the queue lies in goes back at once.
#include "host/tcp_internal.h"

enum {
	GROWTH = 2,               // the send buffer holds this many congestion windows (cubic, Reno)
	SEGMENT_OVERHEAD = 640,   // what Linux charges a segment with beside its payload, before rounding up
	SEGMENT_FIXED = 256
};

void queue_grow(struct tcp *tcp, struct tcp_socket *s)
{
	if ((s->flags & TCP_SNDBUF_LOCKED) || tcp_memory_pressure(tcp))
		return;
	uint32_t mss = s->mss > s->mss_clamp ? s->mss : s->mss_clamp;
	uint32_t charge = 1;
	while (charge < mss + SEGMENT_OVERHEAD)
		charge *= 2;
	uint32_t segments = s->cwnd;
	if (segments < tcp->config.initial_cwnd)
		segments = tcp->config.initial_cwnd;
	if (segments < s->reordering + 1)
		segments = s->reordering + 1;
	uint64_t bytes = (uint64_t)GROWTH * segments * (charge + SEGMENT_FIXED);
	if (bytes > tcp->config.wmem_max)
		bytes = tcp->config.wmem_max;
	if (bytes > s->sndbuf)
		s->sndbuf = (uint32_t)bytes;
}

void queue_wake_writer(struct tcp *tcp, struct tcp_socket *s)
{
	if (!(s->engine & TCP_WRITE_BLOCKED) || (s->flags & TCP_SEND_SHUT))
		return;
	if (!queue_writable(tcp, s))
		return;
	s->engine &= ~(uint32_t)TCP_WRITE_BLOCKED;
	tcp_notify(tcp, s, HOST_STREAM_WRITABLE);
}

// --- writing ---

static bool tail_new(struct tcp *tcp, struct tcp_flight *f)
{
	uint32_t block = block_new(tcp);
	if (block == 0)
		return false;
	if (f->snd_block_tail != 0)
		tcp->block_next[f->snd_block_tail - 1] = block;
	else
		f->snd_block_head = block;
	f->snd_block_tail = block;
	f->snd_tail_used = 0;
	return true;
}

static uint32_t tail_room(const struct tcp_flight *f)
{
	return f->snd_block_tail == 0 ? 0 : TCP_BLOCK - f->snd_tail_used;
}

// Bytes that fit into the last block, or into new ones.
static uint32_t append(struct tcp *tcp, struct tcp_flight *f, const uint8_t *data, uint32_t length)
{
	uint32_t done = 0;
	while (done < length) {
		if (tail_room(f) == 0 && !tail_new(tcp, f))
			break;
		uint32_t bytes = length - done < tail_room(f) ? length - done : tail_room(f);
		memcpy(block_bytes(tcp, f->snd_block_tail) + f->snd_tail_used, data + done, bytes);
		f->snd_tail_used = (uint16_t)(f->snd_tail_used + bytes);
		done += bytes;
	}
	return done;
}

uint32_t queue_write(struct tcp *tcp, struct tcp_socket *s, const uint8_t *data, uint32_t length)
{
	// Bytes without a record could never be sent.
	uint32_t room = segments_left(tcp) ? unsent_room(tcp, s) : 0;
	struct tcp_flight *f = room == 0 ? NULL : tcp_flight_hold(tcp, s);
	if (f == NULL)
		return 0;
	if (length > room)
		length = room;
	uint32_t done = append(tcp, f, data, length);
	s->write_seq += done;
	if (done < length)
		tcp_count(tcp, TCP_STAT_MEMORY_PRESSURE);
	return done;
}

static void reserved_free(struct tcp *tcp, struct tcp_flight *f)
{
	while (f->snd_reserved_block != 0) {
		uint32_t block = f->snd_reserved_block;
		f->snd_reserved_block = tcp->block_next[block - 1];
		block_free(tcp, block);
	}
}

int queue_reserve(struct tcp *tcp, struct tcp_socket *s, uint32_t most, struct iovec *parts, int count)
{
	uint32_t room = segments_left(tcp) ? queue_room(tcp, s) : 0;
	struct tcp_flight *f = room == 0 || most == 0 ? NULL : tcp_flight_hold(tcp, s);
	if (f == NULL)
		return 0;
	reserved_free(tcp, f);
	if (most > room)
		most = room;
	int used = 0;
	uint32_t bytes = tail_room(f) < most ? tail_room(f) : most;
	if (bytes > 0 && count > 0) {
		parts[used++] = (struct iovec){.iov_base = block_bytes(tcp, f->snd_block_tail) + f->snd_tail_used, .iov_len = bytes};
		most -= bytes;
	}
	for (uint32_t last = 0; used < count && most > 0; used++) {
		uint32_t block = block_new(tcp);
		if (block == 0)
			break;
		*(last == 0 ? &f->snd_reserved_block : &tcp->block_next[last - 1]) = block;
		last = block;
		bytes = most < TCP_BLOCK ? most : TCP_BLOCK;
		parts[used] = (struct iovec){.iov_base = block_bytes(tcp, block), .iov_len = bytes};
		most -= bytes;
	}
	return used;
}

uint32_t queue_commit(struct tcp *tcp, struct tcp_socket *s, uint32_t bytes)
{
	if (s->flight == 0)
		return 0;
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t part = tail_room(f) < bytes ? tail_room(f) : bytes;
	uint32_t done = part;
	f->snd_tail_used = (uint16_t)(f->snd_tail_used + part);
	while (done < bytes && f->snd_reserved_block != 0) {
		uint32_t block = f->snd_reserved_block;
		f->snd_reserved_block = tcp->block_next[block - 1];
		tcp->block_next[block - 1] = 0;
		*(f->snd_block_tail != 0 ? &tcp->block_next[f->snd_block_tail - 1] : &f->snd_block_head) = block;
		f->snd_block_tail = block;
		part = bytes - done < TCP_BLOCK ? bytes - done : TCP_BLOCK;
		f->snd_tail_used = (uint16_t)part;
		done += part;
	}
	reserved_free(tcp, f);
	s->write_seq += done;
	return done;
}

// --- reading ---

// The block of `seq`, and where in it: from the cursor on where that is not too far.
static uint32_t seek(const struct tcp *tcp, struct tcp_flight *f, uint32_t seq, uint32_t *offset)
{
	uint32_t block = f->snd_block_head;
	uint32_t first = f->snd_data_seq - f->snd_head_offset;
	if (f->snd_cursor_block != 0 && !seq_before(seq, f->snd_cursor_seq)) {
		block = f->snd_cursor_block;
		first = f->snd_cursor_seq;
	}
	while (seq - first >= TCP_BLOCK) {
		block = tcp->block_next[block - 1];
		first += TCP_BLOCK;
	}
	f->snd_cursor_block = block;
	f->snd_cursor_seq = first;
	*offset = seq - first;
	return block;
}

void queue_copy(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint8_t *to, uint32_t length)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t offset;
	if (length == 0)
		return;
	uint32_t block = seek(tcp, f, seq, &offset);
	while (length > 0) {
		uint32_t bytes = TCP_BLOCK - offset < length ? TCP_BLOCK - offset : length;
		memcpy(to, block_bytes(tcp, block) + offset, bytes);
		to += bytes;
		length -= bytes;
		offset = 0;
		block = tcp->block_next[block - 1];
	}
}

void queue_lend(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint32_t length, struct packet *packet)
{
	_Static_assert((TCP_MAX_PAYLOAD + TCP_BLOCK - 2) / TCP_BLOCK + 1 <= PACKET_PARTS, "parts of the largest packet");
	struct iovec *parts = packet_parts(packet);
	uint32_t offset, block = seek(tcp, tcp_flight(tcp, s), seq, &offset);
	packet->part_bytes = length;
	while (length > 0) {
		uint32_t bytes = TCP_BLOCK - offset < length ? TCP_BLOCK - offset : length;
		parts[packet->part_count++] = (struct iovec){.iov_base = block_bytes(tcp, block) + offset, .iov_len = bytes};
		length -= bytes;
		offset = 0;
		block = tcp->block_next[block - 1];
	}
	tcp->lending = true;
}

static void head_free(struct tcp *tcp, struct tcp_flight *f)
{
	uint32_t block = f->snd_block_head;
	if (f->snd_cursor_block == block)
		f->snd_cursor_block = 0;
	f->snd_block_head = tcp->block_next[block - 1];
	if (f->snd_block_head == 0) {
		f->snd_block_tail = 0;
		f->snd_tail_used = 0;
	}
	f->snd_head_offset = 0;
	block_free(tcp, block);
}

void queue_release(struct tcp *tcp, struct tcp_socket *s, uint32_t seq)
{
	if (s->flight == 0)
		return;
	struct tcp_flight *f = tcp_flight(tcp, s);
	if (seq_after(seq, s->write_seq)) // the FIN behind the bytes
		seq = s->write_seq;
	while (seq_before(f->snd_data_seq, seq)) {
		bool last = f->snd_block_head == f->snd_block_tail;
		uint32_t held = (last ? f->snd_tail_used : (uint32_t)TCP_BLOCK) - f->snd_head_offset;
		uint32_t bytes = seq - f->snd_data_seq < held ? seq - f->snd_data_seq : held;
		f->snd_data_seq += bytes;
		f->snd_head_offset = (uint16_t)(f->snd_head_offset + bytes);
		if (bytes == held)
			head_free(tcp, f);
	}
	limit_stop(tcp, s, TCP_LIMIT_BUSY);
	if (s->engine & TCP_WRITE_BLOCKED)
		tcp_dirty(tcp, s); // tcp_output looks whether the writer may go on
}

// --- records of what was sent ---

static uint32_t segment_number(const struct tcp *tcp, const struct tcp_segment *segment)
{
	return (uint32_t)(segment - tcp->segments) + 1;
}

static uint16_t count_segments(const struct tcp_segment *segment, uint16_t mss)
{
	uint32_t bytes = segment->end - segment->seq - !!(segment->flags & SEGMENT_SYN) - !!(segment->flags & SEGMENT_FIN);
	uint32_t count = mss == 0 ? 1 : (bytes + mss - 1) / mss;
	return (uint16_t)(count == 0 ? 1 : count);
}

// Add the segments of a record to the counters of its flight, or take them off (sign -1).
static void account(struct tcp_flight *f, const struct tcp_segment *segment, int sign)
{
	uint32_t count = sign < 0 ? 0u - segment->count : segment->count;
	f->packets_out += count;
	if (segment->flags & SEGMENT_SACKED)
		f->sacked_out += count;
	if (segment->flags & SEGMENT_LOST)
		f->lost_out += count;
	if (segment->flags & SEGMENT_RETRANSMITTED)
		f->retrans_out += count;
}

struct tcp_segment *segment_append(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint32_t end, uint8_t flags)
{
	struct tcp_flight *f = tcp_flight_hold(tcp, s);
	uint32_t number = f == NULL ? 0 : segment_new(tcp);
	if (number == 0)
		return NULL;
	struct tcp_segment *segment = segment_at(tcp, number);
	segment->seq = seq;
	segment->end = end;
	segment->flags = flags;
	segment->mss = s->mss;
	segment->count = count_segments(segment, s->mss);
	segment->previous = f->segment_tail;
	*(f->segment_tail != 0 ? &tcp->segments[f->segment_tail - 1].next : &f->segment_head) = number;
	f->segment_tail = number;
	f->records++;
	account(f, segment, 1);
	return segment;
}

bool segment_split(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t seq)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t number = segment_new(tcp);
	if (number == 0)
		return false;
	struct tcp_segment *second = segment_at(tcp, number);
	account(f, segment, -1);
	uint32_t own = segment_number(tcp, segment), next = segment->next;
	*second = *segment;
	second->seq = seq;
	second->flags &= (uint8_t)~(SEGMENT_SYN | SEGMENT_CWR);
	second->previous = own;
	segment->end = seq;
	segment->flags &= (uint8_t)~(SEGMENT_FIN | SEGMENT_PUSH);
	segment->end_of_record = false;
	segment->next = number;
	if (next != 0)
		tcp->segments[next - 1].previous = number;
	else
		f->segment_tail = number;
	segment->count = count_segments(segment, segment->mss);
	second->count = count_segments(second, second->mss);
	account(f, segment, 1);
	account(f, second, 1);
	f->records++;
	return true;
}

void segment_drop(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	account(f, segment, -1);
	f->records--;
	*(segment->previous != 0 ? &tcp->segments[segment->previous - 1].next : &f->segment_head) = segment->next;
	*(segment->next != 0 ? &tcp->segments[segment->next - 1].previous : &f->segment_tail) = segment->previous;
	segment_free(tcp, segment_number(tcp, segment));
}

void segment_recount(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint16_t mss)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	account(f, segment, -1);
	segment->mss = mss;
	segment->count = count_segments(segment, mss);
	account(f, segment, 1);
}

// --- the end ---

void queue_purge_output(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->flight == 0)
		return;
	struct tcp_flight *f = tcp_flight(tcp, s);
	while (f->segment_head != 0)
		segment_drop(tcp, s, segment_at(tcp, f->segment_head));
	unsent_purge(tcp, f);
	while (f->snd_block_head != 0)
		head_free(tcp, f);
	reserved_free(tcp, f);
	tcp_range_purge(tcp, s);
	f->snd_data_seq = s->write_seq;
	f->syn_queued = false;
	f->fin_queued = false;
	f->duplicate_start = f->duplicate_end = 0;
	f->tlp_high_seq = 0;
	f->probe_seq = f->probe_end;
	s->recovery = TCP_RECOVERY_OPEN;
	tcp_flight_release(tcp, s);
}

void queue_purge(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->flight == 0)
		return;
	struct tcp_flight *f = tcp_flight(tcp, s);
	while (f->packets != NULL) {
		struct packet *packet = f->packets;
		f->packets = packet->next;
		packet->next = NULL;
		tcp->packets_room -= packet->room;
		tcp->host->ops.packet_put(tcp->host->ops.user, packet);
	}
	f->packets_last = NULL;
	f->packets_bytes = 0;
	while (f->rcv_block_head != 0) {
		uint32_t block = f->rcv_block_head;
		f->rcv_block_head = tcp->block_next[block - 1];
		block_free(tcp, block);
	}
	f->rcv_block_tail = 0;
	f->rcv_queued = 0;
	f->rcv_head_offset = f->rcv_tail_used = 0;
	queue_purge_output(tcp, s);
}
