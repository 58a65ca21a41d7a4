// Attachment to a segment that another writer may have left behind.
#ifndef BULK_RECOVER_H
#define BULK_RECOVER_H

#include "bulk/writer.h"

// Everything private is empty; the segment is mapped and as it was found.
int writer_recover(struct table_writer *w);

// A published root and its arrays lie in one block: the root, then the arrays in this order.
uint64_t root_bytes(const struct tables_root *root);
bool root_contiguous(const struct table_writer *w, uint64_t where);

#endif
