// Shortest paths from one vertex, with all first hops of equal cost: Dijkstra's algorithm with a
// binary heap, RFC 2328 section 16.1.
//
// An edge counts only when its other end has one back.  An edge of the root without a label leads
// nowhere; an edge of a network that the root is attached to has a label of its own, which stands
// in for the network's.  Of vertices at the same distance networks come first, so that routers
// behind them learn of all ways.
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "abi/spf.h"

struct heap_item {
	uint64_t key;   // distance, then 0 for a network and 1 for a router
	uint32_t vertex;
};

struct search {
	const struct spf_graph *graph;
	uint32_t *distances;
	uint64_t *hops;
	uint64_t *direct;       // labels of the edges that lead from the root to a network
	uint64_t *first;        // scratch: hops by one edge
	uint8_t *settled;
	struct heap_item *heap; // room for one item of each edge, and the root
	uint32_t size;
};

static bool item_before(const struct heap_item *one, const struct heap_item *other)
{
	return one->key != other->key ? one->key < other->key : one->vertex < other->vertex;
}

static void heap_push(struct search *s, uint32_t vertex)
{
	struct heap_item item = {
		.key = (uint64_t)s->distances[vertex] << 1 | (s->graph->networks[vertex] ? 0 : 1),
		.vertex = vertex,
	};
	uint32_t at = s->size++;
	while (at > 0) {
		uint32_t parent = (at - 1) / 2;
		if (!item_before(&item, &s->heap[parent]))
			break;
		s->heap[at] = s->heap[parent];
		at = parent;
	}
	s->heap[at] = item;
}

static uint32_t heap_pop(struct search *s)
{
	uint32_t vertex = s->heap[0].vertex, at = 0;
	struct heap_item item = s->heap[--s->size];
	for (;;) {
		uint32_t child = 2 * at + 1;
		if (child >= s->size)
			break;
		if (child + 1 < s->size && item_before(&s->heap[child + 1], &s->heap[child]))
			child++;
		if (!item_before(&s->heap[child], &item))
			break;
		s->heap[at] = s->heap[child];
		at = child;
	}
	s->heap[at] = item;
	return vertex;
}

static bool leads_back(const struct spf_graph *graph, uint32_t from, uint32_t to)
{
	for (uint32_t edge = graph->starts[from], end = edge + graph->counts[from]; edge < end; edge++) {
		if (graph->targets[edge] == to)
			return true;
	}
	return false;
}

// What the first hops are when a path goes on by `edge`; false: it cannot.
static bool find_first(struct search *s, uint32_t vertex, uint32_t edge)
{
	const struct spf_graph *graph = s->graph;
	uint32_t words = graph->words;
	int32_t label = graph->labels[edge];
	const uint64_t *hops = s->hops + (size_t)vertex * words, *direct = s->direct + (size_t)vertex * words;
	bool relabel = vertex == graph->root;
	if (relabel) {
		if (label < 0)
			return false;
		memset(s->first, 0, words * sizeof(*s->first));
	} else {
		uint64_t common = 0;
		for (uint32_t w = 0; w < words; w++)
			common |= hops[w] & direct[w];
		relabel = common != 0 && label >= 0;
		for (uint32_t w = 0; w < words; w++)
			s->first[w] = common != 0 ? hops[w] & ~direct[w] : hops[w];
	}
	if (relabel)
		s->first[(uint32_t)label / 64] |= UINT64_C(1) << ((uint32_t)label % 64);
	return true;
}

static void relax(struct search *s, uint32_t vertex, uint32_t edge)
{
	const struct spf_graph *graph = s->graph;
	uint32_t target = graph->targets[edge], words = graph->words;
	uint64_t following = (uint64_t)s->distances[vertex] + graph->costs[edge];
	if (s->settled[target] || following > s->distances[target] || following >= SPF_UNREACHABLE)
		return;
	if (!find_first(s, vertex, edge) || !leads_back(graph, target, vertex))
		return;
	uint64_t *hops = s->hops + (size_t)target * words;
	if (vertex == graph->root && graph->networks[target]) {
		uint64_t *direct = s->direct + (size_t)target * words;
		for (uint32_t w = 0; w < words; w++)
			direct[w] |= s->first[w];
	}
	if (following < s->distances[target]) {
		s->distances[target] = (uint32_t)following;
		memcpy(hops, s->first, words * sizeof(*hops));
		heap_push(s, target);
		return;
	}
	for (uint32_t w = 0; w < words; w++)
		hops[w] |= s->first[w];
}

static void search_run(struct search *s)
{
	const struct spf_graph *graph = s->graph;
	s->distances[graph->root] = 0;
	heap_push(s, graph->root);
	while (s->size > 0) {
		uint32_t vertex = heap_pop(s);
		if (s->settled[vertex])
			continue;
		s->settled[vertex] = 1;
		for (uint32_t edge = graph->starts[vertex], end = edge + graph->counts[vertex]; edge < end; edge++)
			relax(s, vertex, edge);
	}
}

static bool graph_valid(const struct spf_graph *graph)
{
	if (graph->root >= graph->vertices || graph->words == 0 || graph->words > SPF_MAX_WORDS)
		return false;
	for (uint32_t v = 0; v < graph->vertices; v++) {
		if (graph->starts[v] > graph->edges || graph->counts[v] > graph->edges - graph->starts[v])
			return false;
	}
	for (uint32_t edge = 0; edge < graph->edges; edge++) {
		if (graph->targets[edge] >= graph->vertices)
			return false;
		if (graph->labels[edge] >= 0 && (uint32_t)graph->labels[edge] >= graph->words * 64)
			return false;
	}
	return true;
}

int spf_run(const struct spf_graph *graph, uint32_t *distances, uint64_t *hops)
{
	if (!graph_valid(graph))
		return -EINVAL;
	size_t cells = (size_t)graph->vertices * graph->words;
	uint64_t pushes = 1; // rows may share edges
	for (uint32_t v = 0; v < graph->vertices; v++)
		pushes += graph->counts[v];
	struct search s = {
		.graph = graph,
		.distances = distances,
		.hops = hops,
		.direct = calloc(cells + graph->words, sizeof(uint64_t)),
		.settled = calloc(graph->vertices, 1),
		.heap = pushes < SPF_UNREACHABLE ? calloc(pushes, sizeof(struct heap_item)) : NULL,
	};
	int result = -ENOMEM;
	if (s.direct != NULL && s.settled != NULL && s.heap != NULL) {
		s.first = s.direct + cells;
		memset(distances, 0xff, graph->vertices * sizeof(*distances));
		memset(hops, 0, cells * sizeof(*hops));
		search_run(&s);
		result = 0;
	}
	free(s.direct);
	free(s.settled);
	free(s.heap);
	return result;
}
