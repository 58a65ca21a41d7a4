// Sends a batch of frames out of a device in one go: see src/port/volley.h, where it is run from.
//
// Each frame is written over the one that the kernel has made for this run, and a copy of that sent.  The first frame
// that the device refuses ends it.  The batch may change under us: each length is read once and checked, and all that
// it can change is which bytes leave.
//
// `queue` is the device's transmit queue, plus 1, where what a socket sends leaves by a certain one too; 0: the kernel
// chooses.
#include "bpf.h"
#include "port/volley_batch.h"

struct map SECTION("maps") batch = {MAP_ARRAY, sizeof(uint32_t), sizeof(struct volley_batch), 1, MAP_MMAPABLE};

MAP_VALUE(batch);
CONSTANT(queue);

SECTION("tc") int volley(struct skb *skb)
{
	volatile struct volley_batch *head = (volatile struct volley_batch *)value_batch;
	uint8_t *entries = (uint8_t *)value_batch + __builtin_offsetof(struct volley_batch, entries);
	uint32_t ifindex = head->ifindex, count = head->count, at = 0;

	if (VALUE(queue) != 0)
		skb->queue_mapping = (uint32_t)VALUE(queue);
	for (uint32_t i = 0; i < VOLLEY_FRAMES; i++) {
		if (i >= count || at > VOLLEY_LAST)
			break;
		uint32_t length = *(volatile uint32_t *)(entries + at);
		if (length < VOLLEY_FRAME_MIN || length > VOLLEY_FRAME_MAX)
			break;
		if ((skb->len != length && change_tail(skb, length, 0) != 0) ||
		    store_bytes(skb, 0, entries + at + sizeof(struct volley_entry), length, 0) != 0)
			break;
		long refusal = clone_redirect(skb, ifindex, 0);
		if (refusal != 0) {
			head->refusal = (uint32_t)refusal;
			break;
		}
		head->sent = i + 1;
		at += (length + sizeof(struct volley_entry) + VOLLEY_ALIGN - 1) & ~(uint32_t)(VOLLEY_ALIGN - 1);
	}
	return 0;
}
