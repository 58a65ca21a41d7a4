// BFD sessions: what control asks for, in the tables segment, and what became of it, in the
// state segment, where the forwarder keeps all that must outlive it.
//
//   tables_segment.bfd_root --> struct bfd_table: immutable, replaced as a whole
//   state_segment.bfd[slot]     the session of one entry: the same key, whatever else changes
//
// The key is remote, local, interface and BFD_MULTIHOP.
#ifndef ABI_BFD_H
#define ABI_BFD_H

#include <stdint.h>
#include "abi/limits.h"

// RFC 5880 section 4.1.
enum bfd_state { BFD_ADMIN_DOWN = 0, BFD_DOWN = 1, BFD_INIT = 2, BFD_UP = 3 };
enum bfd_diagnostic {
	BFD_NO_DIAGNOSTIC = 0, BFD_TIME_EXPIRED = 1, BFD_ECHO_FAILED = 2, BFD_NEIGHBOR_DOWN = 3,
	BFD_FORWARDING_RESET = 4, BFD_PATH_DOWN = 5, BFD_CONCATENATED_DOWN = 6, BFD_CLOSED = 7,
	BFD_REVERSE_CONCATENATED_DOWN = 8
};
enum bfd_authentication {
	BFD_AUTH_NONE = 0, BFD_AUTH_SIMPLE = 1, BFD_AUTH_MD5 = 2, BFD_AUTH_METICULOUS_MD5 = 3,
	BFD_AUTH_SHA1 = 4, BFD_AUTH_METICULOUS_SHA1 = 5
};
enum bfd_entry_flags {
	BFD_MULTIHOP = 1, // RFC 5883; else RFC 5881
	BFD_PASSIVE = 2,  // RFC 5880 section 6.1
	BFD_LONE = 4      // no route depends on it
};
enum { BFD_KEY_SIZE = 20 };

struct bfd_entry {
	uint8_t remote[16];
	uint8_t local[16];          // all zero: as routing chooses it
	uint8_t family;
	uint8_t flags;              // enum bfd_entry_flags
	uint16_t interface;         // of a single hop, never 0
	uint32_t transmit_us;       // bfd.DesiredMinTxInterval while up
	uint32_t receive_us;        // bfd.RequiredMinRxInterval
	uint32_t echo_us;           // between echo packets; 0: none
	uint8_t multiplier;         // bfd.DetectMult
	uint8_t min_ttl;            // multihop: smallest TTL that is taken; 0: any
	uint8_t authentication;     // enum bfd_authentication
	uint8_t key_id;
	uint8_t key_length;
	uint8_t reserved[3];
	uint8_t key[BFD_KEY_SIZE];
	uint8_t reserved2[4];
};

struct bfd_table {
	uint64_t epoch;             // counts publications
	uint32_t checksum;          // CRC-32 of this struct with the field zero, then of the entries
	uint32_t count;
	struct bfd_entry entries[];
};

struct bfd_session {
	uint8_t remote[16];         // the key
	uint8_t local[16];
	uint8_t family;
	uint8_t flags;              // of the key: BFD_MULTIHOP
	uint16_t interface;
	uint32_t discriminator;     // ours; 0: the slot is free
	uint32_t remote_discriminator; // 0: not known
	uint8_t state;              // enum bfd_state
	uint8_t remote_state;
	uint8_t diagnostic;         // why it is in this state, enum bfd_diagnostic
	uint8_t remote_diagnostic;
	uint8_t multiplier;
	uint8_t remote_multiplier;
	uint8_t remote_demand;      // the peer wants no packets while all is well
	uint8_t polling;            // 1: a Poll Sequence runs; 2: another one is due after it
	uint8_t authentication;     // enum bfd_authentication
	uint8_t sequence_known;     // bfd.AuthSeqKnown
	uint8_t failure;            // why it last left Up, enum bfd_diagnostic
	uint8_t echoing;            // echo packets are sent now
	// Microseconds.  Those in force differ from those announced until a Poll Sequence has ended.
	uint32_t desired_us, required_us;
	uint32_t desired_in_force_us, required_in_force_us;
	uint32_t remote_desired_us, remote_required_us, remote_echo_us;
	uint32_t echo_us;           // between our echo packets, in force; 0: none
	uint32_t sent_sequence;     // bfd.XmitAuthSeq
	uint32_t received_sequence; // bfd.RcvAuthSeq
	uint32_t echo_sequence;     // of the last echo packet sent
	uint32_t echo_missing;      // echo packets sent since the last one came back
	// CLOCK_BOOTTIME, ns; 0: never.
	uint64_t transmit_ns;       // next control packet
	uint64_t detect_ns;         // when the peer is taken for dead
	uint64_t echo_ns;           // next echo packet
	uint64_t forget_ns;         // when the sequence number of the peer is forgotten
	uint64_t changed_ns;        // last change of state
	uint64_t changes;           // of state
	uint64_t ups, downs;        // times it came up, and left Up
	uint64_t rx_packets, tx_packets;
	uint64_t rx_drops;          // refused after they were known to be of this session
	uint64_t rx_echoes, tx_echoes;
	uint64_t rx_last_ns, tx_last_ns;
	uint64_t longest_gap_ns;    // between two packets of the peer while up
};

#endif
