// The BFD sessions of one VR: which there are, whose a packet is, and whose turn it is.
#include "bfd/internal.h"

#include <stdlib.h>

#include "base/crc32.h"
#include "base/siphash.h"

static uint32_t used(const struct bfd *bfd)
{
	return bfd->state->bfd_used < MAX_BFD_SESSIONS ? (uint32_t)bfd->state->bfd_used : (uint32_t)MAX_BFD_SESSIONS;
}

// --- finding ---

static uint32_t bucket(const struct bfd *bfd, uint8_t family, const uint8_t *remote)
{
	uint8_t input[24] = {family};
	memcpy(input + 8, remote, 16);
	return (uint32_t)siphash24(bfd->state->random_key, input, sizeof(input)) % REMOTE_BUCKETS;
}

static void index_add(struct bfd *bfd, uint32_t slot)
{
	const struct bfd_session *session = session_at(bfd, slot);
	uint16_t *head = &bfd->by_remote[bucket(bfd, session->family, session->remote)];
	bfd->next[slot] = *head;
	*head = (uint16_t)(slot + 1);
	bfd->count++;
}

static void index_remove(struct bfd *bfd, uint32_t slot)
{
	const struct bfd_session *session = session_at(bfd, slot);
	uint16_t *link = &bfd->by_remote[bucket(bfd, session->family, session->remote)];
	while (*link != 0 && *link != slot + 1)
		link = &bfd->next[*link - 1];
	if (*link == 0)
		return;
	*link = bfd->next[slot];
	bfd->count--;
}

static bool is_entry(const struct bfd_session *session, const struct bfd_entry *entry)
{
	return memcmp(session->remote, entry->remote, 16) == 0 && memcmp(session->local, entry->local, 16) == 0 &&
		session->family == entry->family && session->interface == entry->interface &&
		session->flags == (entry->flags & BFD_MULTIHOP);
}

static int find_entry(const struct bfd *bfd, const struct bfd_entry *entry)
{
	for (uint16_t at = bfd->by_remote[bucket(bfd, entry->family, entry->remote)]; at != 0; at = bfd->next[at - 1])
		if (is_entry(session_at(bfd, at - 1u), entry))
			return at - 1;
	return -1;
}

static bool is_peer(const struct bfd_session *session, const struct bfd_datagram *datagram)
{
	static const uint8_t any[16];
	bool multihop = datagram->destination_port == BFD_MULTIHOP_PORT;
	return session->family == datagram->family && memcmp(session->remote, datagram->source, 16) == 0 &&
		(memcmp(session->local, any, 16) == 0 || memcmp(session->local, datagram->destination, 16) == 0) &&
		multihop == ((session->flags & BFD_MULTIHOP) != 0) &&
		(session->interface == 0 || session->interface == datagram->interface);
}

static int find_session(const struct bfd *bfd, const struct bfd_datagram *datagram, uint32_t discriminator)
{
	if (discriminator != 0) {
		uint32_t slot = discriminator & SLOT_MASK;
		const struct bfd_session *session = session_at(bfd, slot);
		return session->discriminator == discriminator && is_peer(session, datagram) ? (int)slot : -1;
	}
	for (uint16_t at = bfd->by_remote[bucket(bfd, datagram->family, datagram->source)]; at != 0; at = bfd->next[at - 1])
		if (is_peer(session_at(bfd, at - 1u), datagram))
			return at - 1;
	return -1;
}

// --- life ---

// What a predecessor left; what it was in the middle of making is nothing.
static void take_over(struct bfd *bfd)
{
	for (uint32_t slot = 0; slot < used(bfd); slot++) {
		struct bfd_session *session = session_at(bfd, slot);
		if (session->discriminator == 0)
			continue;
		if ((session->discriminator & SLOT_MASK) != slot || session->state > BFD_UP || session->state == BFD_ADMIN_DOWN) {
			session->discriminator = 0;
			continue;
		}
		session->echoing = 0;
		index_add(bfd, slot);
	}
}

struct bfd *bfd_new(struct state_segment *state, const struct tables_view *tables, const struct bfd_ops *ops)
{
	struct bfd *bfd = calloc(1, sizeof(*bfd));
	if (bfd == NULL)
		return NULL;
	size_t room = sizeof(struct bfd_table) + MAX_BFD_SESSIONS * sizeof(struct bfd_entry);
	bfd->table = calloc(1, room);
	bfd->spare = calloc(1, room);
	if (bfd->table == NULL || bfd->spare == NULL) {
		bfd_free(bfd);
		return NULL;
	}
	bfd->state = state;
	bfd->tables = tables;
	bfd->ops = *ops;
	take_over(bfd);
	return bfd;
}

void bfd_free(struct bfd *bfd)
{
	if (bfd == NULL)
		return;
	free(bfd->table);
	free(bfd->spare);
	free(bfd);
}

bool bfd_active(const struct bfd *bfd)
{
	return bfd->count > 0;
}

bool bfd_echoes(const struct bfd *bfd)
{
	return bfd->echoing > 0;
}

void bfd_begin(struct bfd *bfd, uint64_t now)
{
	if (bfd->begun)
		return;
	bfd->begun = true;
	bfd->now = now;
	for (uint32_t slot = 0; slot < used(bfd); slot++) {
		if (entry_at(bfd, slot) == NULL)
			continue;
		session_resume(bfd, slot);
		session_schedule(bfd, slot);
	}
}

bool bfd_lost(const struct bfd *bfd, uint32_t slot)
{
	const struct bfd_session *session = session_at(bfd, slot);
	const struct bfd_entry *entry = entry_at(bfd, slot);
	return entry != NULL && (entry->flags & (BFD_MULTIHOP | BFD_LONE)) == 0 && session->discriminator != 0 &&
		session->state == BFD_DOWN && session->downs != 0 && session->remote_state != BFD_ADMIN_DOWN;
}

bool bfd_cleared(const struct bfd *bfd, uint32_t slot)
{
	const struct bfd_session *session = session_at(bfd, slot);
	const struct bfd_entry *entry = entry_at(bfd, slot);
	return entry == NULL || (entry->flags & BFD_LONE) != 0 || session->discriminator == 0 || session->state == BFD_UP ||
		session->remote_state == BFD_ADMIN_DOWN;
}

// --- following the published entries ---

static bool entry_valid(const struct bfd_entry *entry)
{
	bool multihop = entry->flags & BFD_MULTIHOP;
	return (entry->family == FAMILY_IPV4 || entry->family == FAMILY_IPV6) && entry->interface < MAX_INTERFACES &&
		(multihop || entry->interface != 0) && entry->multiplier != 0 && entry->transmit_us != 0 && entry->receive_us != 0 &&
		entry->authentication <= BFD_AUTH_METICULOUS_SHA1 && entry->key_length <= BFD_KEY_SIZE;
}

// Copy the table at `where` into the spare room, and check the copy: its writer is another process.
static bool load(struct bfd *bfd, uint64_t where)
{
	struct bfd_table *copy = bfd->spare;
	*copy = (struct bfd_table){0};
	if (where == 0)
		return true;
	memcpy(copy, bfd->tables->base + where, sizeof(*copy));
	uint64_t bytes = sizeof(*copy) + copy->count * sizeof(struct bfd_entry);
	if (copy->count > MAX_BFD_SESSIONS || !view_range(bfd->tables, where, bytes))
		return false;
	memcpy(copy->entries, bfd->tables->base + where + sizeof(*copy), bytes - sizeof(*copy));
	uint32_t checksum = copy->checksum;
	copy->checksum = 0;
	if (crc32_update(0, copy, bytes) != checksum)
		return false;
	for (uint32_t i = 0; i < copy->count; i++)
		if (!entry_valid(&copy->entries[i]))
			return false;
	return true;
}

static void session_open(struct bfd *bfd, uint32_t index)
{
	uint32_t slot = 0;
	while (slot < MAX_BFD_SESSIONS && session_at(bfd, slot)->discriminator != 0)
		slot++;
	if (slot == MAX_BFD_SESSIONS)
		return;
	if (bfd->state->bfd_used <= slot)
		__atomic_store_n(&bfd->state->bfd_used, slot + 1, __ATOMIC_RELEASE);
	session_start(bfd, slot, &bfd->table->entries[index]);
	bfd->entry_of[slot] = (uint16_t)(index + 1);
	index_add(bfd, slot);
}

// Which slots have an entry in the spare table, and close all others while their old entries are known.
static void match(struct bfd *bfd, uint16_t *entry_of)
{
	for (uint32_t i = 0; i < bfd->spare->count; i++) {
		int slot = find_entry(bfd, &bfd->spare->entries[i]);
		if (slot >= 0)
			entry_of[slot] = (uint16_t)(i + 1);
	}
	for (uint32_t slot = 0; slot < used(bfd); slot++) {
		if (session_at(bfd, slot)->discriminator == 0 || entry_of[slot] != 0)
			continue;
		schedule_remove(bfd, slot);
		index_remove(bfd, slot);
		session_close(bfd, slot);
		bfd->ops.changed(bfd->ops.user, slot);
	}
}

static void follow(struct bfd *bfd)
{
	uint16_t entry_of[MAX_BFD_SESSIONS] = {0};
	match(bfd, entry_of);
	struct bfd_table *old = bfd->table;
	bfd->table = bfd->spare;
	bfd->spare = old;
	memcpy(bfd->entry_of, entry_of, sizeof(entry_of));
	for (uint32_t slot = 0; slot < used(bfd); slot++) {
		if (entry_of[slot] == 0)
			continue;
		session_configure(bfd, slot);
		if (session_at(bfd, slot)->state == BFD_DOWN && (entry_at(bfd, slot)->flags & BFD_LONE) != 0)
			bfd->ops.changed(bfd->ops.user, slot); // what depended on it may do so no more
	}
	for (uint32_t i = 0; i < bfd->table->count; i++)
		if (find_entry(bfd, &bfd->table->entries[i]) < 0)
			session_open(bfd, i);
	for (uint32_t slot = 0; slot < used(bfd) && bfd->begun; slot++)
		if (bfd->entry_of[slot] != 0)
			session_schedule(bfd, slot);
}

void bfd_follow(struct bfd *bfd, uint64_t now)
{
	uint64_t where = __atomic_load_n(&view_tables(bfd->tables)->bfd_root, __ATOMIC_ACQUIRE);
	uint64_t epoch = 0;
	bfd->now = now;
	if (where != 0) {
		if (!view_range(bfd->tables, where, sizeof(struct bfd_table)))
			return;
		const struct bfd_table *published = (const void *)(bfd->tables->base + where);
		epoch = __atomic_load_n(&published->epoch, __ATOMIC_RELAXED);
	}
	if ((bfd->followed && where == bfd->root && epoch == bfd->epoch) ||
	    (where != 0 && where == bfd->refused && epoch == bfd->refused_epoch))
		return;
	if (!load(bfd, where)) {
		bfd->refused = where;
		bfd->refused_epoch = epoch;
		return;
	}
	bfd->root = where;
	bfd->epoch = epoch;
	bfd->followed = true;
	follow(bfd);
}

// --- packets and time ---

static enum drop_reason receive_control(struct bfd *bfd, const struct bfd_datagram *datagram)
{
	struct control control;
	enum drop_reason reason = control_parse(datagram, &control);
	if (reason != DROP_NONE)
		return reason;
	int slot = find_session(bfd, datagram, control.your_discriminator);
	const struct bfd_entry *entry = slot < 0 ? NULL : entry_at(bfd, (uint32_t)slot);
	if (entry == NULL)
		return DROP_BFD_NO_SESSION;
	struct bfd_session *session = session_at(bfd, (uint32_t)slot);
	if (datagram->ttl < entry->min_ttl)
		reason = DROP_BFD_TTL;
	else if (!control_authentic(entry, session, datagram))
		reason = DROP_BFD_AUTHENTICATION;
	if (reason != DROP_NONE) {
		session->rx_drops++;
		return reason;
	}
	session_receive(bfd, (uint32_t)slot, &control);
	return DROP_NONE;
}

enum drop_reason bfd_receive(struct bfd *bfd, const struct bfd_datagram *datagram, uint64_t now)
{
	bfd->now = now;
	if (datagram->destination_port == BFD_ECHO_PORT)
		return echo_receive(bfd, datagram);
	// RFC 5881 section 5: whoever sent it is on this link.
	if (datagram->destination_port == BFD_PORT && datagram->ttl != BFD_TTL)
		return DROP_BFD_TTL;
	return receive_control(bfd, datagram);
}

void bfd_tick(struct bfd *bfd, uint64_t now)
{
	uint32_t slot;
	uint64_t deadline;
	bfd->now = now;
	if (!bfd->begun)
		return;
	// Each turn moves its session into the future, or, where it must look again, a little way.
	while (schedule_first(bfd, &slot, &deadline) && deadline <= now)
		session_tick(bfd, slot);
}

uint64_t bfd_deadline(const struct bfd *bfd)
{
	uint32_t slot;
	uint64_t deadline;
	return bfd->begun && schedule_first(bfd, &slot, &deadline) ? deadline : BFD_NEVER;
}
