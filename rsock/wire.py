r"""The messages of the socket layer: the one place where they are defined.

    app, CLI, manager  --(AF_UNIX SEQPACKET, vr/NAME.sock)-->  forwarder of VR NAME
    app                --(ZeroMQ, rsock.sock)--------------->  broker

Towards a forwarder every message is one SEQPACKET record: a fixed header (`HEADER`), then the
fixed body of its operation (see `STRUCTS`), then, where the operation says so, variable bytes.  File
descriptors travel as SCM_RIGHTS.  The C side reads the same definitions from `rsock_wire.h`, which
`rsock/c/header.py` generates from this module; both sides are little-endian and unaligned.

Towards the broker a message is two frames: the same header, then a msgpack map.  Unknown keys are
ignored; a missing one is EPROTO.

A stream socket's fd is an AF_UNIX stream that the forwarder has bound to an abstract name of the VR's
network namespace, and it leads nowhere at first:

    connect   CONNECT {name, filler}; then the app's fd connects natively to the name that the reply tells, and
              the filler is written to it.  The forwarder reads the filler, but for its last byte, once TCP is
              connected (so the fd becomes writable then), and closes its end where that fails.
              With Flag.WAIT the reply comes when TCP is connected, and a filler of one byte is enough.
    listen    LISTEN; then the app listens natively.  The forwarder connects to it for each connection, from a
              name that tells the peer: \0rsk1/VR/t4/p=192.0.2.9:51515/l=192.0.2.1:80/SLOT.NONCE.
    dial      DIAL, where nothing but an address is known of a socket: OPEN and CONNECT in one.  The fd that comes
              leads to the forwarder, which has filled it already, or with Flag.WAIT it is connected.  Whoever waits
              and closes the connection that he asked on takes back what he asked.

Names of fds tell whoever got one by fork, exec or SCM_RIGHTS what it is.  The first of these that fits is the one:

    getpeername   \0rsk1/VR/t4/p=ADDRESS:PORT/l=ADDRESS:PORT/SLOT.NONCE    an accepted connection
    getsockname   \0rsk1/VR/KIND/SLOT.NONCE    another stream (KIND t4 or t6), a datagram (u4, u6) or raw fd (r4, r6)

SLOT and NONCE are hexadecimal, and VR is empty, or /l= is, where two long addresses need the room (an accepted fd's
getsockname is that of its listener, and so has the VR).  In a request NONCE stands for the cookie where the peer
has the uid of the socket's owner or is root; RESOLVE with it gives the cookie and what the socket is.

The last byte that an app wrote stays unread until the peer's FIN was seen, so that the kernel itself tells a
reset (ECONNRESET) from an end of file.

Towards a relay messages are two frames as well, the header and bytes; `session` tells of them.

Not supported: the ring tier.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

MAGIC: Final = 0x3152  # "R1"
VERSION: Final = 1
MAX_MESSAGE: Final = 12288  # bytes of a request or reply on a VR's socket
MAX_BODY: Final = MAX_MESSAGE - 64  # of what stands in one behind its header
# Level and name of the option and of the ancillary item that name a virtual router; as in rsock.h.
SOL_RSOCK: Final = 0x5253
RSOCK_VR: Final = 1
# Send buffers of an app's stream fd, as they are asked for (the kernel doubles them), and the filler.  One write of the
# filler takes more than a quarter of the small buffer, which is where the kernel calls the fd unwritable; the single
# byte behind it stays unread for as long as the app has written nothing.  The small buffer also holds more than one
# sendfile(2) puts into one piece, the last byte of which is held: else that would keep the fd unwritable for ever.
STREAM_APP_BUFFER: Final = 144 << 10
STREAM_FILLER: Final = 80 << 10
STREAM_FULL: Final = STREAM_FILLER + 1
# Once connected, where nobody waits for edges, who would take a change of it for one: bulk goes in larger pieces.
STREAM_CONNECTED_BUFFER: Final = 512 << 10


class Op(enum.IntEnum):
    """What a message asks for.  1..15: broker; 16..63: apps; 64..: operators and the manager."""

    HELLO = 1
    LIST = 2
    WATCH = 3
    EVENT = 4
    TICKET = 5
    OPEN = 16
    BIND = 17
    LISTEN = 18
    CONNECT = 19
    ACCEPT = 20  # relay to app, as all up to BYE but those of the broker and of a forwarder: see `session`
    CLOSE = 22
    SETOPT = 24
    GETOPT = 25
    NAME = 26
    RESOLVE = 27
    DIAL = 28  # OPEN and CONNECT of a stream in one
    INTERFACES = 29
    HOLD = 30  # control takes and gives back the forwarder's ends of the sockets' fds
    DENIED = 31  # the forwarder tells control of denials, at most once a second of each identity
    DATA = 32
    CREDIT = 33
    ACK = 34
    END = 35
    RESET = 36
    CONNECTED = 37
    BACK = 39  # a datagram that came before CONNECT, for the fd once more, without its header
    BFD = 38  # the forwarder tells control that a BFD session has changed
    BYE = 49
    SEGMENTS = 64
    TRACE = 65
    CAPTURE = 66
    SOCKETS = 67
    ADOPT = 80
    PORT_ADD = 81
    PORT_REMOVE = 82
    PORT_LINK = 83
    SHUTDOWN = 84
    PING = 85
    OFFLOAD = 86
    OFFLOAD_MAPS = 87


class Flag(enum.IntFlag):
    """Header flags."""

    REPLY = 1
    ERROR = 2  # `error` holds an errno
    MORE = 4  # further replies to the same request follow
    DATA = 8  # an unasked record of a stream (trace, capture, event)
    WAIT = 16  # CONNECT, DIAL: answer when it is connected, or with what became of it


class Right(enum.IntFlag):
    """Operations that a rule can allow; the same bits as `enum rule_operation`."""

    CONNECT = 1
    LISTEN = 2
    UDP = 4
    RAW = 8
    MULTICAST = 16


class Filter(enum.IntEnum):
    """What a term of a filter does: joins the results of terms before it, or tests a packet."""

    AND = 1
    OR = 2
    NOT = 3
    ETHERTYPE = 4  # is `first`
    PROTOCOL = 5  # of IP (`family`; 0: of either) is `first`
    NET = 6  # an address is in a prefix
    PORT = 7  # a port is in first..last
    VLAN = 8  # tagged with `first`; 0: with any


class Side(enum.IntEnum):
    """Which address or port a term tests."""

    EITHER = 0
    SOURCE = 1
    DESTINATION = 2


class DatagramFlag(enum.IntFlag):
    """Flags of a datagram header, and of what an app wants to see (`socket_entry.options`)."""

    LOCAL = 1  # `local` and `interface` are valid (packet info)
    ERROR = 2  # an error-queue record: `error` is an errno, the payload is what we sent
    ICMP = 4  # with ERROR: icmp_type, icmp_code and `local` (who reported it) are valid
    TRUNCATED = 8
    HEADER_INCLUDED = 16
    MARK = 64  # no datagram: what came before CONNECT ends here
    TOS = 32  # from an app: `tos` is to be sent, whatever the socket's is


class State(enum.IntEnum):
    """What a socket is, in the reply of RESOLVE."""

    NEW = 0
    BOUND = 1
    LISTENING = 2
    CONNECTING = 3
    CONNECTED = 4  # a datagram fd without header, or a stream
    OVER = 5  # a stream that was connected, or failed to be


class Field(NamedTuple):
    """A field of a fixed message: name, struct code, bytes or elements, meaning."""

    name: str
    code: str
    help: str


# Struct codes are those of the struct module; `16s` and the like are byte strings.
STRUCTS: Final[dict[str, tuple[Field, ...]]] = {
    "rsock_header": (
        Field("magic", "H", "MAGIC"),
        Field("op", "B", "Op"),
        Field("flags", "B", "Flag"),
        Field("session", "I", "broker session; towards a forwarder random, 0: no request is repeated"),
        Field("request", "Q", "chosen by the asker, echoed in replies"),
        Field("socket", "I", "slot of the socket the message is about, else 0"),
        Field("error", "I", "errno of a failed request"),
        Field("cookie", "Q", "of that socket; proves the right to name it"),
    ),
    # The record on a datagram socket's fd, before the payload, both ways.
    "rsock_datagram": (
        Field("version", "B", "VERSION"),
        Field("family", "B", "4 or 6"),
        Field("flags", "H", "DatagramFlag"),
        Field("ttl", "B", "received, or to send with; 0: the socket's"),
        Field("tos", "B", "received, or to send with where Flag TOS says so"),
        Field("port", "H", "the peer's UDP port, host order"),
        Field("interface", "I", "interface index it came on, or must leave by; 0: any"),
        Field("error", "I", "errno of an error record"),
        Field("icmp_type", "B", "of an error record"),
        Field("icmp_code", "B", "of an error record"),
        Field("local_port", "H", "our UDP port"),
        Field("info", "I", "of an error record: the MTU where it tells one"),
        Field("timestamp", "Q", "CLOCK_BOOTTIME, ns, when it was received"),
        Field("address", "16s", "the peer, network order, IPv4 in the first 4 bytes"),
        Field("local", "16s", "our address, or who reported the error"),
    ),
    "rsock_open": (
        Field("family", "H", "AF_INET or AF_INET6"),
        Field("type", "H", "SOCK_DGRAM, SOCK_RAW or SOCK_STREAM"),
        Field("protocol", "H", "IP protocol"),
        Field("identity", "H", "bytes of rsock_identity that follow, before the app's name; 0: who connects asks"),
        Field("token", "16s", "random; repeating it yields the same socket (not a stream)"),
    ),
    "rsock_identity": (  # in the name of whom the relay asks (EPERM for all others): a remote app
        Field("kind", "I", "3: a CURVE public key (enum rule_identity)"),
        Field("key", "32s", ""),
    ),
    # DIAL: whom to connect to is its rsock_name; a remote_family there means that remote_* is what to bind to first.
    # Then the app's name, as in OPEN.  The reply is rsock_opened, rsock_name and one fd.
    "rsock_dial": (
        Field("family", "H", "AF_INET or AF_INET6"),
        Field("protocol", "H", "IP protocol"),
        Field("identity", "I", "bytes of rsock_identity that follow rsock_name, before the app's name, as in OPEN"),
    ),
    "rsock_opened": (  # the reply carries one fd
        Field("socket", "I", "slot"),
        Field("rights", "I", "Right"),
        Field("cookie", "Q", ""),
    ),
    "rsock_name": (  # BIND, CONNECT, and in replies of BIND, LISTEN, CONNECT, NAME
        Field("family", "H", "AF_INET, AF_INET6, or AF_UNSPEC to disconnect"),
        Field("port", "H", "host order; for ICMP echo the identifier"),
        Field("interface", "I", "scope or pinned interface; 0: none"),
        Field("address", "16s", ""),
        Field("remote_family", "H", "replies: 0 when not connected"),
        Field("remote_port", "H", "replies"),
        Field("remote_interface", "I", "replies"),
        Field("remote_address", "16s", "replies"),
    ),
    "rsock_resolved": (  # reply of RESOLVE; rsock_name follows
        Field("cookie", "Q", ""),
        Field("socket", "I", "slot"),
        Field("family", "H", "AF_INET or AF_INET6"),
        Field("type", "H", "SOCK_DGRAM, SOCK_RAW or SOCK_STREAM"),
        Field("protocol", "H", "IP protocol"),
        Field("state", "H", "State"),
    ),
    # INTERFACES: the router's interfaces and addresses as one list, told in as many replies as are asked for.
    "rsock_interfaces": (  # request, and before the records of a reply
        Field("first", "I", "place in the list of the first record"),
        Field("interfaces", "I", "replies: so many are interfaces; the list begins with them"),
        Field("addresses", "I", "replies: and so many addresses"),
    ),
    "rsock_interface": (
        Field("index", "I", ""),
        Field("flags", "I", "IFF_*, see netdevice(7)"),
        Field("mtu", "I", ""),
        Field("mac", "6s", ""),
        Field("reserved", "H", "0"),
        Field("name", "32s", "NUL-padded"),
    ),
    "rsock_interface_address": (
        Field("interface", "I", "index"),
        Field("family", "B", "4 or 6"),
        Field("length", "B", "of the prefix"),
        Field("reserved", "H", "0"),
        Field("address", "16s", ""),
    ),
    # CONNECT of a stream socket: behind rsock_name.  In its reply the name to connect to stands there.
    "rsock_filler": (Field("bytes", "I", "what the app's fd will be filled with"),),
    # CONNECT of a datagram socket: behind rsock_name, from who gives back (BACK) what came before; in its reply too.
    "rsock_kept": (Field("marked", "I", "replies: 1: it waits, up to a record with DatagramFlag.MARK; 0: none"),),
    "rsock_listen": (Field("backlog", "I", ""),),
    "rsock_option": (  # then `length` bytes of value, as for setsockopt(2)
        Field("level", "I", ""),
        Field("name", "I", ""),
        Field("length", "I", "GETOPT request: room"),
    ),
    "rsock_hold": (  # carries one fd: the forwarder's end of that socket
        Field("socket", "I", "slot; 0xffffffff: all that were held have been given back"),
        Field("gone", "I", "1: the socket was closed, drop the fd (carries none)"),
        Field("cookie", "Q", ""),
    ),
    "rsock_denied": (  # DENIED, with Flag.DATA
        Field("kind", "I", "enum rule_identity"),
        Field("uid", "I", ""),
        Field("key", "32s", "of a remote app"),
        Field("denial", "I", "enum denial: what was denied last"),
        Field("error", "I", "errno that it earned"),
        Field("suppressed", "Q", "denials before it that nobody was told of"),
    ),
    "rsock_bfd": (  # BFD, with Flag.DATA
        Field("events", "Q", "changes of state of all sessions, ever"),
        Field("slot", "I", "of the session in the state segment; 0xffffffff: look at all"),
        Field("state", "I", "enum bfd_state"),
    ),
    "rsock_relayed": (  # OPEN to a relay: before rsock_open
        Field("router", "32s", "name of the VR, NUL-padded"),
    ),
    "rsock_filter_term": (  # TRACE and CAPTURE requests end with any number of these, in postfix order
        Field("kind", "B", "enum Filter"),
        Field("side", "B", "enum Side"),
        Field("family", "B", "of the address, or of IP: 4 or 6"),
        Field("length", "B", "of the prefix"),
        Field("first", "H", ""),
        Field("last", "H", ""),
        Field("address", "16s", "in network order"),
    ),
    "rsock_trace": (  # TRACE request; records follow with Flag.DATA
        Field("interface", "I", "ingress interface index; 0: all"),
        Field("drops_only", "I", "1: only packets that end in a drop"),
    ),
    "rsock_trace_record": (  # then `detail_length` bytes of text
        Field("packet", "I", "trace id: one for each packet"),
        Field("interface", "I", "ingress interface index; 0: our own packet"),
        Field("timestamp", "Q", "ns"),
        Field("stage", "24s", "name of the stage, NUL-padded"),
        Field("detail_length", "I", ""),
        Field("drop", "I", "enum drop_reason when the stage ended it, else 0"),
    ),
    "rsock_capture": (  # CAPTURE request; records follow with Flag.DATA
        Field("interface", "I", "interface index; 0: all"),
        Field("snap", "I", "bytes of each frame at most; 0: all"),
        Field("drops_only", "I", "1: only frames that came in and were dropped"),
    ),
    "rsock_capture_record": (  # then `captured` bytes
        Field("interface", "I", ""),
        Field("outgoing", "I", "1: leaves the VR"),
        Field("timestamp", "Q", "ns of CLOCK_BOOTTIME"),
        Field("captured", "I", ""),
        Field("length", "I", "of the whole frame"),
        Field("lost", "I", "records that did not fit since the last one"),
        Field("drop", "I", "enum drop_reason where the frame was dropped by the end of its batch, else 0"),
    ),
    "rsock_port": (  # PORT_REMOVE, PORT_LINK
        Field("port", "I", ""),
        Field("link_up", "I", ""),
        Field("mtu", "I", ""),
    ),
    "rsock_offload": (  # OFFLOAD
        Field("links_bytes", "Q", ""),
        Field("fib_bytes", "Q", ""),
        Field("processors", "I", "with counters in the first map"),
        Field("reserved", "I", ""),
    ),
}
# PORT_ADD carries struct port_spec (abi/core.h) as its body, and the port's fds.
# ADOPT is answered by one record for each port (struct port_spec and its fds, Flag.MORE), then
# one empty record without MORE.  OFFLOAD carries two fds, the maps of the XDP offload (abi/bypass.h), or
# none, which ends it; OFFLOAD_MAPS is answered likewise, or by ENODATA.  SEGMENTS is answered with two fds: tables and
# state, read-only.

_CODE_SIZES: Final = {"B": 1, "H": 2, "I": 4, "Q": 8}


def layout(name: str) -> struct.Struct:
    """Give the packer of a fixed struct."""
    return struct.Struct("<" + "".join(field.code for field in STRUCTS[name]))


HEADER: Final = layout("rsock_header")
DATAGRAM: Final = layout("rsock_datagram")


def field_size(field: Field) -> int:
    """Give the bytes of a field."""
    return int(field.code[:-1]) if field.code.endswith("s") else _CODE_SIZES[field.code]
