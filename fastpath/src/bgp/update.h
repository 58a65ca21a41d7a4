// One UPDATE while it is read: what message.c, canonical.c and enter.c share.
#ifndef BGP_UPDATE_H
#define BGP_UPDATE_H

#include "bgp/internal.h"

struct raw {
	const uint8_t *whole;      // from its flags on; NULL: not there
	const uint8_t *value;
	uint32_t size;
	uint8_t flags;
};

struct section {
	const uint8_t *data;
	uint32_t size;
	uint32_t f;
	bool add_path;
};

enum outcome { OUTCOME_NONE, OUTCOME_WITHDRAW };

struct update {
	struct bgp_table *t;
	struct peer *peer;
	struct raw raws[256];
	uint8_t order[256];        // types as they came
	uint32_t raw_count;
	bool present[256];         // and sound
	enum outcome outcome;
	struct section withdrawn[2], announced[2];
	struct next_hop_key hops[2];
	// Of the NOTIFICATION, when the session has to be reset.
	uint8_t code, subcode;
	const uint8_t *data;
	uint32_t data_size;
};

// Its routes count as withdrawn, for what is wrong with an attribute (0: the message as a whole).
static inline void update_withdraw(struct update *u, uint8_t type)
{
	u->outcome = OUTCOME_WITHDRAW;
	u->peer->errors[BGP_WITHDRAWN][type]++;
}

static inline bool update_external(const struct update *u)
{
	return u->peer->settings.kind == BGP_EXTERNAL;
}

// canonical.c
// The Optional and Transitive bits of a known type; 0: unknown.
uint8_t attribute_flags_of(uint8_t type);
// Write the canonical form; its size, UINT32_MAX: too large.
uint32_t update_compose(struct update *u, uint8_t *out);

// enter.c
int update_enter(struct update *u);
void update_leave(struct update *u, const struct section *s);

#endif
