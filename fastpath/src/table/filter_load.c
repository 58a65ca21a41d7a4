// Taking over published filters: copied first, then checked, since their writer is another process.
#include "table/filter.h"

#include <stdlib.h>
#include <string.h>

enum { INDEXED = 256 }; // values of a field that is no interval

// Not against malice, which can compute it as well, but against half a block.
uint64_t filter_checksum(const struct filter_table *table)
{
	const uint8_t *at = (const uint8_t *)table;
	uint64_t sum = table->bytes;

	for (uint32_t i = 0; i + 8 <= table->bytes; i += 8) {
		uint64_t word;
		memcpy(&word, at + i, sizeof word);
		if (i == offsetof(struct filter_table, checksum))
			word = 0;
		sum = (sum ^ word) * 0x9e3779b97f4a7c15;
		sum ^= sum >> 29;
	}
	return sum;
}

static bool array_fits(const struct filter_table *table, uint32_t offset, uint64_t count, uint64_t size)
{
	return offset % 8 == 0 && offset >= sizeof *table && offset <= table->bytes
		&& count * size <= table->bytes - offset;
}

static const void *at(const struct filter_table *table, uint32_t offset)
{
	return (const uint8_t *)table + offset;
}

static bool classes_below(const struct filter_table *table, uint32_t offset, uint32_t count, uint32_t limit)
{
	const uint16_t *classes = at(table, offset);

	for (uint32_t i = 0; i < count; i++) {
		if (classes[i] >= limit)
			return false;
	}
	return true;
}

static bool field_sound(const struct filter_table *table, const struct filter_classifier *classifier, uint32_t kind,
	bool ip6)
{
	const struct filter_field *field = &classifier->fields[kind];
	uint64_t start = kind > FIELD_DESTINATION || !ip6 ? sizeof(uint32_t) : 2 * sizeof(uint64_t);

	if (field->count == 0)
		return true;
	if (kind >= FIELD_PROTOCOL ? field->count != INDEXED : !array_fits(table, field->starts, field->count, start))
		return false;
	return field->class_count <= MAX_FILTER_CLASSES
		&& array_fits(table, field->classes, field->count, sizeof(uint16_t))
		&& array_fits(table, field->rows, field->class_count, (1 + (uint64_t)classifier->words) * sizeof(uint64_t))
		&& classes_below(table, field->classes, field->count, field->class_count);
}

static bool classifier_sound(const struct filter_table *table, const struct filter_classifier *classifier, bool ip6)
{
	if (classifier->words > MAX_ACL_ENTRIES / 64
	    || !array_fits(table, classifier->all, 1, (1 + (uint64_t)classifier->words) * sizeof(uint64_t)))
		return false;
	for (uint32_t kind = 0; kind < FILTER_FIELDS; kind++) {
		if (!field_sound(table, classifier, kind, ip6))
			return false;
	}
	return true;
}

static bool entries_sound(const struct filter_table *table, uint32_t offset, uint32_t count)
{
	const struct filter_entry *entries = at(table, offset);

	for (uint32_t i = 0; i < count; i++) {
		if (entries[i].counter >= MAX_FILTER_COUNTERS || entries[i].action > FILTER_REJECT
		    || (entries[i].mark > 63 && entries[i].mark != FILTER_NO_MARK))
			return false;
	}
	return true;
}

static bool list_sound(const struct filter_table *table, const struct filter_list *list)
{
	return memchr(list->name, '\0', sizeof list->name) != NULL && list->entry_count <= MAX_ACL_ENTRIES
		&& array_fits(table, list->entries, list->entry_count + UINT64_C(1), sizeof(struct filter_entry))
		&& entries_sound(table, list->entries, list->entry_count + 1)
		&& classifier_sound(table, &list->classifiers[0], false)
		&& classifier_sound(table, &list->classifiers[1], true);
}

static bool prefixes_sound(const struct filter_table *table, const struct filter_prefixes *prefixes, bool ip6)
{
	if (prefixes->count == 0)
		return true;
	return prefixes->entry_count <= MAX_COUNTED_PREFIXES
		&& array_fits(table, prefixes->starts, prefixes->count, ip6 ? 2 * sizeof(uint64_t) : sizeof(uint32_t))
		&& array_fits(table, prefixes->classes, prefixes->count, sizeof(uint16_t))
		&& classes_below(table, prefixes->classes, prefixes->count, prefixes->entry_count + 1)
		&& array_fits(table, prefixes->entries, prefixes->entry_count, sizeof(struct filter_entry))
		&& entries_sound(table, prefixes->entries, prefixes->entry_count);
}

static bool interface_sound(const struct filter_table *table, const struct filter_interface *bound)
{
	if (bound->index == 0 || bound->index >= MAX_INTERFACES || bound->acl[0] > table->list_count
	    || bound->acl[1] > table->list_count || bound->rpf > RPF_LOOSE || bound->rpf_default > 1)
		return false;
	for (uint32_t i = 0; i < sizeof bound->dscp; i++) {
		if (bound->dscp[i / 64][i % 64] > 63)
			return false;
	}
	return true;
}

bool filter_sound(const void *block, uint64_t bytes)
{
	const struct filter_table *table = block;

	if (bytes < sizeof *table || table->bytes > bytes || table->bytes < sizeof *table || table->bytes % 8 != 0
	    || table->bytes > MAX_FILTER_BYTES || filter_checksum(table) != table->checksum)
		return false;
	if (table->interface_count > MAX_INTERFACES || table->list_count > MAX_ACLS
	    || !array_fits(table, table->interfaces, table->interface_count, sizeof(struct filter_interface))
	    || !array_fits(table, table->lists, table->list_count, sizeof(struct filter_list)))
		return false;
	for (uint32_t i = 0; i < table->interface_count; i++) {
		if (!interface_sound(table, (const struct filter_interface *)at(table, table->interfaces) + i))
			return false;
	}
	for (uint32_t i = 0; i < table->list_count; i++) {
		if (!list_sound(table, (const struct filter_list *)at(table, table->lists) + i))
			return false;
	}
	return prefixes_sound(table, &table->prefixes[0], false) && prefixes_sound(table, &table->prefixes[1], true);
}

void filter_close(struct filter_view *filters)
{
	free(filters->copy);
	*filters = (struct filter_view){0};
}

static void follow(struct filter_view *filters, uint8_t *copy)
{
	const struct filter_interface *bound;

	free(filters->copy);
	filters->copy = copy;
	filters->table = (const void *)copy;
	filters->counts = filters->table->prefixes[0].count != 0 || filters->table->prefixes[1].count != 0;
	memset(filters->by_index, 0, sizeof filters->by_index);
	bound = filter_at(filters, filters->table->interfaces);
	for (uint32_t i = 0; i < filters->table->interface_count; i++)
		filters->by_index[bound[i].index] = &bound[i];
}

// A private copy of the block at `where`, or NULL: not sound, or no memory.
static uint8_t *take(const struct tables_view *view, uint64_t where)
{
	const struct filter_table *published = (const void *)(view->base + where);
	uint32_t bytes = __atomic_load_n(&published->bytes, __ATOMIC_RELAXED);
	uint8_t *copy;

	if (bytes < sizeof *published || bytes > MAX_FILTER_BYTES || !view_range(view, where, bytes))
		return NULL;
	copy = malloc(bytes);
	if (copy == NULL)
		return NULL;
	memcpy(copy, published, bytes);
	if (!filter_sound(copy, bytes)) {
		free(copy);
		return NULL;
	}
	return copy;
}

bool filter_refresh(struct filter_view *filters, const struct tables_view *view)
{
	uint64_t where = __atomic_load_n(&view_tables(view)->filter_root, __ATOMIC_ACQUIRE);
	uint64_t epoch = 0;
	uint8_t *copy;

	if (where != 0 && view_range(view, where, sizeof(struct filter_table)))
		epoch = __atomic_load_n(&((const struct filter_table *)(const void *)(view->base + where))->epoch, __ATOMIC_RELAXED);
	if (where == filters->root && epoch == filters->epoch)
		return false;
	filters->root = where;
	filters->epoch = epoch;
	if (where == 0) {
		filter_close(filters);
		return true;
	}
	copy = view_range(view, where, sizeof(struct filter_table)) ? take(view, where) : NULL;
	filters->broken = copy == NULL && filters->table == NULL;
	if (copy != NULL)
		follow(filters, copy);
	return copy != NULL;
}
