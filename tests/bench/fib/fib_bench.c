// The FIB beside DPDK's tables, in one program: the same routes, the same keys, the same sums of what is found.
//
//   fib_bench PREFIXES ROUNDS
//
// PREFIXES: a file of prefixes, one on a line.  The next hop of a route is one of 250 by a hash of its prefix, which
// leaves little to compress.  Each round runs every structure once over each key set; printed is the best.  One line
// for each figure, as key=value words.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "abi/core.h"
#include "peers.h"
#include "table/fib.h"
#include "table/fib_walk.h"
#include "updates.h"

enum { VALUES = 250, KEYS = 1 << 22, MOST_ROUTES = 1 << 21, MOST_CONTENDERS = 8, SETS = 4, SEGMENT = 256 << 20 };

static const char *const set_names[SETS] = {"uniform", "prefixes", "zipf64k", "zipf1k"};

// Of this thread's processor time: others may be at work on the machine.
static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t random64(void)
{
	static uint64_t state = 88172645463325252ull;
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static void must(bool good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static uint32_t routes_read(const char *path, struct route *routes)
{
	char line[128];
	uint32_t count = 0;
	FILE *file = fopen(path, "r");
	must(file != NULL, path);
	while (count < MOST_ROUTES && fgets(line, sizeof(line), file) != NULL) {
		char *slash = strchr(line, '/');
		struct route *route = &routes[count];
		*route = (struct route){.family = strchr(line, ':') != NULL ? 6 : 4};
		must(slash != NULL, line);
		*slash = '\0';
		route->length = (uint8_t)atoi(slash + 1);
		must(inet_pton(route->family == 6 ? AF_INET6 : AF_INET, line, route->address) == 1, line);
		uint64_t hash = route->length;
		for (int i = 0; i < 16; i++)
			hash = (hash ^ route->address[i]) * 0x9e3779b97f4a7c15ull;
		route->value = (uint16_t)(1 + (hash >> 32) % VALUES);
		count++;
	}
	fclose(file);
	return count;
}

// What is ours.

struct own {
	int fd, state_fd;
	struct state_segment *state;
	struct table_writer *writer;
	struct tables_view view;
	uint16_t values[MAX_GROUPS]; // of the groups
	uint16_t groups[VALUES + 1];
};

static void own_open(struct own *own)
{
	own->fd = segment_create(SEGMENT_TABLES, SEGMENT, 1, "bench");
	own->state_fd = segment_create(SEGMENT_STATE, sizeof(*own->state), 1, "bench");
	must(own->fd >= 0 && own->state_fd >= 0, "segment_create");
	must(table_writer_open(own->fd, own->state_fd, &own->writer) == 0, "table_writer_open");
	own->state = mmap(NULL, sizeof(*own->state), PROT_READ | PROT_WRITE, MAP_SHARED, own->state_fd, 0);
	must(own->state != MAP_FAILED, "mmap");
	void *base = mmap(NULL, SEGMENT, PROT_READ, MAP_SHARED, own->fd, 0);
	must(base != MAP_FAILED, "mmap");
	view_open(&own->view, base, SEGMENT);
	for (uint32_t value = 1; value <= VALUES; value++) {
		struct nexthop hop = {.kind = NEXTHOP_FORWARD, .interface = (uint16_t)value, .weight = 1};
		int group = table_writer_group(own->writer, &hop, 1);
		must(group > 0, "table_writer_group");
		own->groups[value] = (uint16_t)group;
		own->values[group] = (uint16_t)value;
	}
}

static void own_close(struct own *own)
{
	table_writer_close(own->writer);
	munmap((void *)(uintptr_t)own->view.base, SEGMENT);
	munmap(own->state, sizeof(*own->state));
	close(own->fd);
	close(own->state_fd);
}

static struct route_change *own_changes(const struct own *own, const struct route *routes, uint32_t count)
{
	struct route_change *changes = calloc(count + 1, sizeof(*changes));
	must(changes != NULL, "memory");
	for (uint32_t i = 0; i < count; i++) {
		changes[i] = (struct route_change){
			.family = routes[i].family == 4 ? FAMILY_IPV4 : FAMILY_IPV6, .length = routes[i].length,
			.group = own->groups[routes[i].value], .protocol = ROUTE_BGP,
		};
		memcpy(changes[i].address, routes[i].address, 16);
	}
	return changes;
}

static size_t own_memory(const struct own *own)
{
	struct stat status;
	must(fstat(own->fd, &status) == 0, "fstat");
	size_t bytes = (size_t)status.st_blocks * 512;
	const struct tables_segment *tables = view_tables(&own->view);
	const struct prefix_table *table = (const void *)(own->view.base + tables->prefix_root);
	return bytes - (tables->prefix_root == 0 ? 0 : table->capacity * sizeof(struct prefix_entry));
}

static size_t private_memory(void)
{
	struct mallinfo2 info = mallinfo2();
	return info.uordblks + info.hblkhd;
}

// Load routes: time, bytes of what look-ups read, and of what the writer remembers.
static void own_load(struct own *own, const struct route *routes, uint32_t count, const char *name)
{
	struct route_change *changes = own_changes(own, routes, count);
	table_writer_reclaim(own->writer);
	size_t before = own_memory(own), private = private_memory();
	double start = seconds();
	must(table_writer_apply(own->writer, changes, count) == 0, "table_writer_apply");
	double took = seconds() - start;
	table_writer_reclaim(own->writer);
	printf("load set=%s routes=%u seconds=%.3f bytes=%zu private=%zu\n", name, count, took, own_memory(own) - before,
		private_memory() - private);
	free(changes);
}

static uint64_t own_scalar(const struct contender *self, const struct keys *keys)
{
	const struct own *own = self->state;
	uint64_t sum = 0;
	uint32_t size = self->family == 4 ? 4 : 16;
	for (uint32_t i = 0; i < keys->count; i++)
		sum += own->values[fib_lookup(&own->view, self->family == 4 ? FAMILY_IPV4 : FAMILY_IPV6, keys->keys + i * size)];
	return sum;
}

static uint64_t own_batch(const struct contender *self, const struct keys *keys)
{
	const struct own *own = self->state;
	uint64_t sum = 0;
	uint32_t size = self->family == 4 ? 4 : 16;
	uint16_t groups[BATCH];
	for (uint32_t i = 0; i < keys->count; i += BATCH) {
		fib_lookup_batch(&own->view, self->family == 4 ? FAMILY_IPV4 : FAMILY_IPV6, keys->keys + i * size, BATCH, groups);
		for (uint32_t k = 0; k < BATCH; k++)
			sum += own->values[groups[k]];
	}
	return sum;
}

// One of the ways, as on a processor that has none of the faster ones.
static uint64_t own_way(const struct contender *self, const struct keys *keys, const struct fib_way *way)
{
	const struct own *own = self->state;
	uint64_t sum = 0;
	uint8_t family = self->family == 4 ? FAMILY_IPV4 : FAMILY_IPV6;
	uint32_t size = self->family == 4 ? 4 : 16;
	struct fib_trie trie;
	uint16_t groups[BATCH];
	for (uint32_t i = 0; fib_trie_open(&own->view, family, &trie) && i < keys->count; i += BATCH) {
		way->batch(&trie, family, keys->keys + i * size, BATCH, groups);
		for (uint32_t k = 0; k < BATCH; k++)
			sum += own->values[groups[k]];
	}
	return sum;
}

static uint64_t own_plain(const struct contender *self, const struct keys *keys)
{
	return own_way(self, keys, &fib_plain);
}

static uint64_t own_avx2(const struct contender *self, const struct keys *keys)
{
	return own_way(self, keys, &fib_avx2);
}

// Keys.

// A prefix and random bits behind it.
static void key_under(const struct route *route, uint32_t size, uint8_t *key)
{
	memcpy(key, route->address, size);
	for (uint32_t bit = route->length; bit < size * 8; bit++)
		if (random64() >> 33 & 1)
			key[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
}

static void keys_zipf(const uint8_t *from, uint32_t distinct, uint32_t size, uint8_t *keys)
{
	double *steps = malloc(distinct * sizeof(*steps)), total = 0;
	for (uint32_t i = 0; i < distinct; i++)
		steps[i] = total += 1.0 / (i + 1);
	for (uint32_t i = 0; i < KEYS; i++) {
		double wanted = total * (double)(random64() >> 11) / (double)(UINT64_C(1) << 53);
		uint32_t low = 0, high = distinct - 1;
		while (low < high) {
			uint32_t middle = (low + high) / 2;
			if (steps[middle] < wanted)
				low = middle + 1;
			else
				high = middle;
		}
		memcpy(keys + (size_t)i * size, from + (size_t)low * size, size);
	}
	free(steps);
}

static void keys_make(const struct route *routes, uint32_t count, uint8_t family, uint8_t *sets[SETS])
{
	uint32_t size = family == 4 ? 4 : 16;
	for (int set = 0; set < SETS; set++) {
		sets[set] = malloc((size_t)KEYS * size);
		must(sets[set] != NULL, "memory");
	}
	struct route global = {.address = {0x20}, .length = family == 4 ? 0 : 3}; // all, or the unicast ones in use
	if (family == 4)
		global.address[0] = 0;
	for (uint32_t i = 0; i < KEYS; i++) {
		key_under(&global, size, sets[0] + (size_t)i * size);
		key_under(&routes[random64() % count], size, sets[1] + (size_t)i * size);
	}
	keys_zipf(sets[1], 1 << 16, size, sets[2]);
	keys_zipf(sets[1], 1 << 10, size, sets[3]);
}

static void measure(const struct contender *contenders, uint32_t count, const uint8_t *keys, const char *set,
	int rounds)
{
	double best[MOST_CONTENDERS];
	uint64_t sums[MOST_CONTENDERS];
	bool ip4 = contenders[0].family == 4;
	uint32_t *host = ip4 ? malloc(KEYS * sizeof(*host)) : NULL;
	for (uint32_t i = 0; host != NULL && i < KEYS; i++)
		host[i] = ntohl(((const uint32_t *)(const void *)keys)[i]);
	struct keys all = {.keys = keys, .host = host, .count = KEYS};
	for (int round = 0; round <= rounds; round++)
		for (uint32_t i = 0; i < count; i++) {
			double start = seconds();
			sums[i] = contenders[i].run(&contenders[i], &all);
			double took = seconds() - start;
			if (round <= 1 || took < best[i])
				best[i] = took;
		}
	for (uint32_t i = 0; i < count; i++)
		printf("lookup family=%u set=%s structure=\"%s\" million=%.1f sum=%llu bytes=%zu\n", contenders[i].family, set,
			contenders[i].name, KEYS / best[i] / 1e6, (unsigned long long)sums[i], contenders[i].memory);
	fflush(stdout);
	free(host);
}

static void own_updates(struct own *own, const struct route *routes, uint32_t count, const uint8_t *keys)
{
	struct route_change *changes = own_changes(own, routes, count);
	for (uint32_t i = count - 1; i > 0; i--) {
		uint32_t other = (uint32_t)(random64() % (i + 1));
		struct route_change swapped = changes[i];
		changes[i] = changes[other];
		changes[other] = swapped;
	}
	updates_run(&(struct updates){
		.writer = own->writer, .view = &own->view, .worker = &own->state->workers[0],
		.changes = changes, .change_count = count, .groups = own->groups + 1, .group_count = VALUES,
		.keys = keys, .key_count = KEYS,
	});
	free(changes);
}

// Some of the routes in a segment of their own.
static void load_some(const struct route *routes, uint32_t count, uint32_t some, const char *name)
{
	static struct own own;
	struct route *chosen = calloc(some, sizeof(*chosen));
	must(chosen != NULL, "memory");
	for (uint32_t i = 0; i < some; i++)
		chosen[i] = routes[(uint64_t)i * count / some];
	own_open(&own);
	own_load(&own, chosen, some, name);
	own_close(&own);
	free(chosen);
}

static void family_run(struct own *own, const struct route *routes, uint32_t count, uint8_t family, int rounds)
{
	struct contender contenders[MOST_CONTENDERS] = {
		{.name = "scalar", .family = family, .state = own, .run = own_scalar},
		{.name = "plain batch", .family = family, .state = own, .run = own_plain},
		{.name = "batch", .family = family, .state = own, .run = own_batch},
		{.name = "avx2", .family = family, .state = own, .run = own_avx2},
	};
	uint32_t used = fib_avx2.works() ? 4 : 3;
	if (family == 4) {
		used += peer_lpm(routes, count, &contenders[used]);
		used += peer_fib(routes, count, &contenders[used]);
	} else {
		used += peer_lpm6(routes, count, &contenders[used]);
	}
	uint8_t *sets[SETS];
	keys_make(routes, count, family, sets);
	for (int set = 0; set < SETS; set++) {
		measure(contenders, used, sets[set], set_names[set], rounds);
	}
	if (family == 4)
		own_updates(own, routes, count, sets[1]);
	for (int set = 0; set < SETS; set++)
		free(sets[set]);
}

int main(int argc, char **argv)
{
	static struct own own;
	struct route *routes = calloc(MOST_ROUTES, sizeof(*routes)), *parted = calloc(MOST_ROUTES, sizeof(*parted));
	must(argc == 3 && routes != NULL && parted != NULL, "fib_bench PREFIXES ROUNDS");
	uint32_t count = routes_read(argv[1], routes), first = 0;
	int rounds = atoi(argv[2]);
	peers_start();
	for (uint32_t i = 0; i < count; i++)
		if (routes[i].family == 4)
			parted[first++] = routes[i];
	uint32_t second = first;
	for (uint32_t i = 0; i < count; i++)
		if (routes[i].family == 6)
			parted[second++] = routes[i];
	static const uint32_t sizes[] = {10, 1000, 100000};
	for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		load_some(parted, first, sizes[i], "ip4");
		load_some(parted + first, second - first, sizes[i], "ip6");
	}
	load_some(parted, count, count, "both");
	own_open(&own);
	own_load(&own, parted, first, "ip4");
	own_load(&own, parted + first, second - first, "ip6");
	family_run(&own, parted, first, 4, rounds);
	family_run(&own, parted + first, second - first, 6, rounds);
	own_close(&own);
	return 0;
}
