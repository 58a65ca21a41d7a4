// What is interned: attribute sets, and bundles of neighbor, path identifier, next hop and set.
#include <errno.h>
#include <string.h>

#include "bgp/internal.h"

enum { LEAST_BUCKETS = 1024 };

// RFC 1997; RFC 4271 section 9.1.2.2: what decisions need, read once.
static void attributes_read(struct attributes *set)
{
	const uint8_t *at = set->wire;
	struct attribute a;
	while (attribute_next(&at, set->wire + set->size, &a)) {
		switch (a.type) {
		case ATTRIBUTE_ORIGIN:
			set->origin = a.value[0];
			break;
		case ATTRIBUTE_AS_PATH:
			set->path_length = (uint16_t)as_path_length(a.value, a.size);
			set->first_as = as_path_first(a.value, a.size);
			break;
		case ATTRIBUTE_MED:
			set->med = load32(a.value);
			set->has |= HAS_MED;
			break;
		case ATTRIBUTE_LOCAL_PREF:
			set->local_pref = load32(a.value);
			set->has |= HAS_LOCAL_PREF;
			break;
		case ATTRIBUTE_ORIGINATOR:
			set->originator = load32(a.value);
			set->has |= HAS_ORIGINATOR;
			break;
		case ATTRIBUTE_CLUSTER_LIST:
			set->cluster_count = (uint16_t)(a.size / 4);
			break;
		case ATTRIBUTE_OTC:
			set->otc = load32(a.value);
			set->has |= HAS_OTC;
			break;
		case ATTRIBUTE_COMMUNITIES:
			for (uint32_t i = 0; i + 4 <= a.size; i += 4) {
				uint32_t community = load32(a.value + i);
				if (community == 0xffffff01 || community == 0xffffff03)
					set->has |= HAS_NO_EXPORT;
				else if (community == 0xffffff02)
					set->has |= HAS_NO_ADVERTISE;
			}
			break;
		default:
			break;
		}
	}
}

static void attributes_grow(struct bgp_table *t)
{
	uint32_t capacity = t->attribute_capacity == 0 ? LEAST_BUCKETS : 2 * t->attribute_capacity;
	struct attributes **buckets = memory_take(t, capacity * sizeof(*buckets));
	if (buckets == NULL) // longer chains do as well
		return;
	for (uint32_t i = 0; i < t->attribute_capacity; i++) {
		for (struct attributes *set = t->attribute_buckets[i], *next; set != NULL; set = next) {
			next = set->next;
			set->next = buckets[set->hash & (capacity - 1)];
			buckets[set->hash & (capacity - 1)] = set;
		}
	}
	memory_give(t, t->attribute_buckets);
	t->attribute_buckets = buckets;
	t->attribute_capacity = capacity;
}

struct attributes *attributes_intern(struct bgp_table *t, const uint8_t *wire, uint32_t size)
{
	uint32_t hash = (uint32_t)hash_bytes(t->seed, wire, size);
	if (t->attribute_count >= t->attribute_capacity)
		attributes_grow(t);
	if (t->attribute_capacity == 0)
		return NULL;
	struct attributes **bucket = &t->attribute_buckets[hash & (t->attribute_capacity - 1)];
	for (struct attributes *set = *bucket; set != NULL; set = set->next) {
		if (set->hash == hash && set->size == size && memcmp(set->wire, wire, size) == 0) {
			set->refs++;
			return set;
		}
	}
	struct attributes *set = memory_take(t, sizeof(*set) + size);
	if (set == NULL)
		return NULL;
	set->hash = hash;
	set->refs = 1;
	set->size = (uint16_t)size;
	memcpy(set->wire, wire, size);
	attributes_read(set);
	set->next = *bucket;
	*bucket = set;
	t->attribute_count++;
	return set;
}

void attributes_drop(struct bgp_table *t, struct attributes *set)
{
	if (--set->refs != 0)
		return;
	struct attributes **link = &t->attribute_buckets[set->hash & (t->attribute_capacity - 1)];
	while (*link != set)
		link = &(*link)->next;
	*link = set->next;
	t->attribute_count--;
	memory_give(t, set);
}

static void buckets_grow(struct bgp_table *t)
{
	uint32_t capacity = t->bundle_capacity == 0 ? LEAST_BUCKETS : 2 * t->bundle_capacity;
	uint32_t *buckets = memory_take(t, capacity * sizeof(*buckets));
	if (buckets == NULL)
		return;
	for (uint32_t i = 1; i < t->bundle_end; i++) {
		struct bundle *bundle = &t->bundles[i];
		if (bundle->attributes == NULL)
			continue;
		bundle->next = buckets[bundle->hash & (capacity - 1)];
		buckets[bundle->hash & (capacity - 1)] = i;
	}
	memory_give(t, t->bundle_buckets);
	t->bundle_buckets = buckets;
	t->bundle_capacity = capacity;
}

static uint32_t bundle_slot(struct bgp_table *t)
{
	if (t->bundle_free != 0) {
		uint32_t number = t->bundle_free;
		t->bundle_free = t->bundles[number].next;
		return number;
	}
	if (t->bundle_end == t->bundle_room) {
		if (t->bundle_room > UINT32_MAX / 4)
			return 0;
		uint32_t room = t->bundle_room == 0 ? 256 : t->bundle_room + t->bundle_room / 2;
		struct bundle *bundles = memory_resize(t, t->bundles, room * sizeof(*bundles));
		if (bundles == NULL)
			return 0;
		t->bundles = bundles;
		t->bundle_room = room;
		if (t->bundle_end == 0)
			t->bundle_end = 1;
	}
	return t->bundle_end++;
}

static bool bundle_same(const struct bundle *a, const struct bundle *b)
{
	return a->hash == b->hash && a->attributes == b->attributes && a->next_hop == b->next_hop &&
	       a->path_id == b->path_id && a->weight == b->weight && a->peer == b->peer && a->epoch == b->epoch &&
	       a->verdict == b->verdict && a->has_preference == b->has_preference && a->preference == b->preference &&
	       a->discard == b->discard && a->protocol == b->protocol && a->tag == b->tag;
}

uint32_t bundle_intern(struct bgp_table *t, const struct bundle *wanted)
{
	struct bundle key = *wanted;
	uint64_t words[5] = {
		(uint64_t)(uintptr_t)key.attributes, (uint64_t)(uintptr_t)key.next_hop,
		(uint64_t)key.path_id << 32 | key.weight,
		(uint64_t)key.peer << 48 | (uint64_t)key.epoch << 32 | (uint64_t)key.verdict << 16 | (uint64_t)(key.has_preference | key.discard << 1) << 8 | key.preference,
		(uint64_t)key.tag << 8 | key.protocol,
	};
	key.hash = (uint32_t)hash_bytes(t->seed, words, sizeof(words));
	if (t->bundle_count >= t->bundle_capacity)
		buckets_grow(t);
	if (t->bundle_capacity == 0)
		return 0;
	for (uint32_t i = t->bundle_buckets[key.hash & (t->bundle_capacity - 1)]; i != 0; i = t->bundles[i].next) {
		if (bundle_same(&t->bundles[i], &key)) {
			t->bundles[i].refs++;
			return i;
		}
	}
	uint32_t number = bundle_slot(t);
	if (number == 0)
		return 0;
	if (bundle_tracked(&key) && next_hop_use(t, key.next_hop, key.peer) < 0) {
		t->bundles[number] = (struct bundle){.next = t->bundle_free};
		t->bundle_free = number;
		return 0;
	}
	uint32_t *bucket = &t->bundle_buckets[key.hash & (t->bundle_capacity - 1)];
	key.refs = 1;
	key.next = *bucket;
	*bucket = number;
	t->bundles[number] = key;
	key.attributes->refs++;
	if (key.next_hop != NULL)
		key.next_hop->refs++;
	t->bundle_count++;
	return number;
}

void bundle_keep(struct bgp_table *t, uint32_t number)
{
	t->bundles[number].refs++;
}

void bundle_drop(struct bgp_table *t, uint32_t number)
{
	struct bundle *bundle = &t->bundles[number];
	if (--bundle->refs != 0)
		return;
	uint32_t *link = &t->bundle_buckets[bundle->hash & (t->bundle_capacity - 1)];
	while (*link != number)
		link = &t->bundles[*link].next;
	*link = bundle->next;
	attributes_drop(t, bundle->attributes);
	if (bundle_tracked(bundle))
		next_hop_unuse(t, bundle->next_hop);
	if (bundle->next_hop != NULL)
		next_hop_drop(t, bundle->next_hop);
	*bundle = (struct bundle){.next = t->bundle_free};
	t->bundle_free = number;
	t->bundle_count--;
}
