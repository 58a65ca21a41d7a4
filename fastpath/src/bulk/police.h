// The table of rates (abi/police.h) in a tables segment.
#ifndef BULK_POLICE_H
#define BULK_POLICE_H

#include "bulk/writer.h"

// Claim the memory of what is published, or withdraw what is not sound.
void police_recover(struct table_writer *w);

#endif
