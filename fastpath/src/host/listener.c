// The host side of IGMP and MLD: what each interface wants of each group, when routers are
// told, and when their queries are answered.
//
// RFC 3376 sections 3.2, 5 and 7.2, RFC 3810 sections 4.2, 6 and 8.2: the state of an interface
// is the merge of its sockets' memberships, changes are reported Robustness Variable times, and
// a querier of an older version makes the interface speak that version for a while (RFC 1112,
// RFC 2236, RFC 2710).  RFC 3590: what was said from :: is repeated from the link-local address.
//
// All of it is private and made anew from the memberships after a restart, so that routers are
// told once more.  Calls from apps only note what has changed: they have no time; the next
// listener_tick, due at once, sends it.
#include "host/listener.h"

#include "wire/ip6.h"

enum { ROBUSTNESS = 2 };

#define QUERY_INTERVAL (125 * LISTENER_S)
#define QUERY_RESPONSE (10 * LISTENER_S)
#define UNSOLICITED_OLD (10 * LISTENER_S) // Unsolicited Report Interval of RFC 2236, RFC 2710
#define UNSOLICITED_NEW (1 * LISTENER_S)  // of RFC 3376, RFC 3810
#define SLACK (5 * LISTENER_MS)           // answers of many groups go out together

static void deadline_by(struct listener *l, uint64_t when)
{
	if (when < l->deadline)
		l->deadline = when;
}

static uint64_t random_below(struct host *host, uint64_t limit)
{
	return limit > 1 ? host_random(host) % limit : 0;
}

static uint8_t port_version(const struct listener_port *port, uint8_t family, uint64_t now)
{
	if (now < port->older[0])
		return 1;
	if (family == FAMILY_IPV4 && now < port->older[1])
		return 2;
	return listener_newest(family);
}

static void group_queue(struct listener *l, struct listener_group *group, uint64_t when)
{
	struct listener_port *port = listener_port_of(l, group->family, group->interface);
	if (!group->queued) {
		group->queued = true;
		group->next_changed = port->changed;
		port->changed = (uint32_t)(group - l->groups) + 1;
	}
	if (when < port->changes_at)
		port->changes_at = when;
	deadline_by(l, when);
}

static void group_arm(struct listener *l, struct listener_group *group, uint64_t when)
{
	struct listener_port *port = listener_port_of(l, group->family, group->interface);
	group->answer_at = when;
	if (when < port->answers_at)
		port->answers_at = when;
	deadline_by(l, when);
}

// The nodes become those of the filter; false where there are not enough.
static bool group_list(struct listener *l, struct listener_group *group, const struct source_filter *filter, uint8_t changes)
{
	for (uint16_t at = group->nodes; at != 0; at = listener_node(l, at)->next) {
		struct listener_node *node = listener_node(l, at);
		bool wanted = false;
		for (int i = 0; i < filter->count && !wanted; i++)
			wanted = address_equal(filter->sources[i], node->address);
		if (node->listed != wanted)
			node->changes = changes;
		node->listed = wanted;
	}
	for (int i = 0; i < filter->count; i++) {
		if (listener_node_find(l, group->nodes, filter->sources[i]) != NULL)
			continue;
		uint16_t at = listener_node_new(l, filter->sources[i], group->nodes);
		if (at == 0)
			return false;
		listener_node(l, at)->listed = true;
		listener_node(l, at)->changes = changes;
		group->nodes = at;
	}
	return true;
}

// RFC 3376 section 5.1: a change of mode tells the whole list, other changes the difference.
static void group_become(struct listener *l, struct listener_group *group, const struct source_filter *filter)
{
	const struct listener_port *port = listener_port_of(l, group->family, group->interface);
	if (group->mode != filter->mode) {
		group->mode = filter->mode;
		group->mode_changes = port->robustness;
		listener_nodes_clear(l, &group->nodes);
	}
	bool listed = group_list(l, group, filter, group->mode_changes != 0 ? 0 : port->robustness);
	if (!listed) {
		// Who cannot remember the sources wants all of them.
		listener_nodes_clear(l, &group->nodes);
		if (group->mode != MEMBERSHIP_EXCLUDE)
			group->mode_changes = port->robustness;
		group->mode = MEMBERSHIP_EXCLUDE;
	}
	if (!port->up)
		listener_forget_changes(l, group);
	else if (listener_changing(l, group))
		group_queue(l, group, 0);
	listener_group_release(l, group);
}

// RFC 3376 section 6, RFC 3810 section 6: all-hosts, all-nodes and what does not leave the
// node are never reported.
static bool reportable(uint8_t family, const uint8_t *group)
{
	static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
	if (family == FAMILY_IPV4)
		return load32(group) != INADDR_ALLHOSTS_GROUP;
	return ip6_multicast_scope(group) >= 2 && memcmp(group, all_nodes, 16) != 0;
}

void listener_update(struct host *host, uint8_t family, uint16_t interface, const uint8_t *address)
{
	struct source_filter filter;
	if (!reportable(family, address) || interface >= MAX_INTERFACES)
		return;
	struct listener_group *group = listener_find(host->listener, family, interface, address);
	if (group != NULL && group->implicit)
		filter = (struct source_filter){.mode = MEMBERSHIP_EXCLUDE};
	else
		membership_merge(host, family, interface, address, &filter);
	if (group == NULL && filter.mode == MEMBERSHIP_INCLUDE && filter.count == 0)
		return;
	if (group == NULL)
		group = listener_group_new(host->listener, family, interface, address);
	if (group != NULL)
		group_become(host->listener, group, &filter);
}

// --- what is said ---

static void group_report_old(struct host *host, struct listener_group *group, uint8_t version)
{
	if (group->family == FAMILY_IPV4)
		igmp_report(host, group->interface, group->address, version);
	else
		mld_report(host, group->interface, group->address);
	group->announced = true;
	group->reporter = true;
}

// RFC 2236 section 3, RFC 2710 section 4; version 1 of IGMP leaves in silence.
static void group_change_old(struct host *host, struct listener_group *group, uint8_t version)
{
	struct listener *l = host->listener;
	bool joined = listener_joined(l, group);
	if (joined && !group->announced) {
		group_report_old(host, group, version);
		group->unsolicited = (uint8_t)(listener_port_of(l, group->family, group->interface)->robustness - 1);
		if (group->unsolicited > 0)
			group_arm(l, group, host->now + random_below(host, UNSOLICITED_OLD));
	} else if (!joined && group->announced) {
		if (group->reporter && group->family == FAMILY_IPV6)
			mld_done(host, group->interface, group->address);
		else if (group->reporter && version == 2)
			igmp_leave(host, group->interface, group->address);
		group->announced = false;
		group->answer_at = LISTENER_NEVER;
	}
	listener_forget_changes(l, group);
}

static void changes_count_down(struct listener *l, struct listener_group *group)
{
	if (group->mode_changes > 0)
		group->mode_changes--;
	for (uint16_t *at = &group->nodes; *at != 0;) {
		struct listener_node *node = listener_node(l, *at);
		if (node->changes > 0)
			node->changes--;
		if (node->listed || node->changes > 0)
			at = &node->next;
		else
			listener_node_remove(l, at);
	}
}

static void port_send_changes(struct host *host, uint8_t family, uint16_t interface)
{
	struct listener *l = host->listener;
	struct listener_port *port = listener_port_of(l, family, interface);
	uint8_t version = port_version(port, family, host->now);
	uint32_t at = port->changed;
	struct listener_report report;
	port->changed = 0;
	port->changes_at = LISTENER_NEVER;
	report_begin(host, family, interface, &report);
	while (at != 0) {
		struct listener_group *group = &l->groups[at - 1];
		at = group->next_changed;
		group->queued = false;
		if (version < listener_newest(family)) {
			group_change_old(host, group, version);
		} else {
			report_changes(&report, group);
			changes_count_down(l, group);
			group->announced = listener_joined(l, group);
			group->reporter = true;
		}
		if (listener_changing(l, group))
			group_queue(l, group, host->now + 1 + random_below(host, UNSOLICITED_NEW));
		listener_group_release(l, group);
	}
	report_send(&report);
}

static void port_answer_general(struct host *host, uint8_t family, uint16_t interface)
{
	struct listener *l = host->listener;
	struct listener_port *port = listener_port_of(l, family, interface);
	struct listener_report report;
	port->general_at = LISTENER_NEVER;
	report_begin(host, family, interface, &report);
	for (uint32_t at = port->groups; at != 0; at = l->groups[at - 1].next) {
		struct listener_group *group = &l->groups[at - 1];
		listener_nodes_clear(l, &group->asked); // this tells all of it
		if (listener_joined(l, group))
			report_current(&report, group);
	}
	report_send(&report);
}

static void group_answer(struct host *host, struct listener_group *group, uint8_t version, struct listener_report *report)
{
	struct listener *l = host->listener;
	group->answer_at = LISTENER_NEVER;
	if (!listener_joined(l, group))
		return;
	if (version < listener_newest(group->family))
		group_report_old(host, group, version);
	else
		report_current(report, group);
	listener_nodes_clear(l, &group->asked);
	if (group->unsolicited > 0 && --group->unsolicited > 0)
		group_arm(l, group, host->now + random_below(host, UNSOLICITED_OLD));
}

static void port_answer_groups(struct host *host, uint8_t family, uint16_t interface)
{
	struct listener *l = host->listener;
	struct listener_port *port = listener_port_of(l, family, interface);
	uint8_t version = port_version(port, family, host->now);
	struct listener_report report;
	uint64_t next = LISTENER_NEVER;
	report_begin(host, family, interface, &report);
	for (uint32_t at = port->groups; at != 0; at = l->groups[at - 1].next) {
		struct listener_group *group = &l->groups[at - 1];
		if (group->answer_at <= host->now + SLACK)
			group_answer(host, group, version, &report);
		if (group->answer_at < next)
			next = group->answer_at;
	}
	report_send(&report);
	port->answers_at = next;
}

// --- what is heard ---

static void port_cancel(struct listener *l, struct listener_port *port)
{
	port->general_at = LISTENER_NEVER;
	port->answers_at = LISTENER_NEVER;
	for (uint32_t at = port->groups; at != 0; at = l->groups[at - 1].next) {
		struct listener_group *group = &l->groups[at - 1];
		group->answer_at = LISTENER_NEVER;
		group->unsolicited = 0;
		listener_nodes_clear(l, &group->asked);
		listener_forget_changes(l, group);
	}
}

// RFC 3376 section 7.2.1, RFC 3810 section 8.2.1.  A change of version cancels what was to be
// said in the old one; what has not been said at all is still on the list of changes.
static void port_older_querier(struct host *host, struct listener_port *port, const struct listener_query *query)
{
	uint8_t before = port_version(port, query->family, host->now);
	port->older[query->version - 1] = host->now + port->robustness * port->interval + port->response;
	if (port_version(port, query->family, host->now) != before)
		port_cancel(host->listener, port);
}

static void port_learn(struct listener_port *port, const struct listener_query *query)
{
	port->robustness = query->robustness != 0 ? query->robustness : ROBUSTNESS;
	port->interval = query->interval != 0 ? query->interval : QUERY_INTERVAL;
	port->response = query->delay;
}

// RFC 2236 section 3: a running timer is set anew only where it would end too late.
static void group_schedule_old(struct host *host, struct listener_group *group, uint64_t delay)
{
	if (listener_joined(host->listener, group) && (group->answer_at == LISTENER_NEVER || group->answer_at > host->now + delay))
		group_arm(host->listener, group, host->now + random_below(host, delay));
}

// The sources that the answer is to be about; false: all of them, or more than can be kept.
static bool group_ask(struct listener *l, struct listener_group *group, const struct listener_query *query)
{
	uint32_t size = listener_address_size(group->family);
	uint32_t count = 0;
	for (uint16_t at = group->asked; at != 0; at = listener_node(l, at)->next)
		count++;
	for (uint32_t i = 0; i < query->source_count; i++) {
		uint8_t address[16] = {0};
		memcpy(address, query->sources + i * size, size);
		if (listener_node_find(l, group->asked, address) != NULL)
			continue;
		uint16_t at = count < MEMBERSHIP_SOURCES ? listener_node_new(l, address, group->asked) : 0;
		if (at == 0)
			return false;
		group->asked = at;
		count++;
	}
	return query->source_count > 0;
}

// RFC 3376 section 5.2, rules 1 and 3 to 5.
static void group_schedule_new(struct host *host, struct listener_group *group, const struct listener_query *query)
{
	struct listener *l = host->listener;
	uint64_t at = host->now + random_below(host, query->delay);
	if (!listener_joined(l, group) || listener_port_of(l, group->family, group->interface)->general_at <= at)
		return;
	bool for_all = group->answer_at != LISTENER_NEVER && group->asked == 0;
	if (for_all || !group_ask(l, group, query))
		listener_nodes_clear(l, &group->asked);
	if (at < group->answer_at)
		group_arm(l, group, at);
}

void listener_query(struct host *host, const struct listener_query *query)
{
	struct listener *l = host->listener;
	struct listener_port *port = listener_port_of(l, query->family, query->interface);
	bool general = address_any(query->group);
	if (!port->up)
		return;
	if (query->version < listener_newest(query->family))
		port_older_querier(host, port, query);
	uint8_t version = port_version(port, query->family, host->now);
	if (version == listener_newest(query->family)) {
		port_learn(port, query);
		uint64_t at = host->now + random_below(host, query->delay);
		struct listener_group *group = general ? NULL : listener_find(l, query->family, query->interface, query->group);
		if (group != NULL)
			group_schedule_new(host, group, query);
		if (general && at < port->general_at)
			port->general_at = at;
		deadline_by(l, port->general_at);
		return;
	}
	// A querier of version 1 does not tell how long, and asks for everything.
	bool one = version == 1 && query->family == FAMILY_IPV4;
	for (uint32_t at = port->groups; at != 0; at = l->groups[at - 1].next) {
		struct listener_group *group = &l->groups[at - 1];
		if (general || one || address_equal(group->address, query->group))
			group_schedule_old(host, group, one ? QUERY_RESPONSE : query->delay);
	}
}

void listener_heard(struct host *host, uint8_t family, uint16_t interface, const uint8_t *address)
{
	struct listener_port *port = listener_port_of(host->listener, family, interface);
	struct listener_group *group = listener_find(host->listener, family, interface, address);
	if (group == NULL || !port->up || port_version(port, family, host->now) == listener_newest(family))
		return;
	group->answer_at = LISTENER_NEVER;
	group->unsolicited = 0;
	group->reporter = false;
}

// --- interfaces that come and go ---

// Tell of a group as if it had been joined now.
static void group_announce(struct listener *l, struct listener_group *group, uint8_t times)
{
	group->announced = false;
	if (group->mode == MEMBERSHIP_EXCLUDE)
		group->mode_changes = times;
	for (uint16_t at = group->nodes; at != 0; at = listener_node(l, at)->next)
		if (group->mode == MEMBERSHIP_INCLUDE)
			listener_node(l, at)->changes = times;
	if (listener_joined(l, group))
		group_queue(l, group, 0);
}

static void port_announce(struct listener *l, const struct listener_port *port)
{
	for (uint32_t at = port->groups; at != 0; at = l->groups[at - 1].next)
		group_announce(l, &l->groups[at - 1], port->robustness);
}

static void port_up(struct listener *l, struct listener_port *port)
{
	port->up = true;
	port->robustness = ROBUSTNESS;
	port->interval = QUERY_INTERVAL;
	port->response = QUERY_RESPONSE;
	port->older[0] = port->older[1] = 0;
	port->general_at = port->changes_at = port->answers_at = LISTENER_NEVER;
	port_announce(l, port);
}

static void port_down(struct listener *l, struct listener_port *port)
{
	port_cancel(l, port);
	port->up = false;
	port->changes_at = LISTENER_NEVER;
	for (uint32_t at = port->groups; at != 0;) {
		struct listener_group *group = &l->groups[at - 1];
		at = group->next;
		group->queued = false;
		group->announced = false;
		listener_group_release(l, group);
	}
	port->changed = 0;
}

static void port_refresh(struct host *host, uint8_t family, uint16_t index)
{
	static const uint8_t reports[16] = {0xff, 2, [15] = 0x16};
	struct listener_port *port = listener_port_of(host->listener, family, index);
	const struct interface_entry *interface = view_interface(host->tables, index);
	bool up = interface != NULL && interface->kind != INTERFACE_LOOPBACK && (interface->flags & INTERFACE_ADMIN_UP);
	if (up && host->ops.interface_up != NULL)
		up = host->ops.interface_up(host->ops.user, index);
	uint8_t source[16];
	uint16_t egress;
	bool local = up && family == FAMILY_IPV6 && host->ops.source(host->ops.user, FAMILY_IPV6, reports, index, source, &egress) &&
		address_link_local(FAMILY_IPV6, source);
	if (up && !port->up)
		port_up(host->listener, port);
	else if (up && local && !port->local) // RFC 3590
		port_announce(host->listener, port);
	else if (!up && port->up)
		port_down(host->listener, port);
	if (port->local != local) // pages of interfaces that are not there stay untouched
		port->local = local;
}

static void want_implicit(struct listener *l, uint16_t interface, const uint8_t *address)
{
	struct listener_group *group = listener_find(l, FAMILY_IPV6, interface, address);
	if (group == NULL)
		group = listener_group_new(l, FAMILY_IPV6, interface, address);
	if (group != NULL)
		group->wanted = true;
}

// The groups that forwarding listens to by itself: the solicited-node groups of our addresses
// and, where IPv6 is spoken, all routers (RFC 4291 section 2.8).
static void refresh_implicit(struct host *host)
{
	static const uint8_t routers[2][16] = {{0xff, 2, [15] = 2}, {0xff, 5, [15] = 2}};
	struct listener *l = host->listener;
	for (uint32_t i = 0; i < host->tables->address_count; i++) {
		const struct address_entry *address = &host->tables->addresses[i];
		uint8_t solicited[16];
		if (address->family != FAMILY_IPV6 || address->interface == 0 || address->interface >= MAX_INTERFACES)
			continue;
		ip6_solicited_node(address->address, solicited);
		want_implicit(l, address->interface, solicited);
		want_implicit(l, address->interface, routers[0]);
		want_implicit(l, address->interface, routers[1]);
	}
	for (uint32_t i = 0; i < l->groups_used; i++) {
		struct listener_group *group = &l->groups[i];
		if (group->family == FAMILY_NONE)
			continue;
		bool changed = group->implicit != group->wanted;
		group->implicit = group->wanted;
		group->wanted = false;
		if (changed)
			listener_update(host, group->family, group->interface, group->address);
	}
}

void host_interfaces_changed(struct host *host)
{
	host->listener->stale = true;
	host->listener->deadline = 0;
}

// --- time ---

static uint64_t port_tick(struct host *host, uint8_t family, uint16_t interface)
{
	struct listener_port *port = listener_port_of(host->listener, family, interface);
	if (!port->up)
		return LISTENER_NEVER;
	if (port->changes_at <= host->now)
		port_send_changes(host, family, interface);
	if (port->general_at <= host->now)
		port_answer_general(host, family, interface);
	if (port->answers_at <= host->now)
		port_answer_groups(host, family, interface);
	uint64_t next = port->changes_at < port->general_at ? port->changes_at : port->general_at;
	return next < port->answers_at ? next : port->answers_at;
}

void listener_tick(struct host *host)
{
	struct listener *l = host->listener;
	if (host->now < l->deadline)
		return;
	if (l->stale) {
		l->stale = false;
		refresh_implicit(host);
		for (uint16_t i = 1; i < MAX_INTERFACES; i++) {
			port_refresh(host, FAMILY_IPV4, i);
			port_refresh(host, FAMILY_IPV6, i);
		}
	}
	uint64_t next = LISTENER_NEVER;
	for (uint16_t i = 1; i < MAX_INTERFACES; i++) {
		for (uint8_t family = FAMILY_IPV4; family <= FAMILY_IPV6; family = (uint8_t)(family + 2)) {
			uint64_t at = port_tick(host, family, i);
			next = at < next ? at : next;
		}
	}
	l->deadline = next;
}

uint64_t listener_deadline(const struct host *host)
{
	return host->listener->deadline;
}
