// Settings that a script's commands change: a file of lines NAME=VALUE, of which the last counts.
//
// The stand-ins for sysctl, ip, tc and ethtool (bin/) append to it, in processes of their own, so
// it is looked at whenever packetdrill calls.  Names are those of sysctl; besides there are
// route.mtu, route.initcwnd, tc.qdisc and tc.limit (the device's queue, packets it holds), ethtool.tso.
// Names that the stack has no counterpart for are passed over.
#include "pd_so.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum knob_kind { KNOB_U32, KNOB_U8, KNOB_MS_TO_US };

struct knob {
	const char *name;
	enum knob_kind kind;
	size_t offset;
};

#define FIELD(name) offsetof(struct host_config, name)

static const struct knob knobs[] = {
	{"net.core.somaxconn", KNOB_U32, FIELD(somaxconn)},
	{"net.ipv4.tcp_abort_on_overflow", KNOB_U8, FIELD(abort_on_overflow)},
	{"net.ipv4.tcp_base_mss", KNOB_U32, FIELD(base_mss)},
	{"net.ipv4.tcp_challenge_ack_limit", KNOB_U32, FIELD(challenge_limit)},
	{"net.ipv4.tcp_dsack", KNOB_U8, FIELD(dsack)},
	{"net.ipv4.tcp_early_retrans", KNOB_U8, FIELD(tail_loss_probe)},
	{"net.ipv4.tcp_ecn", KNOB_U8, FIELD(ecn)},
	{"net.ipv4.tcp_ecn_fallback", KNOB_U8, FIELD(ecn_fallback)},
	{"net.ipv4.tcp_fin_timeout", KNOB_U32, FIELD(fin_timeout_s)},
	{"net.ipv4.tcp_frto", KNOB_U8, FIELD(frto)},
	{"net.ipv4.tcp_invalid_ratelimit", KNOB_U32, FIELD(stray_interval_ms)},
	{"net.ipv4.tcp_keepalive_intvl", KNOB_U32, FIELD(keep_interval_s)},
	{"net.ipv4.tcp_keepalive_probes", KNOB_U32, FIELD(keep_count)},
	{"net.ipv4.tcp_keepalive_time", KNOB_U32, FIELD(keep_idle_s)},
	{"net.ipv4.tcp_limit_output_bytes", KNOB_U32, FIELD(limit_output_bytes)},
	{"net.ipv4.tcp_max_orphans", KNOB_U32, FIELD(max_orphans)},
	{"net.ipv4.tcp_max_reordering", KNOB_U32, FIELD(max_reordering)},
	{"net.ipv4.tcp_max_syn_backlog", KNOB_U32, FIELD(max_backlog)},
	{"net.ipv4.tcp_min_snd_mss", KNOB_U32, FIELD(min_send_mss)},
	{"net.ipv4.tcp_min_tso_segs", KNOB_U32, FIELD(min_tso_segments)},
	{"net.ipv4.tcp_moderate_rcvbuf", KNOB_U8, FIELD(moderate_rcvbuf)},
	{"net.ipv4.tcp_mtu_probing", KNOB_U8, FIELD(mtu_probing)},
	{"net.ipv4.ip_no_pmtu_disc", KNOB_U8, FIELD(tcp_pmtu_disabled)},
	{"net.ipv4.tcp_notsent_lowat", KNOB_U32, FIELD(notsent_lowat)},
	{"net.ipv4.tcp_orphan_retries", KNOB_U32, FIELD(orphan_retries)},
	{"net.ipv4.tcp_probe_interval", KNOB_U32, FIELD(probe_interval_s)},
	{"net.ipv4.tcp_recovery", KNOB_U8, FIELD(rack)},
	{"net.ipv4.tcp_reordering", KNOB_U32, FIELD(reordering)},
	{"net.ipv4.tcp_retries1", KNOB_U32, FIELD(retries1)},
	{"net.ipv4.tcp_retries2", KNOB_U32, FIELD(retries2)},
	{"net.ipv4.tcp_rfc1337", KNOB_U8, FIELD(rfc1337)},
	{"net.ipv4.tcp_rto_min_us", KNOB_U32, FIELD(min_rto_us)},
	{"net.ipv4.tcp_rto_max_ms", KNOB_MS_TO_US, FIELD(max_rto_us)},
	{"net.ipv4.tcp_sack", KNOB_U8, FIELD(sack)},
	{"net.ipv4.tcp_slow_start_after_idle", KNOB_U8, FIELD(slow_start_after_idle)},
	{"net.ipv4.tcp_syn_linear_timeouts", KNOB_U8, FIELD(linear_syn_timeouts)},
	{"net.ipv4.tcp_syn_retries", KNOB_U32, FIELD(syn_retries)},
	{"net.ipv4.tcp_synack_retries", KNOB_U32, FIELD(synack_retries)},
	{"net.ipv4.tcp_syncookies", KNOB_U8, FIELD(syn_cookies)},
	{"net.ipv4.tcp_timestamps", KNOB_U8, FIELD(timestamps)},
	{"net.ipv4.tcp_tso_win_divisor", KNOB_U8, FIELD(tso_win_divisor)},
	{"net.ipv4.tcp_tw_reuse", KNOB_U8, FIELD(timewait_reuse)},
	{"net.ipv4.tcp_window_scaling", KNOB_U8, FIELD(window_scaling)},
	{"route.initcwnd", KNOB_U32, FIELD(initial_cwnd)},
};

static void set_number(struct host_config *config, const struct knob *knob, uint32_t value)
{
	uint8_t *field = (uint8_t *)config + knob->offset;
	uint8_t small = (uint8_t)value;
	if (knob->kind == KNOB_MS_TO_US)
		value *= 1000;
	if (knob->kind == KNOB_U8)
		memcpy(field, &small, sizeof(small));
	else
		memcpy(field, &value, sizeof(value));
}

// net.ipv4.tcp_rmem and tcp_wmem: least, default, most.
static void set_memory(const char *value, uint32_t *initial, uint32_t *most)
{
	char *end;
	(void)strtoul(value, &end, 10);
	*initial = (uint32_t)strtoul(end, &end, 10);
	*most = (uint32_t)strtoul(end, &end, 10);
}

static void set_device(struct pd_world *w, const char *name, const char *value)
{
	if (strcmp(name, "route.mtu") == 0)
		w->mtu = (uint32_t)strtoul(value, NULL, 10);
	else if (strcmp(name, "tc.limit") == 0)
		w->congested = strtoul(value, NULL, 10) == 0;
	else if (strcmp(name, "tc.qdisc") == 0)
		w->paced = strcmp(value, "fq") == 0;
	else if (strcmp(name, "ethtool.tso") == 0)
		w->split = strcmp(value, "off") == 0;
}

static void set_knob(struct pd_world *w, struct host_config *config, const char *name, const char *value)
{
	for (size_t i = 0; i < sizeof(knobs) / sizeof(knobs[0]); i++) {
		if (strcmp(name, knobs[i].name) == 0) {
			set_number(config, &knobs[i], (uint32_t)strtoul(value, NULL, 10));
			return;
		}
	}
	if (strcmp(name, "net.ipv4.tcp_rmem") == 0)
		set_memory(value, &config->rmem_default, &config->rmem_max);
	else if (strcmp(name, "net.ipv4.tcp_wmem") == 0)
		set_memory(value, &config->wmem_default, &config->wmem_max);
	else if (strcmp(name, "net.ipv4.tcp_congestion_control") == 0)
		config->congestion = strcmp(value, "reno") == 0 ? TCP_RENO : TCP_CUBIC;
	else
		set_device(w, name, value);
}

static void read_knobs(struct pd_world *w, FILE *file)
{
	struct host_config config;
	char line[512];
	host_config_default(&config);
	config.hystart = HOST_HYSTART_ONCE; // what the scripts pin is older than RFC 9406
	w->mtu = w->device_mtu;
	w->congested = false;
	w->paced = false;
	w->split = false;
	while (fgets(line, sizeof(line), file) != NULL) {
		char *value = strchr(line, '=');
		line[strcspn(line, "\n")] = '\0';
		if (value == NULL)
			continue;
		*value++ = '\0';
		set_knob(w, &config, line, value);
	}
	host_configure(w->host, &config);
}

void pd_knobs_refresh(struct pd_world *w)
{
	struct stat now;
	if (w->knobs_path == NULL || stat(w->knobs_path, &now) < 0)
		return;
	// The file only grows while a script runs.
	if (now.st_size == w->knobs_size)
		return;
	w->knobs_size = now.st_size;
	FILE *file = fopen(w->knobs_path, "r");
	if (file == NULL)
		pd_give_up("%s cannot be read", w->knobs_path);
	read_knobs(w, file);
	fclose(file);
}
