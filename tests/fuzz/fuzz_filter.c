// libFuzzer target: a block of filters as another process might have written it, and packets against it.
//
// The input: u16 how much of it patches the block, patches of 6 bytes (offset / 4: u16, value: u32), then a
// packet.  The block begins sound: lists of several kinds, made by hand here, with every field in
// use.  After the patches its checksum is put right, so that the checks behind it are reached.  The
// copy that is followed lies in memory of its own, so that a read beyond it is seen; packets lie at the end
// of their buffers.
//
//   clang -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_filter.c <base, wire, table, forward>
//
// With -DSTANDALONE=N it needs no libFuzzer: N inputs from the seed in argv[1].
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forward/stage.h"
#include "wire/ip4.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ENTRIES = 130, WORDS = 3, ROW = (1 + WORDS) * 8, CLASSES = 4, PATCH = 6, ROOM = 1 << 15, MAX_PACKET = 2048 };

struct world {
	uint8_t *tables;             // a tables segment whose filter_root leads to `block`
	size_t tables_size;
	struct filter_table *block;
	uint8_t sound[ROOM];         // what it is restored from
	struct forward forward;
};

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		abort();
	}
}

static uint32_t take(struct filter_table *table, uint64_t bytes)
{
	uint32_t offset = table->bytes;
	table->bytes += (uint32_t)((bytes + 7) / 8 * 8);
	must(table->bytes <= ROOM, "room");
	return offset;
}

static void *at(struct filter_table *table, uint32_t offset)
{
	return (uint8_t *)table + offset;
}

// Rows whose bits depend on the class, with right summaries.
static uint32_t rows_make(struct filter_table *table, uint32_t count, uint32_t salt)
{
	uint32_t offset = take(table, (uint64_t)count * ROW);
	uint64_t *row = at(table, offset);
	for (uint32_t class = 0; class < count; class++, row += 1 + WORDS)
		for (uint32_t word = 0; word < WORDS; word++) {
			row[1 + word] = (class + salt + word) % 3 == 0 ? UINT64_C(0x9e3779b97f4a7c15) * (class + 1) : UINT64_MAX;
			if (word == WORDS - 1)
				row[1 + word] &= (UINT64_C(1) << ENTRIES % 64) - 1;
			if (row[1 + word] != 0)
				row[0] |= UINT64_C(1) << word;
		}
	return offset;
}

static void field_make(struct filter_table *table, struct filter_field *field, uint32_t kind, bool ip6)
{
	field->count = kind >= FIELD_PROTOCOL ? 256 : CLASSES;
	field->class_count = CLASSES;
	field->starts = take(table, (uint64_t)CLASSES * (kind <= FIELD_DESTINATION && ip6 ? 16 : 4));
	for (uint32_t i = 0; i < CLASSES; i++) {
		uint64_t *wide = (uint64_t *)at(table, field->starts) + 2 * i;
		uint32_t *narrow = (uint32_t *)at(table, field->starts) + i;
		if (kind <= FIELD_DESTINATION && ip6)
			wide[0] = (uint64_t)i << 62;
		else if (kind <= FIELD_DESTINATION)
			*narrow = i << 30;
		else if (kind < FIELD_PROTOCOL)
			*narrow = i << 14;
	}
	field->classes = take(table, field->count * sizeof(uint16_t));
	for (uint32_t i = 0; i < field->count; i++)
		((uint16_t *)at(table, field->classes))[i] = (uint16_t)(i % CLASSES);
	field->rows = rows_make(table, CLASSES, kind);
}

static void list_make(struct filter_table *table, uint32_t place)
{
	uint32_t entries = take(table, (ENTRIES + 1) * sizeof(struct filter_entry));
	for (uint32_t i = 0; i <= ENTRIES; i++)
		((struct filter_entry *)at(table, entries))[i] = (struct filter_entry){
			.identity = i + 1, .counter = i, .action = (uint8_t)(i % 3), .mark = i % 5 ? FILTER_NO_MARK : (uint8_t)(i % 64)
		};
	for (uint32_t family = 0; family < 2; family++) {
		struct filter_classifier classifier = {.words = WORDS, .all = rows_make(table, 1, 1)};
		for (uint32_t kind = 0; kind < FILTER_FIELDS; kind++)
			field_make(table, &classifier.fields[kind], kind, family == 1);
		((struct filter_list *)at(table, table->lists))[place].classifiers[family] = classifier;
	}
	struct filter_list *list = (struct filter_list *)at(table, table->lists) + place;
	memcpy(list->name, "fuzz", 5);
	list->entry_count = ENTRIES;
	list->entries = entries;
}

static void prefixes_make(struct filter_table *table, uint32_t family)
{
	struct filter_prefixes prefixes = {.count = CLASSES, .entry_count = CLASSES - 1};
	prefixes.starts = take(table, CLASSES * 16);
	prefixes.classes = take(table, CLASSES * sizeof(uint16_t));
	prefixes.entries = take(table, (CLASSES - 1) * sizeof(struct filter_entry));
	for (uint32_t i = 0; i < CLASSES; i++) {
		((uint16_t *)at(table, prefixes.classes))[i] = (uint16_t)i;
		if (family == 0)
			((uint32_t *)at(table, prefixes.starts))[i] = i << 30;
		else
			((uint64_t *)at(table, prefixes.starts))[2 * i] = (uint64_t)i << 62;
	}
	table->prefixes[family] = prefixes;
}

static void block_make(struct filter_table *table)
{
	*table = (struct filter_table){.epoch = 1, .bytes = sizeof *table, .interface_count = 2, .list_count = 2};
	table->interfaces = take(table, 2 * sizeof(struct filter_interface));
	table->lists = take(table, 2 * sizeof(struct filter_list));
	for (uint16_t i = 0; i < 2; i++) {
		struct filter_interface *bound = (struct filter_interface *)at(table, table->interfaces) + i;
		*bound = (struct filter_interface){.index = (uint16_t)(i + 1), .acl = {1, 2}, .rpf = RPF_LOOSE};
		for (uint32_t code = 0; code < 128; code++)
			bound->dscp[code / 64][code % 64] = (uint8_t)((code + 7) % 64);
		list_make(table, i);
	}
	prefixes_make(table, 0);
	prefixes_make(table, 1);
	table->checksum = filter_checksum(table);
}

static struct world *world_make(void)
{
	struct world *world = calloc(1, sizeof *world);
	size_t start = (sizeof(struct tables_segment) + 7) / 8 * 8;
	struct state_segment *state = calloc(1, sizeof *state);
	static const struct forward_ops ops = {0}; // what ends in an answer is a link broadcast here, which gets none

	must(world != NULL && state != NULL, "memory");
	world->tables_size = start + ROOM;
	world->tables = calloc(1, world->tables_size);
	must(world->tables != NULL, "memory");
	world->block = (void *)(world->tables + start);
	((struct tables_segment *)(void *)world->tables)->filter_root = start;
	block_make(world->block);
	must(filter_sound(world->block, ROOM), "the block begins sound");
	memcpy(world->sound, world->block, ROOM);
	must(forward_init(&world->forward, world->tables, world->tables_size, state, &ops) == 0, "forward_init");
	return world;
}

static void stages_run(struct forward *f, const uint8_t *data, uint32_t size, uint16_t interface, uint8_t direction)
{
	static const struct interface_entry interfaces[3] = {{.index = 1}, {.index = 2}, {.index = 255}};
	struct packet packet = {.length = size, .room = size, .ingress = 1, .link_broadcast = true};
	struct stage stage = {
		.packet = &packet, .interface = &interfaces[interface % 3], .length = size, .direction = direction,
		.mark = STAGE_NO_MARK
	};

	packet.buffer = malloc(size);
	must(packet.buffer != NULL, "memory");
	memcpy(packet.buffer, data, size);
	stage.ip = packet.buffer;
	stage.family = stage.ip[0] >> 4;
	// What ip4_input and ip6_input have checked.
	if (stage.family == FAMILY_IPV4 ? ip4_at(stage.ip, size) != NULL : stage.family == FAMILY_IPV6 && size >= 40) {
		if (stage_acl(f, &stage) == DROP_NONE && stage_rpf(f, &stage) == DROP_NONE)
			stage_dscp(f, &stage);
		if (filter_counts(&f->filters))
			stage_count_route(f, &packet);
	}
	free(packet.buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world *world;
	uint32_t patches;

	if (world == NULL)
		world = world_make();
	if (size < 3)
		return 0;
	memcpy(world->block, world->sound, ROOM);
	patches = (data[0] | (uint32_t)data[1] << 8) % 32;
	uint8_t choice = data[2];
	data += 3;
	size -= 3;
	for (; patches > 0 && size >= PATCH; patches--, data += PATCH, size -= PATCH) {
		uint32_t where = (data[0] | (uint32_t)data[1] << 8) % (ROOM / 4) * 4;
		memcpy((uint8_t *)world->block + where, data + 2, 4);
	}
	if (world->block->bytes <= ROOM)
		world->block->checksum = filter_checksum(world->block);
	filter_close(&world->forward.filters);
	filter_refresh(&world->forward.filters, &world->forward.tables);
	if (size > 0 && size <= MAX_PACKET)
		stages_run(&world->forward, data, (uint32_t)size, choice & 3, choice >> 2 & 1);
	return 0;
}

#ifdef STANDALONE
int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	uint8_t input[512];

	for (long i = 0; i < STANDALONE; i++) {
		for (size_t at_byte = 0; at_byte < sizeof input; at_byte++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			input[at_byte] = (uint8_t)(seed >> 56);
		}
		LLVMFuzzerTestOneInput(input, 3 + seed % (sizeof input - 3));
	}
	return 0;
}
#endif
