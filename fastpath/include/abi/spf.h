// OSPF's two tight loops: the checksum of LSAs, and shortest paths.
//
// No shared memory and no state between two calls.  vrouter/wire/ospf/fletcher.py and
// vrouter/proto/ospf/dijkstra.py do the same in Python.
#ifndef ABI_SPF_H
#define ABI_SPF_H

#include <stdint.h>

enum spf_limits {
	SPF_MAX_WORDS = 64           // of hops: 64 labels in each
};
#define SPF_UNREACHABLE 0xffffffff

// Rows of edges: those of vertex v are counts[v] from starts[v] on.  labels[e] is the number of
// the hop that begins with edge e, or -1; networks[v] is 1 for a network.
struct spf_graph {
	const uint32_t *starts;
	const uint32_t *counts;
	const uint8_t *networks;
	const uint32_t *targets;
	const uint32_t *costs;
	const int32_t *labels;
	uint32_t vertices;
	uint32_t edges;
	uint32_t root;
	uint32_t words;              // of hops for each vertex
};

// Distances from the root, and for each vertex `words` words with the labels of its first hops as
// bits.  0, -EINVAL for a graph that leads outside its arrays, or -ENOMEM.
int spf_run(const struct spf_graph *graph, uint32_t *distances, uint64_t *hops);

// The checksum that belongs into an LSA (RFC 2328 section 12.1.7), whatever stands there now; 0 for
// what is too short to be one.
uint32_t fletcher_lsa(const uint8_t *lsa, uint32_t length);

#endif
