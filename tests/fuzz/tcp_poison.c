// What is free in the pools of TCP is poisoned, so that AddressSanitizer sees who still uses it.
//
// Linked with --wrap for the functions that take from the pools and give back.
#include "host/tcp_internal.h"

#include <sanitizer/asan_interface.h>

uint32_t __real_block_new(struct tcp *tcp);
void __real_block_free(struct tcp *tcp, uint32_t block);
uint32_t __real_segment_new(struct tcp *tcp);
void __real_segment_free(struct tcp *tcp, uint32_t segment);
uint32_t __real_range_new(struct tcp *tcp);
void __real_range_free(struct tcp *tcp, uint32_t range);
uint32_t __wrap_block_new(struct tcp *tcp);
void __wrap_block_free(struct tcp *tcp, uint32_t block);
uint32_t __wrap_segment_new(struct tcp *tcp);
void __wrap_segment_free(struct tcp *tcp, uint32_t segment);
uint32_t __wrap_range_new(struct tcp *tcp);
void __wrap_range_free(struct tcp *tcp, uint32_t range);

enum { LINKS = 8 }; // bytes of a free record that its list uses

// All but the first `links` bytes of what is free.
static void poison(void *record, size_t length, size_t links)
{
	ASAN_POISON_MEMORY_REGION((uint8_t *)record + links, length - links);
}

uint32_t __wrap_block_new(struct tcp *tcp)
{
	uint32_t block = __real_block_new(tcp);
	if (block != 0)
		ASAN_UNPOISON_MEMORY_REGION(block_bytes(tcp, block), TCP_BLOCK);
	return block;
}

void __wrap_block_free(struct tcp *tcp, uint32_t block)
{
	__real_block_free(tcp, block);
	poison(block_bytes(tcp, block), TCP_BLOCK, 0);
}

uint32_t __wrap_segment_new(struct tcp *tcp)
{
	if (tcp->segment_free != 0)
		ASAN_UNPOISON_MEMORY_REGION(segment_at(tcp, tcp->segment_free), sizeof(struct tcp_segment));
	return __real_segment_new(tcp);
}

void __wrap_segment_free(struct tcp *tcp, uint32_t segment)
{
	__real_segment_free(tcp, segment);
	poison(segment_at(tcp, segment), sizeof(struct tcp_segment), LINKS);
}

uint32_t __wrap_range_new(struct tcp *tcp)
{
	if (tcp->range_free != 0)
		ASAN_UNPOISON_MEMORY_REGION(range_at(tcp, tcp->range_free), sizeof(struct tcp_range));
	return __real_range_new(tcp);
}

void __wrap_range_free(struct tcp *tcp, uint32_t range)
{
	__real_range_free(tcp, range);
	poison(range_at(tcp, range), sizeof(struct tcp_range), LINKS);
}
