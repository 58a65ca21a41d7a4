// The tables of the multicast listener: groups of an interface, and the sources of a group.
//
// All of it is allocated once; groups and nodes are numbered, 0 stands for none.
#include "host/listener.h"

#include <stdlib.h>

struct listener *listener_new(void)
{
	struct listener *l = calloc(1, sizeof(*l));
	if (l != NULL)
		l->deadline = LISTENER_NEVER;
	return l;
}

void listener_free(struct listener *l)
{
	free(l);
}

bool listener_joined(const struct listener *l, const struct listener_group *group)
{
	if (group->mode == MEMBERSHIP_EXCLUDE)
		return true;
	for (uint16_t at = group->nodes; at != 0; at = l->nodes[at - 1].next)
		if (l->nodes[at - 1].listed)
			return true;
	return false;
}

// --- nodes ---

uint16_t listener_node_new(struct listener *l, const uint8_t *address, uint16_t next)
{
	uint16_t at = l->nodes_free;
	if (at != 0)
		l->nodes_free = listener_node(l, at)->next;
	else if (l->nodes_used < LISTENER_NODES)
		at = (uint16_t)++l->nodes_used;
	else
		return 0;
	struct listener_node *node = listener_node(l, at);
	*node = (struct listener_node){.next = next};
	memcpy(node->address, address, 16);
	return at;
}

void listener_node_remove(struct listener *l, uint16_t *at)
{
	uint16_t gone = *at;
	*at = listener_node(l, gone)->next;
	listener_node(l, gone)->next = l->nodes_free;
	l->nodes_free = gone;
}

void listener_nodes_clear(struct listener *l, uint16_t *head)
{
	while (*head != 0)
		listener_node_remove(l, head);
}

struct listener_node *listener_node_find(struct listener *l, uint16_t head, const uint8_t *address)
{
	for (uint16_t at = head; at != 0; at = listener_node(l, at)->next)
		if (address_equal(listener_node(l, at)->address, address))
			return listener_node(l, at);
	return NULL;
}

// --- groups ---

static uint32_t *bucket_of(struct listener *l, uint8_t family, uint16_t interface, const uint8_t *group)
{
	uint32_t hash = interface * 0x9e3779b1u ^ family;
	for (int i = 0; i < 16; i += 4)
		hash = (hash ^ load32(group + i)) * 0xc2b2ae35;
	return &l->buckets[(hash >> 16) % LISTENER_BUCKETS];
}

struct listener_group *listener_find(struct listener *l, uint8_t family, uint16_t interface, const uint8_t *address)
{
	for (uint32_t at = *bucket_of(l, family, interface, address); at != 0; at = l->groups[at - 1].chain) {
		struct listener_group *group = &l->groups[at - 1];
		if (group->interface == interface && group->family == family && address_equal(group->address, address))
			return group;
	}
	return NULL;
}

struct listener_group *listener_group_new(struct listener *l, uint8_t family, uint16_t interface, const uint8_t *address)
{
	uint32_t at = l->groups_free;
	if (at != 0)
		l->groups_free = l->groups[at - 1].chain;
	else if (l->groups_used < LISTENER_GROUPS)
		at = ++l->groups_used;
	else
		return NULL;
	struct listener_group *group = &l->groups[at - 1];
	struct listener_port *port = listener_port_of(l, family, interface);
	uint32_t *bucket = bucket_of(l, family, interface, address);
	*group = (struct listener_group){
		.family = family, .interface = interface, .mode = MEMBERSHIP_INCLUDE, .answer_at = LISTENER_NEVER, .chain = *bucket, .next = port->groups,
	};
	memcpy(group->address, address, 16);
	*bucket = at;
	if (port->groups != 0)
		l->groups[port->groups - 1].previous = at;
	port->groups = at;
	return group;
}

void listener_group_release(struct listener *l, struct listener_group *group)
{
	if (group->queued || group->implicit || group->mode == MEMBERSHIP_EXCLUDE || group->nodes != 0)
		return;
	uint32_t number = (uint32_t)(group - l->groups) + 1;
	uint32_t *at = bucket_of(l, group->family, group->interface, group->address);
	while (*at != number)
		at = &l->groups[*at - 1].chain;
	*at = group->chain;
	if (group->next != 0)
		l->groups[group->next - 1].previous = group->previous;
	if (group->previous != 0)
		l->groups[group->previous - 1].next = group->next;
	else
		listener_port_of(l, group->family, group->interface)->groups = group->next;
	listener_nodes_clear(l, &group->asked);
	group->family = FAMILY_NONE;
	group->chain = l->groups_free;
	l->groups_free = number;
}

void listener_forget_changes(struct listener *l, struct listener_group *group)
{
	group->mode_changes = 0;
	for (uint16_t *at = &group->nodes; *at != 0;) {
		listener_node(l, *at)->changes = 0;
		if (listener_node(l, *at)->listed)
			at = &listener_node(l, *at)->next;
		else
			listener_node_remove(l, at);
	}
}

bool listener_changing(struct listener *l, const struct listener_group *group)
{
	if (group->mode_changes != 0)
		return true;
	for (uint16_t at = group->nodes; at != 0; at = listener_node(l, at)->next)
		if (listener_node(l, at)->changes != 0)
			return true;
	return false;
}
