// Bytes beyond a gap: kept until the gap is filled, and told to the peer by SACK.
//
// RFC 9293 section 3.10.7.4 (SHLD-31: segments out of order are kept), RFC 2018 (which blocks are reported, and in
// which order), RFC 2883 (duplicates).  The ranges of a connection are a list by sequence, disjoint.  A segment
// that touches the range before it is appended there; two ranges that touch stay apart here, and are one in what
// is reported.  Both bytes and ranges are bounded by rcvbuf, so that a peer who sends every other byte gains
// nothing (CVE-2018-5390); bytes refused were never SACKed.
#include "host/tcp_internal.h"

// What the bookkeeping of one range may cost: its last block is half empty on average.
enum { RANGE_COST = TCP_BLOCK / 2 };

// --- duplicates ---

static bool touches(const struct tcp_flight *f, uint32_t start, uint32_t end)
{
	return !seq_after(start, f->duplicate_end) && !seq_before(end, f->duplicate_start);
}

// RFC 2883 section 4: of a segment's duplicate pieces the first one is told, with all that it touches.  `first`: a
// segment begins, whose piece also takes the place of an older segment's that was not told yet.
static void duplicate(struct tcp *tcp, struct tcp_socket *s, uint32_t start, uint32_t end, bool first)
{
	if (!(s->flags & TCP_SACK_OK) || !tcp->config.dsack || start == end)
		return;
	struct tcp_flight *f = tcp_flight_hold(tcp, s);
	if (f == NULL)
		return;
	bool none = f->duplicate_start == f->duplicate_end;
	if (none)
		tcp_count(tcp, TCP_STAT_DSACK_SENT);
	if (none || (first && !touches(f, start, end))) {
		f->duplicate_start = start;
		f->duplicate_end = end;
	} else if (touches(f, start, end)) {
		if (seq_before(start, f->duplicate_start))
			f->duplicate_start = start;
		if (seq_after(end, f->duplicate_end))
			f->duplicate_end = end;
	}
}

void tcp_range_duplicate(struct tcp *tcp, struct tcp_socket *s, uint32_t start, uint32_t end)
{
	duplicate(tcp, s, start, end, true);
}

// --- storing ---

static void unlink_range(struct tcp *tcp, struct tcp_flight *f, struct tcp_range *previous, uint32_t number)
{
	struct tcp_range *range = range_at(tcp, number);
	if (previous != NULL)
		previous->next = range->next;
	else
		f->range_head = range->next;
	if (f->range_recent == number)
		f->range_recent = 0;
	f->range_bytes -= range->end - range->seq;
	f->range_count--;
	for (uint32_t block = range->block_head; block != 0;) {
		uint32_t next = tcp->block_next[block - 1];
		block_free(tcp, block);
		block = next;
	}
	range_free(tcp, number);
}

// Append bytes to a range; false: the pool of blocks is empty, and the range ends earlier.
static bool append(struct tcp *tcp, struct tcp_flight *f, struct tcp_range *range, const uint8_t *data, uint32_t length)
{
	while (length > 0) {
		if (range->block_tail == 0 || range->tail_used == TCP_BLOCK) {
			uint32_t block = block_new(tcp);
			if (block == 0)
				return false;
			tcp->block_next[block - 1] = 0;
			if (range->block_tail != 0)
				tcp->block_next[range->block_tail - 1] = block;
			else
				range->block_head = block;
			range->block_tail = block;
			range->tail_used = 0;
		}
		uint32_t room = (uint32_t)TCP_BLOCK - range->tail_used;
		uint32_t piece = room < length ? room : length;
		memcpy(block_bytes(tcp, range->block_tail) + range->tail_used, data, piece);
		range->tail_used = (uint16_t)(range->tail_used + piece);
		range->end += piece;
		f->range_bytes += piece;
		data += piece;
		length -= piece;
	}
	return true;
}

// A new, empty range behind `previous` (NULL: the first).
static struct tcp_range *insert(struct tcp *tcp, const struct tcp_socket *s, struct tcp_flight *f, struct tcp_range *previous, uint32_t seq)
{
	if (f->range_bytes + (f->range_count + 1) * RANGE_COST > s->rcvbuf)
		return NULL;
	uint32_t number = range_new(tcp);
	struct tcp_range *range = range_at(tcp, number);
	if (range == NULL)
		return NULL;
	memset(range, 0, sizeof(*range));
	range->seq = range->end = seq;
	range->next = previous != NULL ? previous->next : f->range_head;
	if (previous != NULL)
		previous->next = number;
	else
		f->range_head = number;
	f->range_count++;
	return range;
}

// Where a segment is put: `range` is the last that begins at or before it, or NULL.
struct place {
	struct tcp_range *range;
	uint32_t number;
};

static uint32_t next_number(const struct tcp_flight *f, const struct tcp_range *range)
{
	return range != NULL ? range->next : f->range_head;
}

static void step(const struct tcp *tcp, const struct tcp_flight *f, struct place *place)
{
	place->number = next_number(f, place->range);
	place->range = range_at(tcp, place->number);
}

static struct place find_place(const struct tcp *tcp, const struct tcp_flight *f, uint32_t seq)
{
	struct place place = {NULL, 0};
	const struct tcp_range *recent = range_at(tcp, f->range_recent);
	if (recent != NULL && !seq_after(recent->seq, seq)) // segments mostly go on where the last one ended
		place = (struct place){range_at(tcp, f->range_recent), f->range_recent};
	for (;;) {
		const struct tcp_range *next = range_at(tcp, next_number(f, place.range));
		if (next == NULL || seq_after(next->seq, seq))
			return place;
		step(tcp, f, &place);
	}
}

// Keep bytes that no range holds; they begin behind the end of place->range, and reach at most to the next one.
static bool store(struct tcp *tcp, const struct tcp_socket *s, struct tcp_flight *f, struct place *place, uint32_t seq, const uint8_t *data,
	uint32_t length)
{
	if (place->range == NULL || place->range->end != seq || place->range->fin) {
		if (insert(tcp, s, f, place->range, seq) == NULL)
			return false;
		step(tcp, f, place);
	}
	bool stored = append(tcp, f, place->range, data, length);
	place->range->stamp = ++f->range_stamp;
	f->range_recent = place->number;
	if (stored || place->range->end != place->range->seq)
		return stored;
	struct place before = find_place(tcp, f, seq - 1); // nothing of it was stored
	unlink_range(tcp, f, before.range, place->number);
	*place = before;
	return false;
}

// Store what is new of seq..end; what is not is a duplicate.
static bool store_new(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f, struct place *place, const struct tcp_arrival *a)
{
	uint32_t at = a->seq, end = a->seq + a->length;
	bool first = true;

	while (at != end) {
		if (place->range != NULL && seq_after(place->range->end, at)) {
			uint32_t known = seq_before(place->range->end, end) ? place->range->end : end;
			duplicate(tcp, s, at, known, first);
			first = false;
			place->range->stamp = ++f->range_stamp;
			at = known;
			continue;
		}
		const struct tcp_range *next = range_at(tcp, next_number(f, place->range));
		if (next != NULL && next->seq == at) {
			step(tcp, f, place);
			continue;
		}
		uint32_t until = next != NULL && seq_before(next->seq, end) ? next->seq : end;
		if (!store(tcp, s, f, place, at, a->payload + (at - a->seq), until - at))
			return false;
		at = until;
	}
	return true;
}

// A FIN that came early is remembered with the bytes before it, or alone.
static void store_fin(struct tcp *tcp, const struct tcp_socket *s, struct tcp_flight *f, struct place *place, uint32_t at)
{
	if (place->range == NULL || place->range->end != at) {
		if (next_number(f, place->range) != 0 || (place->range != NULL && seq_after(place->range->end, at)))
			return; // bytes beyond a FIN: the peer contradicts itself
		if (insert(tcp, s, f, place->range, at) == NULL)
			return;
		step(tcp, f, place);
		f->range_recent = place->number;
	}
	place->range->fin = true;
	place->range->stamp = ++f->range_stamp;
}

bool tcp_range_add(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	struct tcp_flight *f = tcp_memory_pressure(tcp) ? NULL : tcp_flight_hold(tcp, s);
	if (f == NULL)
		return false;
	struct place place = find_place(tcp, f, a->seq);
	bool stored = store_new(tcp, s, f, &place, a);
	if (stored && (a->flags & TCP_FIN))
		store_fin(tcp, s, f, &place, a->seq + a->length);
	return stored;
}

// --- the gap is filled ---

// Copy what lies behind the first `skip` bytes of a range to the receive queue; false: no memory.
static bool move(struct tcp *tcp, struct tcp_socket *s, const struct tcp_range *range, uint32_t skip)
{
	uint32_t left = range->end - range->seq;
	for (uint32_t block = range->block_head; left > 0; block = tcp->block_next[block - 1]) {
		uint32_t used = left < TCP_BLOCK ? left : TCP_BLOCK;
		uint32_t from = skip < used ? skip : used;
		uint32_t copied = tcp_receive_append(tcp, s, block_bytes(tcp, block) + from, used - from);
		s->rcv_nxt += copied;
		s->bytes_received += copied;
		if (copied != used - from)
			return false;
		skip -= from;
		left -= used;
	}
	return true;
}

bool tcp_range_join(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	while (f->range_head != 0) {
		struct tcp_range *range = range_at(tcp, f->range_head);
		if (seq_after(range->seq, s->rcv_nxt))
			return false;
		uint32_t twice = seq_before(range->end, s->rcv_nxt) ? range->end : s->rcv_nxt;
		duplicate(tcp, s, range->seq, twice, false);
		if (seq_after(range->end, s->rcv_nxt) && (!tcp_receive_settle(tcp, s) || !move(tcp, s, range, twice - range->seq)))
			return false;
		bool fin = range->fin && range->end == s->rcv_nxt;
		unlink_range(tcp, f, NULL, f->range_head);
		if (fin)
			return true;
	}
	return false;
}

void tcp_range_purge(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->flight == 0)
		return;
	struct tcp_flight *f = tcp_flight(tcp, s);
	while (f->range_head != 0)
		unlink_range(tcp, f, NULL, f->range_head);
}

bool tcp_range_right(const struct tcp *tcp, const struct tcp_socket *s, uint32_t *right)
{
	const struct tcp_range *range = range_at(tcp, tcp_flight(tcp, s)->range_head);
	if (range == NULL)
		return false;
	while (range->next != 0)
		range = range_at(tcp, range->next);
	*right = range->end + range->fin;
	return true;
}

// --- SACK ---

// Put a block where its stamp belongs; the oldest one falls off the end.
static int rank(struct tcp_sack_block *blocks, uint32_t *stamps, int count, int most, struct tcp_sack_block block, uint32_t stamp)
{
	int at = count < most ? count : most - 1;
	if (count == most && !seq_after(stamp, stamps[at]))
		return count;
	while (at > 0 && seq_after(stamp, stamps[at - 1])) {
		blocks[at] = blocks[at - 1];
		stamps[at] = stamps[at - 1];
		at--;
	}
	blocks[at] = block;
	stamps[at] = stamp;
	return count < most ? count + 1 : most;
}

int tcp_sack_blocks(const struct tcp *tcp, const struct tcp_socket *s, int most, struct tcp_sack_block *blocks)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t stamps[TCP_SACK_BLOCKS];
	int first = 0, count = 0;

	if (most > TCP_SACK_BLOCKS)
		most = TCP_SACK_BLOCKS;
	if (most > 0 && f->duplicate_start != f->duplicate_end)
		blocks[first++] = (struct tcp_sack_block){f->duplicate_start, f->duplicate_end};
	const struct tcp_range *range = range_at(tcp, f->range_head);
	while (range != NULL && first < most) {
		struct tcp_sack_block block = {range->seq, range->end + range->fin};
		uint32_t stamp = range->stamp;
		while ((range = range_at(tcp, range->next)) != NULL && range->seq == block.end) {
			block.end = range->end + range->fin;
			if (seq_after(range->stamp, stamp))
				stamp = range->stamp;
		}
		if (seq_after(block.end, s->rcv_nxt))
			count = rank(blocks + first, stamps, count, most - first, block, stamp);
	}
	return first + count;
}
