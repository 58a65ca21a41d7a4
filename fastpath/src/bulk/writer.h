// The writer of a tables segment: what its parts share.
//
//   writer.c    open, publish, apply       recover.c   what a dead writer left
//   trie.c, trie_build.c  published trie <- lpm.c
//   prefixes.c  installed routes, a hash in the segment
//   groups.c    next-hop groups            limbo.c, arena.c   memory and its return
//   mass.c      removal of most routes     mirror.c    a second copy, for the XDP offload
//
// Order of stores: a group before what refers to it; an installed route before the trie leads
// to its group, and removed after.  Only the writer's process stores into the segment, so what
// was checked once at open is trusted afterwards.
#ifndef BULK_WRITER_H
#define BULK_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include "abi/core.h"
#include "abi/state.h"
#include "abi/tables.h"
#include "bulk/arena.h"
#include "bulk/limbo.h"
#include "bulk/lpm.h"

enum { GROUP_BUCKETS = 1024, BULK_LEAST = 1024 };

struct group_info {
	uint64_t retired;  // epoch in which it lost its last reference
	uint32_t routes;   // installed routes that use it
	uint32_t held;     // references of table_writer_group
	uint32_t hash;
	uint16_t next;     // in its bucket
	uint8_t live;      // has a block
	uint8_t own;       // of table_writer_group_new: not found by content
	uint8_t dying;     // without a reference: noted in `dying` or in limbo
};

struct mirror;
struct trie_kept;

struct table_writer {
	struct mirror *mirror;              // NULL: none (mirror.c)
	struct table_writer *owner;         // of a mirror's writer; else NULL
	struct tables_segment *tables;
	uint64_t size;
	int fd;                             // a duplicate of the caller's
	const struct state_segment *state;  // NULL: there are no readers
	struct arena arena;
	struct limbo limbo;
	struct limbo claimed;               // blocks of a dead writer's tries, until they are replaced
	struct lpm lpm[2];                  // IPv4, IPv6
	struct lpm spent[2];                // replaced ones, freed when readers have the new state
	struct trie_kept *kept;             // while a part of the trie is replaced (trie.h)
	bool owed[2];                       // the trie lags behind lpm for want of memory
	struct group_info *groups;          // MAX_GROUPS of them
	uint16_t buckets[GROUP_BUCKETS];
	uint16_t *dying;                    // groups that lost their last reference
	uint32_t dying_count, dying_room;
	uint32_t group_low;                 // no group below it is free
	bool group_pages[MAX_GROUPS * 8 / ARENA_PAGE + 2]; // of the group words: have memory
};

static inline uint32_t family_index(uint8_t family)
{
	return family == FAMILY_IPV6;
}

// Take a block, or, where memory is short, what no reader holds any more.  -ENOSPC.
int writer_take(struct table_writer *w, uint64_t bytes, uint64_t *offset);
// Give back a block that was never published.
void writer_give(struct table_writer *w, uint64_t offset, uint64_t bytes);
// Give back a block to which no published word leads any more.
void writer_retire(struct table_writer *w, uint64_t offset, uint64_t bytes);
void writer_reclaim(struct table_writer *w);
struct prefix_entry change_entry(const struct route_change *change);
// Bring tries in line that lag behind.  -ENOSPC.
int owed_build(struct table_writer *w);

// groups.c
int groups_open(struct table_writer *w);
void groups_close(struct table_writer *w);
// Count a route that begins or ceases to use the group.
void group_use(struct table_writer *w, uint16_t group);
void group_drop(struct table_writer *w, uint16_t group);
bool group_exists(const struct table_writer *w, uint16_t group);
// Retire those that nobody refers to; the trie leads to none of them any more.
void groups_settle(struct table_writer *w);
// No reader that came before `epoch` passed is left.
void group_reclaim(struct table_writer *w, uint16_t group, uint64_t epoch);
// Claim what a dead writer published, and enter it into the private tables.  -EIO.
int groups_recover(struct table_writer *w);
// After the routes were counted: let go of what nobody uses.
void groups_sweep(struct table_writer *w);

// prefixes.c
void prefixes_prefetch(const struct table_writer *w, const struct prefix_entry *wanted);
struct prefix_entry *prefixes_find(const struct table_writer *w, const struct prefix_entry *wanted);
// Make room for one more route.  -ENOSPC.
int prefixes_reserve(struct table_writer *w, uint64_t more);
// Enter or replace; room was reserved.
void prefixes_put(struct table_writer *w, const struct prefix_entry *entry);
// In which of so many equal parts of the table the prefix has its place.
uint32_t prefixes_part(const struct prefix_entry *entry, uint32_t parts);
// The same in two steps: the entry of the prefix, or the free slot where it belongs.
struct prefix_entry *prefixes_slot(const struct table_writer *w, const struct prefix_entry *wanted);
void prefixes_place(struct table_writer *w, struct prefix_entry *slot, const struct prefix_entry *entry);
void prefixes_remove(struct table_writer *w, const struct prefix_entry *wanted);
// Give memory back after many removals.
void prefixes_shrink(struct table_writer *w);
// Claim the table that a dead writer published; later, when its groups are known, drop what is
// not valid, twice there, or not to be found by probing.
void prefixes_recover(struct table_writer *w);
int prefixes_repair(struct table_writer *w);
struct prefix_table *prefixes_table(const struct table_writer *w);

// Make a table without the entries of these slots, `count` of them; -ENOSPC.
int prefixes_without(struct table_writer *w, const uint64_t *slots, uint64_t count, uint64_t *fresh);
// Let it be the published one.
void prefixes_flip(struct table_writer *w, uint64_t fresh);

// mass.c
// Carry changes out that remove most routes of a family; false: they are others, or memory is
// short, and nothing has changed.
bool mass_remove(struct table_writer *w, const struct route_change *changes, uint32_t count, int *error);

// trie.c
// Build the trie of a family anew beside the published one, and flip.  -ENOSPC.
int trie_build(struct table_writer *w, uint32_t f);
// Give back a trie that was replaced, and that no reader holds any more.
void trie_give(struct table_writer *w, uint64_t root);
// Bring the published trie in line after one prefix of lpm was set or cleared.  -ENOSPC.
int trie_sync(struct table_writer *w, uint32_t f, struct key key, uint32_t length);
// A prefix with this key is changed soon.
void trie_prefetch(const struct table_writer *w, uint32_t f, struct key key);
// The same when it is not known what the published trie lacks; in place, if there is no room
// for two.  -ENOSPC.
int trie_repair(struct table_writer *w, uint32_t f);
// Claim the blocks of a trie that a dead writer published; what is damaged is not followed.
void trie_recover(struct table_writer *w, uint32_t f);
// Replace the tries that were claimed, and retire them.  -ENOSPC.
int trie_rebuild(struct table_writer *w);

#endif
