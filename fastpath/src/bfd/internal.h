// What the files of the BFD column share; nobody else includes it.
#ifndef BFD_INTERNAL_H
#define BFD_INTERNAL_H

#include <string.h>
#include "bfd/bfd.h"

enum {
	CONTROL_SIZE = 24,          // of a control packet without authentication
	CONTROL_ROOM = 64,
	ECHO_SIZE = 28,
	SLOW_US = 1000000,          // RFC 5880 section 6.8.3: at most one packet a second unless up
	SLOT_MASK = MAX_BFD_SESSIONS - 1,
	REMOTE_BUCKETS = 1024
};

#define BFD_NEVER UINT64_MAX

// A control packet, RFC 5880 section 4.1.
struct control {
	uint8_t diagnostic, state;
	bool poll, final, demand, authenticated;
	uint8_t multiplier;
	uint32_t my_discriminator, your_discriminator;
	uint32_t desired_us, required_us, echo_us;
};

struct bfd {
	struct state_segment *state;
	const struct tables_view *tables;
	struct bfd_ops ops;
	uint64_t now;
	bool begun;
	bool followed;              // a table, or that there is none, has been followed
	uint32_t echoing;           // sessions that send echo packets
	uint32_t count;             // sessions
	uint64_t root, epoch;       // of the table that is followed
	uint64_t refused, refused_epoch;
	struct bfd_table *table;    // a copy of it; count 0: none
	struct bfd_table *spare;    // the same, for the next one
	uint16_t entry_of[MAX_BFD_SESSIONS]; // of a slot, + 1; 0: none
	// Slots by the address of the peer: first of a chain, and next in it, + 1.
	uint16_t by_remote[REMOTE_BUCKETS], next[MAX_BFD_SESSIONS];
	// A binary heap of the slots by their deadlines.
	uint64_t deadline[MAX_BFD_SESSIONS];
	uint16_t heap[MAX_BFD_SESSIONS];
	uint16_t place[MAX_BFD_SESSIONS];    // of a slot in the heap, + 1; 0: not in it
	uint32_t heap_count;
};

static inline struct bfd_session *session_at(const struct bfd *bfd, uint32_t slot)
{
	return &bfd->state->bfd[slot];
}

static inline const struct bfd_entry *entry_at(const struct bfd *bfd, uint32_t slot)
{
	return bfd->entry_of[slot] == 0 ? NULL : &bfd->table->entries[bfd->entry_of[slot] - 1];
}

// --- schedule.c: deadlines ---
void schedule_set(struct bfd *bfd, uint32_t slot, uint64_t deadline);
void schedule_remove(struct bfd *bfd, uint32_t slot);
// The slot whose deadline comes first; false without any.
bool schedule_first(const struct bfd *bfd, uint32_t *slot, uint64_t *deadline);

// --- control.c: the bytes of control packets, RFC 5880 section 4 and 6.7 ---
// Read and check what needs no session.
enum drop_reason control_parse(const struct bfd_datagram *datagram, struct control *control);
bool control_authentic(const struct bfd_entry *entry, struct bfd_session *session, const struct bfd_datagram *datagram);
// Write into CONTROL_ROOM bytes; returns the length.
uint32_t control_build(const struct control *control, const struct bfd_entry *entry, const struct bfd_session *session, uint8_t *bytes);
bool authentication_meticulous(uint8_t type);

// --- session.c: the state machine and the timers of one session, RFC 5880 section 6.8 ---
void session_start(struct bfd *bfd, uint32_t slot, const struct bfd_entry *entry);
// The entry may be another one than before.
void session_configure(struct bfd *bfd, uint32_t slot);
// A predecessor's session: time has passed in which nobody listened.
void session_resume(struct bfd *bfd, uint32_t slot);
void session_close(struct bfd *bfd, uint32_t slot);
void session_receive(struct bfd *bfd, uint32_t slot, const struct control *control);
void session_tick(struct bfd *bfd, uint32_t slot);
void session_fail(struct bfd *bfd, uint32_t slot, uint8_t diagnostic);
void session_schedule(struct bfd *bfd, uint32_t slot);
// The part of an interval that is waited for, in nanoseconds: RFC 5880 section 6.8.7.
uint64_t session_jitter(const struct bfd *bfd, uint32_t interval_us, uint8_t multiplier);
// Our address in this session; false: there is none now.
bool session_source(const struct bfd *bfd, const struct bfd_session *session, uint8_t *source);
// Has everything that came before this moment been seen?
bool session_heard(const struct bfd *bfd, uint64_t until);

// --- echo.c: RFC 5880 section 6.4, RFC 5881 section 4 ---
// Whether and how often echo packets are sent may be otherwise now.
void echo_update(struct bfd *bfd, uint32_t slot);
void echo_stop(struct bfd *bfd, uint32_t slot);
void echo_tick(struct bfd *bfd, uint32_t slot);
enum drop_reason echo_receive(struct bfd *bfd, const struct bfd_datagram *datagram);

#endif
