// The tables of a VR with one interface and an address of each family, as control would publish them.
#pragma once

#include "table/view.h"

// Opens `view` on a new segment, which is returned: view_close, then free it.
void *publish_tables(const struct address_entry addresses[2], uint16_t mtu, struct tables_view *view);
