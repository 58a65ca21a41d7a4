// What TCP_INFO answers: Linux's struct tcp_info of 6.x, whose later members older kernel headers
// lack.  Programs ask for as much of it as they know.
#ifndef HOST_TCP_INFO_H
#define HOST_TCP_INFO_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum tcp_info_options { INFO_TIMESTAMPS = 1, INFO_SACK = 2, INFO_WSCALE = 4, INFO_ECN = 8, INFO_ECN_SEEN = 16 };

struct tcp_info_record {
	uint8_t state;
	uint8_t ca_state;
	uint8_t retransmits;
	uint8_t probes;
	uint8_t backoff;
	uint8_t options;              // enum tcp_info_options
	uint8_t wscales;              // ours to send in the low half, to receive in the high half
	uint8_t limits;
	uint32_t rto;                 // us
	uint32_t ato;                 // us
	uint32_t snd_mss;
	uint32_t rcv_mss;
	uint32_t unacked;             // segments
	uint32_t sacked;
	uint32_t lost;
	uint32_t retrans;
	uint32_t fackets;
	uint32_t last_data_sent;      // ms ago
	uint32_t last_ack_sent;
	uint32_t last_data_recv;
	uint32_t last_ack_recv;
	uint32_t pmtu;
	uint32_t rcv_ssthresh;
	uint32_t rtt;                 // us
	uint32_t rttvar;              // us
	uint32_t snd_ssthresh;
	uint32_t snd_cwnd;
	uint32_t advmss;
	uint32_t reordering;
	uint32_t rcv_rtt;             // us
	uint32_t rcv_space;
	uint32_t total_retrans;
	uint64_t pacing_rate;
	uint64_t max_pacing_rate;
	uint64_t bytes_acked;
	uint64_t bytes_received;
	uint32_t segs_out;
	uint32_t segs_in;
	uint32_t notsent_bytes;
	uint32_t min_rtt;             // us
	uint32_t data_segs_in;
	uint32_t data_segs_out;
	uint64_t delivery_rate;
	uint64_t busy_time;           // us
	uint64_t rwnd_limited;        // us
	uint64_t sndbuf_limited;      // us
	uint32_t delivered;
	uint32_t delivered_ce;
	uint64_t bytes_sent;
	uint64_t bytes_retrans;
	uint32_t dsack_dups;
	uint32_t reord_seen;
	uint32_t rcv_ooopack;
	uint32_t snd_wnd;
	uint32_t rcv_wnd;
	uint32_t rehash;
	uint16_t total_rto;
	uint16_t total_rto_recoveries;
	uint32_t total_rto_time;
};

static_assert(offsetof(struct tcp_info_record, rto) == 8, "tcp_info");
static_assert(offsetof(struct tcp_info_record, unacked) == 24, "tcp_info");
static_assert(offsetof(struct tcp_info_record, pmtu) == 60, "tcp_info");
static_assert(offsetof(struct tcp_info_record, total_retrans) == 100, "tcp_info");
static_assert(offsetof(struct tcp_info_record, pacing_rate) == 104, "tcp_info");
static_assert(offsetof(struct tcp_info_record, delivery_rate) == 160, "tcp_info");
static_assert(offsetof(struct tcp_info_record, bytes_sent) == 200, "tcp_info");
static_assert(offsetof(struct tcp_info_record, total_rto) == 240, "tcp_info");
static_assert(sizeof(struct tcp_info_record) == 248, "tcp_info");

struct tcp;
struct tcp_socket;
void tcp_info_fill(const struct tcp *tcp, const struct tcp_socket *s, struct tcp_info_record *info);

#endif
