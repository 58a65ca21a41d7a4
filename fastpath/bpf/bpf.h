// What our BPF programs need of the kernel: declared here, so that no library is needed to build them.
//
// A program is one function in section "xdp".  Its maps are variables of struct map in section "maps";
// a number that is known only when it is loaded is a CONSTANT: `build.py` notes where each is used and
// manager/bpf_objects.py fills it in.  All functions are inlined, there is no .rodata and no BTF.
#ifndef BPF_BPF_H
#define BPF_BPF_H

#include <stdint.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

// A number of 64 bits, the same during the whole life of the loaded program; the verifier knows it.
#define CONSTANT(name) extern const char constant_##name[]
#define VALUE(name) ((uint64_t)(uintptr_t)constant_##name)

// The one value of the array map `name`, by its address.
#define MAP_VALUE(name) extern char value_##name[]
#ifndef NULL
#define NULL ((void *)0)
#endif

// linux/bpf.h: enum bpf_map_type
enum map_type { MAP_ARRAY = 2, MAP_DEVMAP = 14, MAP_XSKMAP = 17 };
enum map_flag { MAP_MMAPABLE = 1 << 10 };

// Sizes of 0 are given when the map is made.
struct map {
	uint32_t type;
	uint32_t key_size;
	uint32_t value_size;
	uint32_t max_entries;
	uint32_t flags;
};

enum xdp_action { XDP_ABORTED = 0, XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3, XDP_REDIRECT = 4 };

struct xdp_md {
	uint32_t data;
	uint32_t data_end;
	uint32_t data_meta;
	uint32_t ingress_ifindex;
	uint32_t rx_queue_index;
	uint32_t egress_ifindex;
};

// Helpers, by their numbers in linux/bpf.h: a call through a constant is what the compiler makes a call to a helper.
static void *(*const map_lookup)(const void *map, const void *key) = (void *)1;
static uint32_t (*const processor_id)(void) = (void *)8;
static long (*const redirect_map)(const void *map, uint64_t key, uint64_t flags) = (void *)51;
static long (*const adjust_tail)(struct xdp_md *context, int delta) = (void *)65;
static uint64_t (*const coarse_clock)(void) = (void *)160; // CLOCK_MONOTONIC_COARSE

#endif
