// What our BPF programs need of the kernel: declared here, so that no library is needed to build them.
//
// A program is one function in section "xdp", "socket" (a filter) or "tc".  Its maps are variables of struct map in section "maps";
// a number that is known only when it is loaded is a CONSTANT: `build.py` notes where each is used and
// manager/bpf_objects.py fills it in.  All functions but those APART are inlined, for which PROGRAM is the name of the
// section; there is no .rodata and no BTF.
#ifndef BPF_BPF_H
#define BPF_BPF_H

#include <stdint.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
// A function of its own behind the program, in its section: what is rarely needed keeps its registers to itself.  It takes
// five numbers or pointers at most.
#define APART static __attribute__((noinline, section(PROGRAM)))

// A number of 64 bits, the same during the whole life of the loaded program; the verifier knows it.  Weak, as the
// compiler would else know that no address is 0.
#define CONSTANT(name) extern const char constant_##name[] __attribute__((weak))
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

enum tc_action { TC_ACT_SHOT = 2 };

struct xdp_md {
	uint32_t data;
	uint32_t data_end;
	uint32_t data_meta;
	uint32_t ingress_ifindex;
	uint32_t rx_queue_index;
	uint32_t egress_ifindex;
};

// linux/bpf.h: struct __sk_buff
struct skb {
	uint32_t len;
	uint32_t reserved[2];
	uint32_t queue_mapping; // of the receive queue, plus 1; where it leaves, the kernel takes the transmit queue of that number
	uint32_t protocol;
	uint32_t vlan_present;
	uint32_t reserved2[6];
	uint32_t cb[5];
	uint32_t reserved3[2];
	uint32_t data;
	uint32_t data_end;
	uint32_t reserved4[23];
	uint32_t gso_size;
};
_Static_assert(__builtin_offsetof(struct skb, queue_mapping) == 12 && __builtin_offsetof(struct skb, cb) == 48 && __builtin_offsetof(struct skb, data) == 76
	&& __builtin_offsetof(struct skb, gso_size) == 176, "as struct __sk_buff");

// Helpers, by their numbers in linux/bpf.h: a call through a constant is what the compiler makes a call to a helper.
static void *(*const map_lookup)(const void *map, const void *key) = (void *)1;
static uint32_t (*const processor_id)(void) = (void *)8;
static long (*const store_bytes)(struct skb *skb, uint32_t offset, const void *from, uint32_t length, uint64_t flags) = (void *)9;
static long (*const clone_redirect)(struct skb *skb, uint32_t ifindex, uint64_t flags) = (void *)13;
static long (*const redirect_to)(uint32_t ifindex, uint64_t flags) = (void *)23;
static long (*const load_bytes)(const struct skb *skb, uint32_t offset, void *to, uint32_t length) = (void *)26;
static long (*const change_tail)(struct skb *skb, uint32_t length, uint64_t flags) = (void *)38;
static long (*const pull_data)(struct skb *skb, uint32_t length) = (void *)39;
static int64_t (*const checksum_update)(struct skb *skb, uint32_t sum) = (void *)40;
static long (*const redirect_map)(const void *map, uint64_t key, uint64_t flags) = (void *)51;
static long (*const adjust_tail)(struct xdp_md *context, int delta) = (void *)65;
static uint64_t (*const ticks)(void) = (void *)118; // jiffies, by a load where the program is compiled
static uint64_t (*const coarse_clock)(void) = (void *)160; // CLOCK_MONOTONIC_COARSE

#endif
