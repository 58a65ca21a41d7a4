// The filters in the tables segment; see abi/filter.h, and table_writer_filter in abi/core.h.
#ifndef BULK_FILTER_H
#define BULK_FILTER_H

#include "bulk/writer.h"

// Claim what a dead writer published; what is damaged is not followed.
void filter_recover(struct table_writer *w);

#endif
