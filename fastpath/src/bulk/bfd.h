// The BFD sessions in the tables segment; see abi/bfd.h, and table_writer_bfd in abi/core.h.
#ifndef BULK_BFD_H
#define BULK_BFD_H

#include "bulk/writer.h"

// Claim what a dead writer published; what is damaged is not followed.
void bfd_recover(struct table_writer *w);

#endif
