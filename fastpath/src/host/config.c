// The knobs of TCP; their defaults are those of Linux (net.ipv4.tcp_*), but for two: black holes are
// searched for, and a connect may take over a connection in TIME-WAIT by its timestamps.
#include "host/tcp_internal.h"

enum { KIB = 1024, MIB = 1024 * 1024 };

void host_config_default(struct host_config *config)
{
	*config = (struct host_config){
		.rmem_default = 128 * KIB, .rmem_max = 6 * MIB,
		.wmem_default = 16 * KIB, .wmem_max = 4 * MIB,
		.memory_blocks = 256 * MIB / TCP_BLOCK,
		.syn_retries = 6, .synack_retries = 5, .retries1 = 3, .retries2 = 15, .orphan_retries = 0,
		.keep_idle_s = 7200, .keep_interval_s = 75, .keep_count = 9,
		.fin_timeout_s = 60, .timewait_s = 60,
		.min_rto_us = 200000, .max_rto_us = 120000000, .initial_rto_us = 1000000,
		.initial_cwnd = 10,
		.max_backlog = 4096, .somaxconn = 4096, .max_orphans = 16384,
		.challenge_limit = 1000, .stray_interval_ms = 500,
		.reordering = 3, .max_reordering = 300,
		.min_tso_segments = 2,
		.base_mss = 1024, .min_send_mss = 48, .probe_interval_s = 600,
		.limit_output_bytes = 4 * MIB,
		.notsent_lowat = UINT32_MAX,
		.timestamps = 1, .sack = 1, .dsack = 1, .window_scaling = 1,
		.ecn = 2, .ecn_fallback = 1,
		.syn_cookies = 1, .timewait_reuse = 1, .rfc1337 = 0,
		.slow_start_after_idle = 1, .frto = 1, .tail_loss_probe = 1, .rack = 1, .hystart = 1,
		.moderate_rcvbuf = 1, .mtu_probing = 1, .limited_transmit = 1,
		.congestion = TCP_CUBIC, .linear_syn_timeouts = 4, .abort_on_overflow = 0, .tcp_pmtu_disabled = 0,
		.tso_win_divisor = 3,
	};
}

void host_configure(struct host *host, const struct host_config *config)
{
	struct tcp *tcp = host->tcp;
	uint32_t blocks = tcp->config.memory_blocks;
	tcp->config = *config;
	if (tcp->heap != NULL || config->memory_blocks == 0) // they have been made already
		tcp->config.memory_blocks = blocks;
}
