// A host stack for the fuzzers of TCP: virtual time, apps that look at what they get, and peers that send what
// the fuzzer's bytes say, measured against what the connection expects.
//
// The stack is made once for all inputs: at the end of each one everything must have been given back, and what is
// left of its private state is put back as it was, so that an input does the same whenever it runs.
#pragma once

#include "host/tcp_internal.h"

enum {
	WORLD_PORT = 80,            // a listener for everybody, both families
	WORLD_SIGNED_PORT = 179,    // one that wants RFC 2385 of peer number 2
	WORLD_PEERS = 4,
	WORLD_SLOTS = 24,           // sockets at one time; more are refused
	WORLD_MOST = 65536,
};

struct input {
	const uint8_t *at;
	size_t left;
};

static inline uint8_t take8(struct input *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->at++;
}

static inline uint16_t take16(struct input *in)
{
	uint16_t low = take8(in);
	return (uint16_t)(low | take8(in) << 8);
}

static inline uint32_t take32(struct input *in)
{
	uint32_t low = take16(in);
	return low | (uint32_t)take16(in) << 16;
}

// What only grows while a connection lasts.
struct progress {
	uint64_t cookie;
	uint32_t iss, irs;
	uint32_t snd_una, rcv_nxt, copied_seq, edge;
};

// A SYN-ACK: where it leaves no record, nobody else knows its numbers.
struct answer {
	uint8_t local[16], remote[16];
	uint16_t local_port, remote_port;
	uint32_t seq, ack, stamp;
};

struct world {
	struct host *host;
	struct state_segment *state;
	struct tables_view tables;
	struct address_entry addresses[2];
	uint64_t now;
	long packets;               // that the stack holds
	bool verify;                // payloads are the pattern of their sequence numbers
	bool no_packets, no_route;
	bool direct;                // ops.deliver takes bytes
	uint32_t appetite;          // at most so many at once
	uint32_t depth;             // of packets of ours that come back to us
	uint32_t mtu;
	uint32_t listener, signed_listener;
	struct progress progress[WORLD_SLOTS];
	struct answer answer;       // of the last SYN that was answered
	uint8_t scratch[WORLD_MOST];
};

// A segment of a peer, host order; addresses in mapped form.
struct segment {
	uint8_t local[16], remote[16];
	uint16_t local_port, remote_port;
	uint32_t seq, ack;
	uint16_t window;
	uint8_t flags;
	uint8_t ttl, tos;
	uint16_t gso_size;
	uint32_t key;               // to sign with, + 1
	uint32_t option_length;     // a multiple of 4
	uint8_t options[40];
	uint32_t length;            // of the payload: the pattern
};

// `start` says when the clock begins, `knobs` what is configured.
struct world *world_open(uint8_t start, uint16_t knobs);
// Closes everything; `abort` says how.  All must have been given back when that is over.
void world_close(struct world *w, bool abort);
// What must hold between any two events.
void world_check(struct world *w);
// Time passes; `late`: in one leap, else with a tick at every deadline.
void world_advance(struct world *w, uint64_t ns, bool late);
// The end of a batch.
void world_flush(struct world *w);
// An IP packet as it is; `flags` of the virtio_net_hdr.
void world_arrive(struct world *w, const uint8_t *bytes, uint32_t length, uint8_t flags, uint16_t gso_size);
void world_send(struct world *w, const struct segment *segment);
// The address of a peer, or with number 0 ours, in mapped form.
void world_address(bool six, uint8_t number, uint8_t *address);
uint32_t world_socket(struct world *w, uint16_t family);
void world_read(struct world *w, uint32_t slot, uint32_t length, int flags);
void world_write(struct world *w, uint32_t slot, uint32_t length, int flags);
void world_reserve(struct world *w, uint32_t slot, uint32_t length, uint32_t commit, int flags);
// A new connection to a listener, accepted; its slot.
uint32_t world_establish(struct world *w, bool six, uint8_t peer, uint16_t port, uint16_t remote_port, bool plain);

// --- tcp_peer.c: what the fuzzer's bytes make of a peer ---
// A segment of somebody whom the stack knows, or a stranger.
void peer_segment(struct world *w, struct input *in);
// An ICMP error about a segment that was perhaps sent.
void peer_icmp(struct world *w, struct input *in);
void peer_time(struct world *w, struct input *in);
