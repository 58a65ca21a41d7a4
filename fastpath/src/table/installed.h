// The table of installed routes (struct prefix_table), as readers of the FIB ask it.
#ifndef TABLE_INSTALLED_H
#define TABLE_INSTALLED_H

#include <stdbool.h>
#include <stdint.h>
#include "table/view.h"

// Is the route to this address, for which the FIB has given `group`, a default route?  Cheap where the
// group is not the default route's; else one probe for each length of a prefix.
bool installed_is_default(const struct tables_view *view, uint8_t family, const uint8_t *address, uint16_t group);

#endif
