// Why a packet went no further.  The names, without DROP_ and in lower case, are the
// labels in JSON, in metrics and in traces; docs/drops.md explains each.
#ifndef ABI_DROP_REASON_H
#define ABI_DROP_REASON_H

enum drop_reason {
	DROP_NONE = 0,
	// Link and Ethernet
	DROP_RUNT,                 // shorter than an Ethernet header
	DROP_TRUNCATED,            // the ring held less than the frame
	DROP_NOT_FOR_US,           // unicast to another MAC
	DROP_UNKNOWN_VLAN,
	DROP_UNKNOWN_ETHERTYPE,
	DROP_SOURCE_MAC,           // multicast or zero source MAC
	DROP_OWN_MAC,              // our own frame came back
	DROP_INTERFACE_DOWN,
	DROP_NO_INTERFACE,         // no interface is configured on this port
	// ARP and neighbor discovery
	DROP_ARP_MALFORMED,
	DROP_ARP_NOT_FOR_US,
	DROP_ARP_SPOOFED,          // claims an address of ours, or an impossible one
	DROP_ND_MALFORMED,
	DROP_ND_HOP_LIMIT,         // RFC 4861: hop limit must be 255
	DROP_ND_NOT_FOR_US,
	DROP_NEIGHBOR_UNRESOLVED,  // the neighbor did not answer
	DROP_NEIGHBOR_QUEUE_FULL,
	DROP_NEIGHBOR_TABLE_FULL,
	DROP_NEIGHBOR_RATE_LIMITED,
	// IPv4
	DROP_IP4_TRUNCATED,
	DROP_IP4_VERSION,
	DROP_IP4_HEADER_LENGTH,
	DROP_IP4_TOTAL_LENGTH,
	DROP_IP4_CHECKSUM,
	DROP_IP4_SOURCE,           // martian source
	DROP_IP4_DESTINATION,      // martian destination
	DROP_IP4_OPTIONS,          // malformed or refused option
	DROP_IP4_BROADCAST,        // IP unicast in a link broadcast, or the reverse
	DROP_DIRECTED_BROADCAST,
	DROP_MULTICAST,            // no multicast routing
	// IPv6
	DROP_IP6_TRUNCATED,
	DROP_IP6_VERSION,
	DROP_IP6_PAYLOAD_LENGTH,
	DROP_IP6_SOURCE,
	DROP_IP6_DESTINATION,
	DROP_IP6_EXTENSION,        // malformed or refused extension header
	DROP_IP6_SCOPE,            // link-local traffic is not forwarded
	// Stages that an operator has switched on
	DROP_ACL_IN,
	DROP_ACL_OUT,
	DROP_RPF,                  // the source is not to be reached by the interface that it came in on
	DROP_POLICE_IN,            // more than the policer of the interface that it came in on allows
	DROP_POLICE_OUT,           // more than that of the interface that it would have left by
	// Forwarding
	DROP_TTL_EXPIRED,
	DROP_NO_ROUTE,
	DROP_BLACKHOLE,
	DROP_UNREACHABLE,
	DROP_BAD_NEXTHOP,          // the FIB led to something that is not valid
	DROP_FRAGMENTATION_NEEDED, // DF set, or IPv6, and larger than the egress MTU
	DROP_FRAGMENT_FAILED,
	DROP_GSO_UNSUPPORTED,      // super-packet that can be neither sent nor split
	DROP_EGRESS_DOWN,
	DROP_TX_FULL,              // the driver took no more
	DROP_TX_ERROR,
	DROP_TX_TOO_BIG,
	DROP_NO_BUFFER,
	DROP_LOOP,                 // a packet of ours that would come back for ever
	DROP_HANDOVER_FULL,        // worker 0 is behind with what other workers give it
	// Local delivery
	DROP_CONTROL_PLANE,        // more of its class than this router works on
	DROP_REASSEMBLY_TIMEOUT,
	DROP_REASSEMBLY_OVERLAP,
	DROP_REASSEMBLY_FULL,
	DROP_REASSEMBLY_MALFORMED,
	DROP_ICMP_MALFORMED,
	DROP_ICMP_CHECKSUM,
	DROP_ICMP_RATE_LIMITED,    // an error message that was not sent
	DROP_ICMP_IGNORED,         // a type that we do not take part in
	DROP_IGMP_MALFORMED,
	DROP_IGMP_CHECKSUM,
	DROP_IGMP_TTL,             // it crossed a router
	DROP_IGMP_IGNORED,         // a type that hosts take no part in
	DROP_MLD_MALFORMED,
	DROP_MLD_NOT_LOCAL,        // its source, hop limit or lack of a router alert: not of this link
	DROP_SOURCE_FILTERED,      // no member of the group wants this source
	DROP_UDP_MALFORMED,
	DROP_UDP_CHECKSUM,
	DROP_NO_SOCKET,
	DROP_NO_PROTOCOL,          // nobody speaks this IP protocol here
	DROP_SOCKET_QUEUE_FULL,    // the app does not read
	DROP_SOCKET_DENIED,        // the app may not send this
	DROP_SOCKET_MALFORMED,     // the app's message has no valid header
	DROP_TCP_MALFORMED,
	DROP_TCP_CHECKSUM,
	DROP_TCP_NO_CONNECTION,    // answered by a RST, where one is due
	DROP_TCP_STRAY,            // outside the window, or acknowledges what was never sent
	DROP_TCP_OLD_TIMESTAMP,    // PAWS (RFC 7323 section 5)
	DROP_TCP_RESET,            // a RST that ended a connection, or one that was not believed
	DROP_TCP_AUTHENTICATION,   // RFC 2385: a digest is wrong, missing, or not expected
	DROP_TCP_MIN_TTL,          // RFC 5082
	DROP_TCP_LISTEN_FULL,      // half-open or accept queue
	DROP_TCP_NO_MEMORY,
	DROP_TCP_CLOSED,           // data for a connection whose app takes no more
	DROP_BFD_MALFORMED,
	DROP_BFD_TTL,              // RFC 5881 section 5: it crossed a router
	DROP_BFD_NO_SESSION,
	DROP_BFD_AUTHENTICATION,   // RFC 5880 section 6.7
	DROP_NO_SOURCE_ADDRESS,
	DROP_DUPLICATE_ADDRESS,    // the address failed duplicate address detection
	// Accounting
	DROP_RESTART,              // in flight when the forwarder died: fate unknown
	DROP_INJECTED,             // the fault-injection wrapper
	DROP_REASON_COUNT
};

#endif
