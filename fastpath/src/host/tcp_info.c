// TCP_INFO: the state of a connection in the words of Linux.
//
// Not measured: delivery rate, pacing, segments with data (all zero).
#include "host/tcp_info.h"

#include "host/tcp_internal.h"

enum { TIMESTAMP_BYTES = 12 }; // with padding

// enum tcp_state -> TCP_ESTABLISHED .. TCP_CLOSING of Linux.
static const uint8_t linux_states[] = {
	[TCP_STATE_CLOSED] = 7, [TCP_STATE_LISTEN] = 10, [TCP_STATE_SYN_SENT] = 2, [TCP_STATE_SYN_RECEIVED] = 3,
	[TCP_STATE_ESTABLISHED] = 1, [TCP_STATE_FIN_WAIT_1] = 4, [TCP_STATE_FIN_WAIT_2] = 5, [TCP_STATE_CLOSE_WAIT] = 8,
	[TCP_STATE_CLOSING] = 11, [TCP_STATE_LAST_ACK] = 9, [TCP_STATE_TIME_WAIT] = 6,
};

static uint8_t info_options(const struct tcp_socket *s)
{
	return (uint8_t)((s->flags & TCP_TIMESTAMPS ? INFO_TIMESTAMPS : 0) | (s->flags & TCP_SACK_OK ? INFO_SACK : 0) |
		(s->flags & TCP_WINDOW_SCALING ? INFO_WSCALE : 0) | (s->flags & TCP_ECN_OK ? INFO_ECN : 0) |
		(s->flags & TCP_ECN_SEEN ? INFO_ECN_SEEN : 0));
}

static uint64_t bytes_in_flight(const struct tcp_socket *s)
{
	uint32_t first = s->snd_una == s->iss ? s->snd_una + 1 : s->snd_una;
	uint32_t end = s->flags & TCP_FIN_SENT ? s->write_seq : s->snd_nxt;
	return seq_before(first, end) ? end - first : 0;
}

static void fill_path(const struct tcp *tcp, const struct tcp_socket *s, struct tcp_info_record *info)
{
	uint32_t now = tcp_now_ms(tcp);
	info->rto = (uint32_t)(tcp_rto_ns(tcp, s) / 1000);
	info->ato = s->ack_timeout_us;
	info->snd_mss = s->mss;
	info->rcv_mss = s->received_mss;
	info->last_data_sent = now - s->last_sent_ms;
	info->last_data_recv = now - s->last_received_ms;
	info->last_ack_recv = now - s->last_ack_received_ms;
	info->pmtu = s->pmtu;
	// What the peer's segments can carry beside the options of each, as Linux counts it.
	info->advmss = (uint32_t)s->advertised_mss - (s->flags & TCP_TIMESTAMPS && tcp_synchronized(s) ? TIMESTAMP_BYTES : 0);
	info->rcv_ssthresh = s->rcv_ssthresh;
	info->rcv_rtt = s->rcv_rtt_us;
	info->rcv_space = s->rcv_space;
	info->rcv_wnd = s->rcv_wnd;
	info->snd_wnd = s->snd_wnd;
	info->rtt = s->srtt_us / 8;
	info->rttvar = s->mdev_us / 4;
	info->min_rtt = s->min_rtt_us;
	info->snd_ssthresh = s->ssthresh;
	info->snd_cwnd = s->cwnd;
	info->reordering = s->reordering;
}

void tcp_info_fill(const struct tcp *tcp, const struct tcp_socket *s, struct tcp_info_record *info)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	*info = (struct tcp_info_record){
		.state = linux_states[s->state],
		.pacing_rate = UINT64_MAX,
		.max_pacing_rate = UINT64_MAX,
	};
	if (s->state == TCP_STATE_LISTEN) {
		info->unacked = s->role.listener.accept_count;
		info->sacked = s->role.listener.backlog;
		return;
	}
	info->ca_state = s->recovery;
	info->retransmits = s->retransmits;
	info->probes = s->probes_out;
	info->backoff = s->backoff;
	info->options = info_options(s);
	info->wscales = (uint8_t)(s->snd_wscale | s->rcv_wscale << 4);
	info->unacked = f->packets_out;
	info->sacked = f->sacked_out;
	info->lost = f->lost_out;
	info->retrans = f->retrans_out;
	info->total_retrans = s->total_retrans;
	info->bytes_acked = s->bytes_sent - s->bytes_retrans - bytes_in_flight(s);
	limit_times(tcp, s, &info->busy_time, &info->rwnd_limited, &info->sndbuf_limited);
	info->bytes_received = s->bytes_received;
	info->segs_out = s->segments_out;
	info->segs_in = s->segments_in;
	info->notsent_bytes = seq_before(s->snd_nxt, s->write_seq) ? s->write_seq - s->snd_nxt : 0;
	info->delivered = s->delivered;
	info->bytes_sent = s->bytes_sent;
	info->bytes_retrans = s->bytes_retrans;
	info->dsack_dups = s->dsack_dups;
	info->reord_seen = s->reordering_seen;
	info->rcv_ooopack = s->ooo_packets;
	fill_path(tcp, s, info);
}
