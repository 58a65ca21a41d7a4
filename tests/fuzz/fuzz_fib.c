// libFuzzer target: a tables segment whose words are overwritten, then followed.
//
// The input is a list of steps of 13 bytes: what, where (u32), value (u64).  They begin with a
// sound segment of some hundred routes, patch it, and look up in it.  The segment ends at a page
// that may not be touched, so that a read beyond it is a crash with or without a sanitizer.
//
//   clang -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_fib.c <base, table and bulk>
//
// With -DSTANDALONE=N it needs no libFuzzer: N inputs from the seed in argv[1].
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi/core.h"
#include "base/crc32.h"
#include "table/fib.h"
#include "table/fib_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEP = 13, SPARE = 64 * 4096, SIZE = (sizeof(struct tables_segment) / 4096 + 1) * 4096 + SPARE, DIRTY = 4096 };
enum step { PATCH, PATCH_ARENA, PATCH_WORD32, AIM, LOOKUP4, LOOKUP6, SELECT, REFRESH, SEAL, ATTACH, STEPS };

struct target {
	uint8_t *base;                    // what is followed; a guard page behind it
	uint8_t *sound;                   // what it is restored from
	int fd;                           // a segment for the writer to attach to
	uint32_t dirty[DIRTY];            // offsets of the words that were patched
	uint32_t dirty_count;
};

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		abort();
	}
}

static void add_route(struct table_writer *writer, uint8_t family, uint32_t seed)
{
	struct nexthop hops[3] = {0};
	for (uint32_t i = 0; i < 3; i++)
		hops[i] = (struct nexthop){.kind = NEXTHOP_FORWARD, .interface = (uint16_t)(1 + (seed + i) % 9), .weight = 1 + i};
	int group = table_writer_group(writer, hops, 1 + seed % 3);
	must(group > 0, "table_writer_group");
	struct route_change change = {.family = family, .group = (uint16_t)group, .protocol = ROUTE_STATIC};
	change.length = (uint8_t)(seed * 7 % (family == FAMILY_IPV4 ? 33 : 129));
	for (uint32_t bit = 0; bit < change.length; bit++)
		if (seed * 2654435761u >> (bit % 11) & 1)
			change.address[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
	must(table_writer_apply(writer, &change, 1) == 0, "table_writer_apply");
}

static void target_make(struct target *target)
{
	struct table_writer *writer = NULL;
	target->fd = segment_create(SEGMENT_TABLES, SIZE, 1, "fuzz");
	must(target->fd >= 0 && table_writer_open(target->fd, -1, &writer) == 0, "table_writer_open");
	struct interface_entry interfaces[3] = {
		{.index = 1, .port = 1, .name = "a"},
		{.index = 2, .port = 1, .vlan = 5, .name = "b"},
		{.index = 9, .port = 2, .name = "c"},
	};
	struct address_entry addresses[2] = {
		{.family = FAMILY_IPV4, .length = 24, .interface = 1},
		{.family = FAMILY_IPV6, .length = 64},
	};
	struct rule_entry rules[1] = {{.identity = RULE_ANY, .operations = RULE_UDP}};
	must(table_writer_publish(writer, interfaces, 3, addresses, 2, rules, 1) == 0, "table_writer_publish");
	for (uint32_t seed = 1; seed < 200; seed++)
		add_route(writer, seed % 2 ? FAMILY_IPV4 : FAMILY_IPV6, seed);
	table_writer_close(writer);

	target->base = mmap(NULL, SIZE + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	target->sound = malloc(SIZE);
	must(target->base != MAP_FAILED && target->sound != NULL, "memory");
	must(mprotect(target->base + SIZE, 4096, PROT_NONE) == 0, "mprotect");
	must(pread(target->fd, target->sound, SIZE, 0) == SIZE, "pread");
	memcpy(target->base, target->sound, SIZE);
}

static void target_restore(struct target *target)
{
	for (uint32_t i = 0; i < target->dirty_count; i++)
		memcpy(target->base + target->dirty[i], target->sound + target->dirty[i], 8);
	target->dirty_count = 0;
}

static void patch(struct target *target, uint64_t where, const void *value, size_t bytes)
{
	uint32_t word = (uint32_t)(where % (SIZE / 8)) * 8;
	if (target->dirty_count == DIRTY)
		return;
	target->dirty[target->dirty_count++] = word;
	memcpy(target->base + word + (where >> 31 & (bytes == 4)) * 4, value, bytes);
}

// Make a patched root pass its checksum: the checks behind it are to be reached as well.
static void seal(struct target *target, const struct tables_view *view)
{
	uint64_t where = view_tables(view)->root;
	if (!view_range(view, where, sizeof(struct tables_root)))
		return;
	struct tables_root root;
	memcpy(&root, target->base + where, sizeof(root));
	root.checksum = 0;
	uint64_t sizes[3] = {
		root.interface_count * sizeof(struct interface_entry),
		root.address_count * sizeof(struct address_entry),
		root.rule_count * sizeof(struct rule_entry),
	};
	uint64_t starts[3] = {root.interfaces, root.addresses, root.rules};
	uint32_t crc = crc32_update(0, &root, sizeof(root));
	for (int i = 0; i < 3; i++) {
		if (!view_range(view, starts[i], sizes[i]))
			return;
		crc = crc32_update(crc, target->base + starts[i], sizes[i]);
	}
	uint64_t word;
	memcpy(&word, target->base + where + 8, sizeof(word));
	word = (word & ~UINT64_C(0xffffffff)) | crc;
	patch(target, where / 8 + 1, &word, 8);
}

// A writer that takes over must survive whatever is there, and leave what readers can follow.
static void attach(struct target *target)
{
	struct table_writer *writer;
	must(pwrite(target->fd, target->base + sizeof(struct segment_header), SIZE - sizeof(struct segment_header),
	            sizeof(struct segment_header)) > 0, "pwrite");
	if (table_writer_open(target->fd, -1, &writer) < 0)
		return;
	add_route(writer, FAMILY_IPV4, 77);
	table_writer_close(writer);
}

static void follow(const struct tables_view *view, uint8_t family, const uint8_t *address, uint32_t hash)
{
	uint8_t *exact = malloc(family == FAMILY_IPV4 ? 4 : 16); // a longer read is seen
	memcpy(exact, address, family == FAMILY_IPV4 ? 4 : 16);
	const struct nexthop *hop = nexthop_select(view, fib_lookup(view, family, exact), hash);
	if (hop != NULL)
		view_interface(view, hop->interface);
	view_address(view, family, exact, (uint16_t)(hash % 5));
	free(exact);
}

// The same address and its neighbors by each way to walk; none may leave the segment.
static void follow_batch(const struct tables_view *view, uint8_t family, const uint8_t *address, uint32_t count)
{
	uint32_t size = family == FAMILY_IPV4 ? 4 : 16;
	uint8_t *exact = malloc(count * size + 1);
	uint16_t groups[FIB_BATCH];
	struct fib_trie trie;
	for (uint32_t i = 0; i < count; i++) {
		memcpy(exact + i * size, address, size);
		exact[i * size + i % size] ^= (uint8_t)i;
	}
	fib_lookup_batch(view, family, exact, count, groups);
	if (fib_trie_open(view, family, &trie)) {
		for (int way = 0; way < FIB_WAYS; way++)
			if (fib_ways[way]->works())
				fib_ways[way]->batch(&trie, family, exact, count, groups);
	}
	free(exact);
}

static void use_interfaces(const struct tables_view *view, uint32_t where)
{
	view_interface(view, (uint16_t)where);
	view_interface_of(view, (uint16_t)(where >> 16), (uint16_t)(where & 7));
	for (uint32_t i = 0; i < view->rule_count; i++)
		must(view->rules[i].port_count <= MAX_RULE_PORTS && view->rules[i].prefix_count <= MAX_RULE_PREFIXES, "rule");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct target target;
	if (target.base == NULL)
		target_make(&target);
	struct tables_view view;
	view_open(&view, target.base, SIZE);
	int attached = 0;
	for (; size >= STEP; data += STEP, size -= STEP) {
		uint32_t where;
		uint64_t value;
		memcpy(&where, data + 1, sizeof(where));
		memcpy(&value, data + 5, sizeof(value));
		uint8_t address[16];
		memcpy(address, &value, 8);
		memcpy(address + 8, &where, 4);
		memset(address + 12, (int)where & 0xff, 4);
		switch ((enum step)(data[0] % STEPS)) {
		case PATCH:
			patch(&target, where, &value, 8);
			break;
		case PATCH_ARENA: // few pages hold all that references lead to
			patch(&target, (SIZE - SPARE) / 8 + where % (SPARE / 8 / 4), &value, 8);
			break;
		case PATCH_WORD32:
			patch(&target, (where & 0x80000000) | ((SIZE - SPARE) / 8 + where % (SPARE / 8 / 4)), &value, 4);
			break;
		case AIM: // the words that everything begins with, led to the edges
			value = where & 1 ? SIZE - value % 64 : value;
			patch(&target, sizeof(struct segment_header) / 8 + where % 300, &value, 8);
			break;
		case LOOKUP4:
			follow(&view, FAMILY_IPV4, address, where);
			follow_batch(&view, FAMILY_IPV4, address, where % (FIB_BATCH + 1));
			break;
		case LOOKUP6:
			follow(&view, FAMILY_IPV6, address, where);
			follow_batch(&view, FAMILY_IPV6, address, where % (FIB_BATCH + 1));
			break;
		case SELECT:
			nexthop_select(&view, (uint16_t)where, (uint32_t)value);
			break;
		case REFRESH:
			view_refresh(&view);
			use_interfaces(&view, where);
			break;
		case SEAL:
			seal(&target, &view);
			break;
		case ATTACH:
			if (!attached++)
				attach(&target);
			break;
		case STEPS:
			break;
		}
	}
	view_close(&view);
	target_restore(&target);
	return 0;
}

#ifdef STANDALONE
int main(int argc, char **argv)
{
	srandom(argc > 1 ? (unsigned)atoi(argv[1]) : 1);
	uint8_t input[STEP * 64];
	for (int round = 0; round < STANDALONE; round++) {
		for (size_t i = 0; i < sizeof(input); i++)
			input[i] = (uint8_t)random();
		// Small numbers, too: plausible offsets, counts and bit sets.
		for (size_t step = 0; step < sizeof(input); step += STEP)
			memset(input + step + 5 + random() % 6, 0, (size_t)(random() % 4) * (round & 1));
		LLVMFuzzerTestOneInput(input, (size_t)(random() % (long)sizeof(input)));
	}
	return 0;
}
#endif
