// DPDK's tables: rte_lpm, rte_fib (dir24_8) and rte_lpm6, filled with the routes that the FIB has.
//
// They get what is best for them: huge pages, their vector code, bulk look-ups, addresses in host order.
#define _GNU_SOURCE
#include "peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <rte_eal.h>
#include <rte_fib.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>

enum { TBL8_LPM = 32768, TBL8_LPM6 = 1 << 18, HUGE = 2 << 20 };

static bool report(const char *what)
{
	fprintf(stderr, "%s failed\n", what);
	return false;
}

bool peers_start(void)
{
	char *arguments[] = {"fib", "--no-huge", "-m", "1536", "--no-pci", "--no-telemetry", "--no-shconf", "--iova-mode=va",
	                     "--log-level=error", "--force-max-simd-bitwidth=512", "-l", "0"};
	return rte_eal_init(sizeof(arguments) / sizeof(*arguments), arguments) >= 0 || report("rte_eal_init");
}

// Without reserved pages DPDK's memory is of small ones.  Put huge ones in their place, with the same content.
static void make_huge(void *start, size_t bytes)
{
	uintptr_t from = ((uintptr_t)start + HUGE - 1) & ~(uintptr_t)(HUGE - 1);
	uintptr_t to = ((uintptr_t)start + bytes) & ~(uintptr_t)(HUGE - 1);
	void *saved = from < to ? malloc(to - from) : NULL;
	if (saved == NULL)
		return;
	memcpy(saved, (void *)from, to - from);
	void *place = mmap((void *)from, to - from, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (place == MAP_FAILED) {
		perror("mmap");
		abort();
	}
	madvise(place, to - from, MADV_HUGEPAGE);
	memcpy(place, saved, to - from);
	free(saved);
}

static uint32_t host_address(const struct route *route)
{
	uint32_t word;
	memcpy(&word, route->address, sizeof(word));
	return __builtin_bswap32(word);
}

static uint64_t lpm_run(const struct contender *self, const struct keys *keys)
{
	uint64_t sum = 0;
	uint32_t found[BATCH];
	for (uint32_t i = 0; i < keys->count; i += BATCH) {
		rte_lpm_lookup_bulk(self->state, &keys->host[i], found, BATCH);
		for (uint32_t k = 0; k < BATCH; k++)
			sum += found[k] & RTE_LPM_LOOKUP_SUCCESS ? found[k] & 0xffffff : 0;
	}
	return sum;
}

static int by_length(const void *a, const void *b)
{
	const struct route *x = *(const struct route *const *)a, *y = *(const struct route *const *)b;
	return (int)x->length - (int)y->length;
}

// rte_lpm_add looks through all rules of one length before it adds another: minutes for a full table.  The tables that
// look-ups read are public, and filled here with what it fills them with, shortest prefixes first.
static bool lpm_fill(struct rte_lpm *lpm, const struct route *const *sorted, uint32_t count, uint32_t *groups)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct route *route = sorted[i];
		uint32_t first = host_address(route), depth = route->length;
		struct rte_lpm_tbl_entry entry = {.next_hop = route->value, .valid = 1, .depth = depth & 63};
		if (depth <= 24) {
			for (uint32_t k = 0; k < 1u << (24 - depth); k++)
				lpm->tbl24[(first >> 8) + k] = entry;
			continue;
		}
		struct rte_lpm_tbl_entry *top = &lpm->tbl24[first >> 8];
		entry.valid_group = 1;
		if (!top->valid_group) {
			if (*groups == TBL8_LPM)
				return report("rte_lpm: tbl8");
			struct rte_lpm_tbl_entry inner = *top;
			inner.valid_group = 1;
			for (uint32_t k = 0; k < 256; k++)
				lpm->tbl8[*groups * 256 + k] = inner;
			*top = (struct rte_lpm_tbl_entry){.next_hop = (*groups)++ & 0xffffff, .valid = 1, .valid_group = 1};
		}
		for (uint32_t k = 0; k < 1u << (32 - depth); k++)
			lpm->tbl8[top->next_hop * 256 + (first & 0xff) + k] = entry;
	}
	return true;
}

bool peer_lpm(const struct route *routes, uint32_t count, struct contender *out)
{
	struct rte_lpm_config config = {.max_rules = 1024, .number_tbl8s = TBL8_LPM};
	struct rte_lpm *lpm = rte_lpm_create("lpm", 0, &config);
	const struct route **sorted = calloc(count, sizeof(*sorted));
	uint32_t kept = 0, groups = 0;
	if (lpm == NULL || sorted == NULL)
		return report("rte_lpm_create");
	make_huge(lpm->tbl24, sizeof(lpm->tbl24));
	for (uint32_t i = 0; i < count; i++)
		if (routes[i].family == 4 && routes[i].length != 0)
			sorted[kept++] = &routes[i];
	qsort(sorted, kept, sizeof(*sorted), by_length);
	bool filled = lpm_fill(lpm, sorted, kept, &groups);
	free(sorted);
	*out = (struct contender){.name = "rte_lpm bulk", .family = 4, .state = lpm, .run = lpm_run,
	                          .memory = sizeof(lpm->tbl24) + groups * 256 * sizeof(*lpm->tbl8)};
	return filled;
}

static uint64_t fib_run(const struct contender *self, const struct keys *keys)
{
	uint64_t sum = 0, found[BATCH];
	for (uint32_t i = 0; i < keys->count; i += BATCH) {
		// It does not change the addresses.
		rte_fib_lookup_bulk(self->state, (uint32_t *)(uintptr_t)&keys->host[i], found, BATCH);
		for (uint32_t k = 0; k < BATCH; k++)
			sum += found[k];
	}
	return sum;
}

bool peer_fib(const struct route *routes, uint32_t count, struct contender *out)
{
	struct rte_fib_conf config = {
		.type = RTE_FIB_DIR24_8, .default_nh = 0, .max_routes = 1 << 20,
		.dir24_8 = {.nh_sz = RTE_FIB_DIR24_8_2B, .num_tbl8 = 16384},
	};
	struct rte_fib *fib = rte_fib_create("fib", 0, &config);
	if (fib == NULL)
		return report("rte_fib_create");
	make_huge(rte_fib_get_dp(fib), 32 << 20);
	for (uint32_t i = 0; i < count; i++)
		if (routes[i].family == 4 && rte_fib_add(fib, host_address(&routes[i]), routes[i].length, routes[i].value) < 0)
			return report("rte_fib_add");
	bool vector = rte_fib_select_lookup(fib, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512) == 0;
	*out = (struct contender){.name = vector ? "rte_fib AVX-512" : "rte_fib", .family = 4, .state = fib, .run = fib_run,
	                          .memory = (32u << 20) + 16384 * 512};
	return true;
}

static uint64_t lpm6_run(const struct contender *self, const struct keys *keys)
{
	uint64_t sum = 0;
	int32_t found[BATCH];
	for (uint32_t i = 0; i < keys->count; i += BATCH) {
		rte_lpm6_lookup_bulk_func(self->state, (uint8_t (*)[16])(uintptr_t)&keys->keys[i * 16], found, BATCH);
		for (uint32_t k = 0; k < BATCH; k++)
			sum += found[k] > 0 ? (uint64_t)found[k] : 0;
	}
	return sum;
}

bool peer_lpm6(const struct route *routes, uint32_t count, struct contender *out)
{
	struct rte_lpm6_config config = {.max_rules = 1 << 20, .number_tbl8s = TBL8_LPM6};
	struct rte_lpm6 *lpm = rte_lpm6_create("lpm6", 0, &config);
	if (lpm == NULL)
		return report("rte_lpm6_create");
	make_huge(lpm, ((size_t)TBL8_LPM6 * 256 + (1 << 24)) * sizeof(uint32_t));
	for (uint32_t i = 0; i < count; i++)
		if (routes[i].family == 6 && rte_lpm6_add(lpm, routes[i].address, routes[i].length, routes[i].value) < 0)
			return report("rte_lpm6_add");
	*out = (struct contender){.name = "rte_lpm6 bulk", .family = 6, .state = lpm, .run = lpm6_run,
	                          .memory = ((size_t)TBL8_LPM6 * 256 + (1 << 24)) * sizeof(uint32_t)};
	return true;
}
