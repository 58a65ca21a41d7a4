// What SACK tells the sender: RFC 2018, RFC 2883, and duplicate ACKs where there is no SACK.
//
// Blocks are checked against what is outstanding, one walk over the records serves all of them, and records that
// were SACKed side by side become one again: a hostile receiver gains nothing by many small holes beyond the walk
// over its own window (CVE-2019-11477, CVE-2019-11478).
#include "host/tcp_ack.h"

struct sack_list {
	struct tcp_sack_block blocks[TCP_SACK_BLOCKS];
	uint32_t count;
	bool duplicate_first;         // the first block is a D-SACK
};

// A D-SACK may lie below snd_una, as far as it can concern what was retransmitted (RFC 2883 section 4).
static bool duplicate_valid(const struct tcp_socket *s, const struct tcp_flight *f, const struct tcp_sack_block *b)
{
	if (f->undo_marker == 0 || seq_after(b->end, s->snd_una))
		return false;
	if (!seq_before(b->start, f->undo_marker))
		return true;
	return seq_after(b->end, f->undo_marker) && !seq_before(b->start, b->end - s->max_window);
}

static bool block_valid(const struct tcp_socket *s, const struct tcp_flight *f, const struct tcp_sack_block *b, bool duplicate)
{
	if (seq_after(b->end, s->snd_nxt) || !seq_before(b->start, b->end) || !seq_before(b->start, s->snd_nxt))
		return false;
	return seq_after(b->start, s->snd_una) || (duplicate && duplicate_valid(s, f, b));
}

// The first block repeats what was acknowledged, or lies in the second one (RFC 2883 section 4).
static bool is_duplicate(const struct tcp_arrival *a)
{
	const struct tcp_sack_block *b = a->options.sacks;

	if (seq_before(b[0].start, a->ack))
		return true;
	return a->options.sack_count > 1 && !seq_after(b[0].end, b[1].end) && !seq_before(b[0].start, b[1].start);
}

static void take_duplicate(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f, struct ack_event *e)
{
	const struct tcp_sack_block *b = e->arrival->options.sacks;
	uint32_t length = b->end - b->start;
	uint32_t segments = 1;

	if (seq_before(b->end, b->start) || length > s->max_window)
		return;
	if (s->mss != 0 && length > s->mss)
		segments = (length + s->mss - 1) / s->mss;
	else if (f->tlp_high_seq != 0 && f->tlp_high_seq == b->end)
		e->dsack_of_probe = true;
	s->dsack_dups += segments;
	tcp_count(tcp, TCP_STAT_DSACK_RECEIVED);
	if (s->dsack_dups > s->total_retrans) // the network duplicated it
		return;
	if (s->reordering_seen && !e->dsack_of_probe)
		s->engine |= TCP_DSACK_SEEN;
	e->dsack = true;
	e->dsack_segments = segments;
	// What is acknowledged has no record any more: count it here.
	if (f->undo_marker != 0 && f->undo_retrans > 0 && !seq_after(b->end, e->prior_una) && seq_after(b->end, f->undo_marker))
		f->undo_retrans = f->undo_retrans > (int32_t)segments ? f->undo_retrans - (int32_t)segments : 0;
}

void sack_check_reordering(struct tcp *tcp, struct tcp_socket *s, uint32_t low)
{
	uint32_t high = flight_high_sacked(s, tcp_flight(tcp, s));
	uint32_t distance = high - low;

	if (!seq_before(low, high) || s->mss == 0)
		return;
	if (distance > s->reordering * s->mss) {
		uint32_t segments = (distance + s->mss - 1) / s->mss;
		s->reordering = segments < tcp->config.max_reordering ? segments : tcp->config.max_reordering;
	}
	if (s->reordering_seen != UINT8_MAX)
		s->reordering_seen++;
}

void sack_note_delivery(struct ack_event *e, const struct tcp_segment *segment)
{
	if (e->newest_sent_ns != 0 && !sent_after(segment->sent_ns, e->newest_sent_ns, segment->end, e->newest_end))
		return;
	e->newest_sent_ns = segment->sent_ns;
	e->newest_end = segment->end;
	e->newest_delivered = segment->delivered;
}

static void note_original(struct tcp_socket *s, struct tcp_flight *f, struct ack_event *e, const struct tcp_segment *segment)
{
	if (seq_before(segment->seq, flight_high_sacked(s, f)) && seq_before(segment->seq, e->original_from))
		e->original_from = segment->seq;
	if (!seq_after(segment->end, f->high_seq))
		e->original_delivered = true;
	if (e->first_sacked_ns == 0)
		e->first_sacked_ns = segment->sent_ns;
	e->last_sacked_ns = segment->sent_ns;
}

static void tag_new(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f, struct ack_event *e, struct tcp_segment *segment)
{
	rack_advance(tcp, s, segment);
	sack_note_delivery(e, segment);
	if (!(segment->flags & (SEGMENT_RETRANSMITTED | SEGMENT_EVER_RETRANSMITTED)))
		note_original(s, f, e, segment);
	if (segment->flags & SEGMENT_LOST) {
		segment->flags &= (uint8_t)~SEGMENT_LOST;
		f->lost_out -= segment->count;
		if (segment->flags & SEGMENT_RETRANSMITTED) {
			segment->flags &= (uint8_t)~SEGMENT_RETRANSMITTED;
			f->retrans_out -= segment->count;
		}
	}
	segment->flags |= SEGMENT_SACKED;
	f->sacked_out += segment->count;
	s->delivered += segment->count;
	e->sacked = true;
	if (seq_after(segment->end, f->high_sacked))
		f->high_sacked = segment->end;
}

static void tag(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f, struct ack_event *e, struct tcp_segment *segment, bool duplicate)
{
	if (duplicate && (segment->flags & (SEGMENT_RETRANSMITTED | SEGMENT_EVER_RETRANSMITTED))) {
		if (f->undo_marker != 0 && f->undo_retrans > 0 && seq_after(segment->end, f->undo_marker))
			f->undo_retrans = f->undo_retrans > segment->count ? f->undo_retrans - segment->count : 0;
		if ((segment->flags & SEGMENT_SACKED) && seq_before(segment->seq, e->original_from))
			e->original_from = segment->seq;
	}
	if (!seq_after(segment->end, s->snd_una)) // acknowledged by the same ACK: its record goes anyway
		return;
	if (!(segment->flags & SEGMENT_SACKED))
		tag_new(tcp, s, f, e, segment);
	// Both copies arrived: no retransmission is in flight any more.
	if (duplicate && (segment->flags & SEGMENT_RETRANSMITTED)) {
		segment->flags &= (uint8_t)~SEGMENT_RETRANSMITTED;
		f->retrans_out -= segment->count;
	}
}

// Does the block cover the record?  Cut it where it covers a part, at the edges of its segments; a part of a
// segment counts as nothing.  False: not covered (the rest of a cut record comes next).
static bool cover(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, const struct tcp_sack_block *b)
{
	uint32_t mss = segment->mss != 0 ? segment->mss : s->mss;
	uint32_t cut;

	if (!seq_after(b->start, segment->seq) && !seq_before(b->end, segment->end))
		return true;
	if (segment->count < 2 || mss == 0)
		return false;
	if (seq_after(b->start, segment->seq)) {
		cut = (b->start - segment->seq + mss - 1) / mss * mss;
		if (cut < segment->end - segment->seq)
			(void)segment_split(tcp, s, segment, segment->seq + cut);
		return false;
	}
	cut = (b->end - segment->seq) / mss * mss;
	return cut != 0 && segment_split(tcp, s, segment, segment->seq + cut);
}

// Join a SACKed record to the one before it, which is alike.  Counters stay as they were.
static struct tcp_segment *join(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f, struct tcp_segment *segment)
{
	const uint8_t significant = SEGMENT_SACKED | SEGMENT_LOST | SEGMENT_RETRANSMITTED | SEGMENT_EVER_RETRANSMITTED | SEGMENT_SYN;
	struct tcp_segment *before = segment_at(tcp, segment->previous);

	if (before == NULL || ((before->flags ^ segment->flags) & significant) || before->mss != segment->mss || before->mss == 0 ||
	    (before->flags & (SEGMENT_SYN | SEGMENT_FIN)) || before->end_of_record || (segment->flags & SEGMENT_FIN) ||
	    (before->end - before->seq) % before->mss != 0 || before->count + segment->count > UINT16_MAX)
		return segment;
	struct tcp_segment copy = *segment;
	segment_drop(tcp, s, segment);
	f->packets_out += copy.count;
	f->sacked_out += copy.count;
	if (copy.flags & SEGMENT_RETRANSMITTED)
		f->retrans_out += copy.count;
	before->end = copy.end;
	before->count = (uint16_t)(before->count + copy.count);
	before->flags |= copy.flags & SEGMENT_PUSH;
	before->end_of_record = copy.end_of_record;
	if (sent_after(copy.sent_ns, before->sent_ns, copy.end, before->end)) {
		before->sent_ns = copy.sent_ns;
		before->delivered = copy.delivered;
	}
	return before;
}

static void walk(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f, struct ack_event *e, const struct sack_list *list,
	const struct tcp_sack_block *duplicate)
{
	uint32_t next = 0;
	struct tcp_segment *segment = segment_at(tcp, f->segment_head);

	while (segment != NULL && next < list->count) {
		const struct tcp_sack_block *b = &list->blocks[next];
		if (!seq_after(b->end, segment->seq)) {
			next++;
			continue;
		}
		if (seq_before(b->start, segment->end)) {
			bool again = duplicate != NULL && b->start == duplicate->start && b->end == duplicate->end;
			bool waits = !(segment->flags & SEGMENT_SACKED) && seq_after(segment->end, s->snd_una);
			if ((again || waits) && cover(tcp, s, segment, b)) {
				tag(tcp, s, f, e, segment, again);
				if (seq_after(segment->end, s->snd_una))
					segment = join(tcp, s, f, segment);
			}
		}
		segment = segment_at(tcp, segment->next);
	}
}

// Those that are valid, by sequence; at most four, so that any sort will do.
// A D-SACK may tell of what this ACK acknowledges too, whose records are still there.
static void collect(const struct tcp_socket *s, const struct tcp_flight *f, const struct ack_event *e, struct sack_list *list)
{
	const struct tcp_options *options = &e->arrival->options;

	for (uint32_t i = 0; i < options->sack_count && i < TCP_SACK_BLOCKS; i++) {
		const struct tcp_sack_block *b = &options->sacks[i];
		uint32_t at = list->count;
		if (!block_valid(s, f, b, i == 0 && list->duplicate_first) || !seq_after(b->end, e->prior_una))
			continue;
		for (; at > 0 && seq_before(b->start, list->blocks[at - 1].start); at--)
			list->blocks[at] = list->blocks[at - 1];
		list->blocks[at] = *b;
		list->count++;
	}
}

void sack_take(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	struct sack_list list = {.count = 0};

	if (f->sacked_out == 0)
		f->high_sacked = s->snd_una;
	list.duplicate_first = is_duplicate(e->arrival);
	if (list.duplicate_first)
		take_duplicate(tcp, s, f, e);
	if (seq_before(e->arrival->ack, e->prior_una - s->max_window))
		return;
	if (f->packets_out != 0) {
		collect(s, f, e, &list);
		walk(tcp, s, f, e, &list, list.duplicate_first ? &e->arrival->options.sacks[0] : NULL);
	}
	s->delivered += e->dsack_segments;
	if (s->recovery != TCP_RECOVERY_LOSS || f->undo_marker != 0)
		sack_check_reordering(tcp, s, e->original_from);
}

bool sack_emulation_limit(struct tcp_flight *f)
{
	uint32_t holes = f->lost_out > 1 ? f->lost_out : 1;

	if (holes > f->packets_out)
		holes = f->packets_out;
	if (f->sacked_out + holes <= f->packets_out)
		return false;
	f->sacked_out = f->packets_out - holes;
	return true;
}

// More duplicates than segments can have left: they were reordered.
static void emulation_reordering(const struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f, uint32_t acked)
{
	if (!sack_emulation_limit(f))
		return;
	uint32_t segments = f->packets_out + acked;
	s->reordering = segments < tcp->config.max_reordering ? segments : tcp->config.max_reordering;
	if (s->reordering_seen != UINT8_MAX)
		s->reordering_seen++;
}

void sack_emulate_duplicates(struct tcp *tcp, struct tcp_socket *s, uint32_t duplicates)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t before = f->sacked_out;

	if (duplicates == 0)
		return;
	f->sacked_out += duplicates;
	emulation_reordering(tcp, s, f, 0);
	if (f->sacked_out > before)
		s->delivered += f->sacked_out - before;
}

// One of the segments filled the hole, the others had been told by duplicate ACKs.
void sack_emulate_progress(struct tcp *tcp, struct tcp_socket *s, uint32_t acked)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (acked > 0) {
		s->delivered += acked > f->sacked_out + 1 ? acked - f->sacked_out : 1;
		f->sacked_out -= acked - 1 < f->sacked_out ? acked - 1 : f->sacked_out;
	}
	emulation_reordering(tcp, s, f, acked);
}
