// Pools of TCP: blocks of bytes, records of what was sent, ranges beyond gaps, flights.
//
// Each is one zeroed piece of memory that is asked for once, when the first TCP socket of the VR is
// made.  A number that was never given out lies on a page that was never touched and costs nothing:
// free lists hold only what was used before, and last in is first out.
#include "host/tcp_internal.h"

#include <stdlib.h>

bool memory_open(struct tcp *tcp)
{
	if (tcp->heap != NULL)
		return true;
	tcp->flights = calloc(MAX_TCP_SOCKETS + 1, sizeof(*tcp->flights));
	tcp->segments = calloc(TCP_MAX_SEGMENTS, sizeof(*tcp->segments));
	tcp->ranges = calloc(TCP_MAX_RANGES, sizeof(*tcp->ranges));
	tcp->block_data = calloc(tcp->config.memory_blocks, TCP_BLOCK);
	tcp->block_next = calloc(tcp->config.memory_blocks, sizeof(*tcp->block_next));
	tcp->keys = tcp->host->state->tcp_keys;
	tcp->heap = calloc(MAX_TCP_SOCKETS + MAX_TCP_REQUESTS, sizeof(*tcp->heap));
	if (tcp->flights != NULL && tcp->segments != NULL && tcp->ranges != NULL && tcp->block_data != NULL && tcp->block_next != NULL &&
	    tcp->heap != NULL)
		return true;
	memory_close(tcp);
	return false;
}

void memory_close(struct tcp *tcp)
{
	free(tcp->flights);
	free(tcp->segments);
	free(tcp->ranges);
	free(tcp->block_data);
	free(tcp->block_next);
	free(tcp->heap);
	tcp->flights = NULL;
	tcp->segments = NULL;
	tcp->ranges = NULL;
	tcp->block_data = NULL;
	tcp->block_next = NULL;
	tcp->keys = NULL;
	tcp->heap = NULL;
}

uint32_t block_new(struct tcp *tcp)
{
	uint32_t block = tcp->block_free;
	if (block != 0)
		tcp->block_free = tcp->block_next[block - 1];
	else if (tcp->block_used < tcp->config.memory_blocks)
		block = ++tcp->block_used;
	else
		return 0;
	tcp->block_next[block - 1] = 0;
	tcp->block_count++;
	return block;
}

void block_free(struct tcp *tcp, uint32_t block)
{
	uint32_t *list = tcp->lending ? &tcp->block_lent : &tcp->block_free;
	if (tcp->lending && *list == 0)
		tcp->block_lent_last = block;
	tcp->block_next[block - 1] = *list;
	*list = block;
	tcp->block_count--;
}

void tcp_sent(struct tcp *tcp)
{
	tcp->lending = false;
	if (tcp->block_lent == 0)
		return;
	tcp->block_next[tcp->block_lent_last - 1] = tcp->block_free;
	tcp->block_free = tcp->block_lent;
	tcp->block_lent = 0;
}

bool tcp_memory_pressure(const struct tcp *tcp)
{
	return tcp->block_count >= tcp->config.memory_blocks - tcp->config.memory_blocks / 8;
}

uint32_t segment_new(struct tcp *tcp)
{
	uint32_t segment = tcp->segment_free;
	if (segment != 0)
		tcp->segment_free = tcp->segments[segment - 1].next;
	else if (tcp->segment_used < TCP_MAX_SEGMENTS)
		segment = ++tcp->segment_used;
	else
		return 0;
	memset(&tcp->segments[segment - 1], 0, sizeof(tcp->segments[0]));
	return segment;
}

void segment_free(struct tcp *tcp, uint32_t segment)
{
	tcp->segments[segment - 1].next = tcp->segment_free;
	tcp->segment_free = segment;
}

uint32_t range_new(struct tcp *tcp)
{
	uint32_t range = tcp->range_free;
	if (range != 0)
		tcp->range_free = tcp->ranges[range - 1].next;
	else if (tcp->range_used < TCP_MAX_RANGES)
		range = ++tcp->range_used;
	else
		return 0;
	memset(&tcp->ranges[range - 1], 0, sizeof(tcp->ranges[0]));
	return range;
}

void range_free(struct tcp *tcp, uint32_t range)
{
	tcp->ranges[range - 1].next = tcp->range_free;
	tcp->range_free = range;
}

// --- flights: their numbers begin at 1, and are the index ---

struct tcp_flight *tcp_flight_hold(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->flight != 0)
		return &tcp->flights[s->flight];
	uint32_t number = tcp->flight_free;
	if (number != 0)
		tcp->flight_free = tcp->flights[number].free_next;
	else if (tcp->flight_used < MAX_TCP_SOCKETS)
		number = ++tcp->flight_used;
	else
		return NULL;
	struct tcp_flight *f = &tcp->flights[number];
	memset(f, 0, sizeof(*f));
	// Nothing is queued: the next byte of the app is the first one.
	f->snd_data_seq = s->write_seq;
	f->pushed_seq = s->write_seq;
	f->snd_sml = s->snd_una;
	f->high_seq = s->snd_nxt;
	f->high_sacked = s->snd_una;
	f->cwnd_used_seq = s->snd_una;
	s->flight = number;
	return f;
}

// A SYN or FIN of ours that waits to be sent or acknowledged.
static bool control_waits(const struct tcp_socket *s, const struct tcp_flight *f)
{
	if (f->syn_queued && (s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED))
		return true;
	return f->fin_queued && s->state != TCP_STATE_CLOSED && !((s->flags & TCP_FIN_SENT) && s->snd_una == s->snd_nxt);
}

void tcp_flight_release(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->flight == 0)
		return;
	struct tcp_flight *f = &tcp->flights[s->flight];
	if (f->snd_block_head != 0 || f->snd_reserved_block != 0 || f->segment_head != 0 || f->packets != NULL || f->rcv_block_head != 0 ||
	    f->range_head != 0 || f->duplicate_start != f->duplicate_end || f->tlp_high_seq != 0 || control_waits(s, f))
		return;
	if (s->recovery != TCP_RECOVERY_OPEN && s->state != TCP_STATE_CLOSED)
		return;
	limit_stop(tcp, s, TCP_LIMIT_BUSY);
	f->free_next = tcp->flight_free;
	tcp->flight_free = s->flight;
	s->flight = 0;
}
