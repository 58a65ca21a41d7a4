// A second copy of groups and tries, for readers that cannot map the segment: see mirror.c.
#ifndef BULK_MIRROR_H
#define BULK_MIRROR_H

#include "bulk/writer.h"

// Each follows a change of the writer's own; nothing happens where there is no mirror.  Short of memory a mirror
// declares itself incomplete, says how much it would need, and follows no more.
void mirror_sync(struct table_writer *w, uint32_t f, struct key key, uint32_t length);
void mirror_repair(struct table_writer *w, uint32_t f);
void mirror_group(struct table_writer *w, uint16_t group);
// The epoch has become another one.
void mirror_epoch(struct table_writer *w);
// The oldest epoch that a reader of the mirror is in, or may be, if that is older than `oldest`.
uint64_t mirror_oldest(const struct table_writer *w, uint64_t oldest);
// Wait until readers of the mirror can be known to have let go of more; false: there is no mirror.
bool mirror_wait(const struct table_writer *w);
// The writer of the mirror's blocks, or NULL.
struct table_writer *mirror_writer(const struct table_writer *w);
void mirror_close(struct table_writer *w);

#endif
