#include "publish.h"

#include <stdlib.h>
#include <string.h>
#include "base/crc32.h"

void *publish_tables(const struct address_entry addresses[2], uint16_t mtu, struct tables_view *view)
{
	struct {
		struct tables_segment segment;
		struct tables_root root;
		struct interface_entry interface;
		struct address_entry addresses[2];
	} *tables = calloc(1, sizeof(*tables));

	tables->interface = (struct interface_entry){
		.index = 1, .port = 1, .kind = INTERFACE_ETHERNET, .flags = INTERFACE_ADMIN_UP, .mtu = mtu, .name = "sim",
	};
	memcpy(tables->addresses, addresses, sizeof(tables->addresses));
	tables->root = (struct tables_root){
		.epoch = 1, .interface_count = 1, .address_count = 2,
		.interfaces = (uint64_t)((uint8_t *)&tables->interface - (uint8_t *)tables),
		.addresses = (uint64_t)((uint8_t *)tables->addresses - (uint8_t *)tables),
	};
	tables->root.rules = tables->root.addresses;
	uint32_t sum = crc32_update(0, &tables->root, sizeof(tables->root));
	tables->root.checksum = crc32_update(sum, &tables->interface, sizeof(tables->interface) + sizeof(tables->addresses));
	tables->segment.root = (uint64_t)((uint8_t *)&tables->root - (uint8_t *)tables);
	view_open(view, tables, sizeof(*tables));
	if (!view_refresh(view))
		abort();
	return tables;
}
