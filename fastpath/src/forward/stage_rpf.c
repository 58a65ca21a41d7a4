// Unicast reverse path forwarding (RFC 3704): is the source to be reached by the interface that the
// packet came in on (strict), or at all (loose)?
//
// As Linux's rp_filter does it: any hop of an ECMP group will do; what leads to nobody (blackhole,
// unreachable, a broadcast or an address of ours) does not count; IPv6 packets from the unspecified and
// from link-local addresses pass, and those from 0.0.0.0/8 to a group or a broadcast (DHCP).
// Where a default route is not to count (RFC 3704 section 2.4), the source's group is compared with
// that of the default route, and only if it is the same, the table of installed routes is asked for
// anything more specific.  Not supported: the feasible paths of RFC 3704 section 2.3 and RFC 8704 beyond
// what the FIB holds.
#include "forward/route.h"
#include "forward/stage.h"

#include "table/installed.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

// Links and networks that a source may have without a route.
static bool is_exempt(const struct stage *stage)
{
	const struct ip4_header *ip4 = (const void *)stage->ip;
	const struct ip6_header *ip6 = (const void *)stage->ip;

	if (stage->family == FAMILY_IPV6)
		return ip6_is_any(ip6->source) || ip6_is_link_local(ip6->source);
	if (stage->own_echo)
		return true;
	return ip4->source[0] == 0 && (ip4_is_multicast(ip4->destination) || ip4_is_limited_broadcast(ip4->destination));
}

enum drop_reason stage_rpf(struct forward *f, struct stage *stage)
{
	const struct filter_interface *bound = f->filters.by_index[stage->interface->index];
	const uint8_t *source = stage->ip + (stage->family == FAMILY_IPV4 ? offsetof(struct ip4_header, source)
		: offsetof(struct ip6_header, source));
	uint16_t group = stage->source_group;

	if (bound == NULL)
		return f->filters.broken ? DROP_RPF : DROP_NONE;
	if (bound->rpf == RPF_OFF || is_exempt(stage))
		return DROP_NONE;
	if (stage->family == FAMILY_IPV6)
		group = fib_lookup(&f->tables, FAMILY_IPV6, source);
	if (!route_leads(f, group, bound->rpf == RPF_STRICT ? stage->interface->index : 0))
		return DROP_RPF;
	if (!bound->rpf_default && installed_is_default(&f->tables, stage->family, source, group))
		return DROP_RPF;
	return DROP_NONE;
}
