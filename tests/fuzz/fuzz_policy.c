// libFuzzer target: policy programs and routes that nobody should trust.
//
// The input begins with a route, its lists in buffers of exactly their size, so that a read beyond one is a crash;
// what follows is the program.  Its magic number and size are put right, for more of it to be looked at.
//
//   clang -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_policy.c <policy>
#include <stdlib.h>
#include <string.h>

#include "policy/policy.h"
#include "policy/program.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *at;
	size_t left;
};

static uint32_t take(struct input *input, uint32_t bytes)
{
	uint32_t value = 0;
	for (; bytes > 0 && input->left > 0; bytes--, input->left--)
		value = value << 8 | *input->at++;
	return value;
}

static uint8_t *take_list(struct input *input, uint32_t *size)
{
	uint32_t wanted = take(input, 1);
	*size = (uint32_t)(wanted < input->left ? wanted : input->left);
	uint8_t *list = malloc(*size > 0 ? *size : 1);
	if (list == NULL)
		abort();
	memcpy(list, input->at, *size);
	input->at += *size;
	input->left -= *size;
	return list;
}

static void take_bytes(struct input *input, uint8_t *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		bytes[i] = (uint8_t)take(input, 1);
}

static void take_route(struct input *input, struct policy_route *route)
{
	route->has = take(input, 1);
	route->family = (uint8_t)take(input, 1);
	route->length = (uint8_t)take(input, 1);
	route->protocol = (uint8_t)take(input, 1);
	route->origin = (uint8_t)take(input, 1);
	route->next_hop_family = (uint8_t)take(input, 1);
	route->neighbor_family = (uint8_t)take(input, 1);
	take_bytes(input, route->address, sizeof route->address);
	take_bytes(input, route->next_hop, sizeof route->next_hop);
	take_bytes(input, route->neighbor, sizeof route->neighbor);
	take_bytes(input, (uint8_t *)route->interface, 2);
	route->local_pref = take(input, 4);
	route->med = take(input, 4);
	route->metric = take(input, 1);
	route->tag = take(input, 1);
	route->as_path = take_list(input, &route->as_path_size);
	route->communities = take_list(input, &route->communities_size);
	route->large = take_list(input, &route->large_size);
	route->extended = take_list(input, &route->extended_size);
}

static void check(const struct policy_verdict *verdict)
{
	if (verdict->prepend_count > POLICY_MAX_PREPEND || (!verdict->accept && verdict->changed != 0))
		abort();
	if ((verdict->changed & POLICY_COMMUNITIES) && verdict->communities_size > POLICY_LIST_BYTES)
		abort();
	if ((verdict->changed & POLICY_LARGE) && verdict->large_size > POLICY_LIST_BYTES)
		abort();
	if ((verdict->changed & POLICY_EXTENDED) && verdict->extended_size > POLICY_LIST_BYTES)
		abort();
}

static void run(const uint8_t *program, size_t size, const struct policy_route *route)
{
	static struct policy_room room;
	struct policy *policy;
	if (policy_load(program, size, &policy) != 0)
		return;
	struct policy_verdict verdict;
	policy_evaluate(policy, route, &room, &verdict);
	check(&verdict);
	(void)policy_looks_at_prefix(policy);
	policy_free(policy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {data, size};
	struct policy_route route = {0};
	take_route(&input, &route);
	size_t program_size = input.left - input.left % 4;
	uint32_t *program = malloc(program_size + 1);
	if (program == NULL)
		abort();
	memcpy(program, input.at, program_size);
	if (program_size >= sizeof(struct policy_header)) {
		program[0] = POLICY_MAGIC;
		program[1] = (uint32_t)(program_size / 4);
	}
	run((const uint8_t *)program, program_size, &route);
	free(program);
	free((void *)(uintptr_t)route.as_path);
	free((void *)(uintptr_t)route.communities);
	free((void *)(uintptr_t)route.large);
	free((void *)(uintptr_t)route.extended);
	return 0;
}
