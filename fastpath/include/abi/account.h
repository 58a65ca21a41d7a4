// Who uses a VR's sockets, as its forwarder keeps books: what each identity has, has done and was denied.
//
// An identity is a local user, or the CURVE key of a remote app.  The group that let a user in is
// not part of it: quotas count for the user.
#ifndef ABI_ACCOUNT_H
#define ABI_ACCOUNT_H

#include <stdint.h>
#include "abi/limits.h"

// What was denied: by a rule, up to DENIAL_IDENTITY; then by a quota.
enum denial {
	DENIAL_OPEN, DENIAL_BIND, DENIAL_LISTEN, DENIAL_ACCEPT, DENIAL_CONNECT, DENIAL_SEND, DENIAL_MULTICAST,
	DENIAL_IDENTITY, // somebody who is no relay asked in the name of a key
	DENIAL_SOCKETS, DENIAL_OPEN_RATE, DENIAL_ACCEPT_RATE, DENIAL_BYTE_RATE, DENIAL_MEMORY,
	DENIAL_CONNECTIONS, // to vr/NAME.sock
	DENIAL_MALFORMED,   // what is no request: the connection is closed
	DENIAL_COUNT
};

struct account {
	uint32_t identity;      // enum rule_identity: RULE_UID or RULE_CURVE; 0: free
	uint32_t uid;           // of a remote app: the relay's
	uint8_t curve_key[32];
	uint32_t datagrams;     // sockets of each kind, now
	uint32_t streams;
	uint32_t connections;   // to vr/NAME.sock, now
	uint32_t reserved;
	uint64_t memory;        // bytes of its sockets' buffers, now
	uint64_t opens;         // sockets ever opened
	uint64_t accepts;       // connections ever accepted
	uint64_t rests;         // how often it took more than its share, and had to wait
	uint64_t open_at;       // GCRA (ITU-T I.371) of each rate: when the next one would be due, ns
	uint64_t accept_at;
	uint64_t byte_at;
	uint64_t used_ns;       // last request
	uint64_t told_ns;       // last denial that control was told of
	uint64_t untold;        // denials since then
	uint64_t denials[DENIAL_COUNT];
};

// How long the forwarder worked on the requests of one kind.  Bucket 0 is
// below CALL_FIRST_NS; then there are four for each power of two, and the last one has no end.
enum { CALL_OPS = 32, CALL_BUCKETS = 80, CALL_FIRST_NS = 256 };

struct call_times {
	uint64_t count;
	uint64_t total_ns;
	uint32_t buckets[CALL_BUCKETS];
};

#endif
