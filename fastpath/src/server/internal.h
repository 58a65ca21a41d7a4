// What the files of the socket server share among themselves; nobody else includes it.
#ifndef SERVER_INTERNAL_H
#define SERVER_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "rsock_wire.h"
#include "server/filter.h"
#include "server/server.h"

enum server_limits {
	MAX_CONNECTIONS = 1024,
	MAX_CONNECTIONS_PER_USER = 256,
	CONNECTIONS_KEPT = 32,
	MAX_DATAGRAMS_PER_USER = 1024,
	MAX_GROUPS_OF_PEER = 64,     // supplementary groups that are looked at
	MAX_REQUEST = RSOCK_MAX_MESSAGE,
	MAX_REQUEST_FDS = SERVER_MAX_FDS,
	MAX_OPTION = 8448,           // a struct group_filter of MEMBERSHIP_SOURCES sources
	RECORDS_PER_EVENT = 64,
	RECORDS_PER_CALL = 16,
	RECORDS_AT_FIRST = 4,
	RECORD_NS = 1000,            // that the kernel takes for a datagram on its way out, beside its bytes
	KEPT_ROOM = 1 << 20,         // datagrams of orphaned sockets
	RECORD_ROOM = sizeof(struct rsock_datagram) + 65536,
	FD_BUFFER = 1 << 20,         // asked for; the kernel's own limit decides
	STREAM_OUR_BUFFER = 256 << 10, // of our end, asked for: what waits behind TCP's own window
	STREAM_TURN = 256 << 10,     // bytes that one event takes from an app
	STREAM_PEEK = 4096,          // what is looked at first, and often is all
	STREAM_HELD = 8192,          // bytes at most that stay in an app's queue
	STREAM_HELD_WRITES = 8,      // each of them costs the app a buffer of its own
	STREAM_SMALL_WRITE = 64,     // what has come at once is taken for writes of this size
	STREAM_PARTS = STREAM_TURN / 4096 + 2,
	STREAMS_PER_TICK = 16,
	STREAM_ACCEPTS = 64,         // of one event, either way
	STREAM_LOOKS = 64,           // sockets that one tick, or one bind, looks for
	HURRY_PIDS = 8,
	ACCEPTED_NONCE_BITS = 44,    // names_accepted_nonce
	STREAM_RESETS = 8192,        // accepted connections of which it is remembered how they ended
	BUFFER_SHARE = 4096,         // a socket's buffer gets this part of the memory that its owner has left
	BUFFER_LEAST = 8 << 10,
	REVIEWS_PER_TICK = 256,      // sockets that one tick judges anew
	MAX_PARKED = MAX_CONNECTIONS + MAX_SOCKETS, // fds of those who rest
	STREAM_NAME = 108,           // bytes of an abstract name, the NUL before it included
	HOLD_ALL = -1                // as unsigned: all that was held has been given back
};

#define SERVER_NEVER UINT64_MAX
#define ORPHAN_LIFE (5 * 1000000000ull)
#define LATELY_NS (500 * 1000ull)      // in which an app that was given something runs, if it can
#define RETRY_NS (100 * 1000000ull)
#define BACKLOG_RETRY_NS (2 * 1000000ull)
#define LOOK_NS (1000 * 1000000ull)
#define ACCEPTED_NONCE ((1ull << ACCEPTED_NONCE_BITS) - 1)

#define REVIEW_OVER UINT32_MAX
#define TURN_NS (100 * 1000ull)

enum event_kind { EVENT_LISTENER = 0, EVENT_CONNECTION = 1, EVENT_SOCKET = 2, EVENT_STREAM = 3, EVENT_STREAMS = 4 };

struct peer {
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint32_t group_count;
	uint32_t groups[MAX_GROUPS_OF_PEER];
};

struct connection {
	int fd;
	uint32_t index;
	uint32_t generation;
	struct peer peer;
	uint32_t account;            // of peer.uid
	uint32_t told;               // as of streams
	bool trusted;                // root or this VR's own uid
	bool closing;                // to be closed once its request is done
	bool traces;
	bool captures;
	struct rsock_trace trace;
	struct rsock_capture capture;
	uint64_t trace_request;
	uint64_t capture_request;
	uint32_t trace_lost;
	uint32_t capture_lost;
	uint32_t waiters;            // streams that answer when TCP is connected: the first, index + 1
	int answer;                  // errno of the last answer
	struct trace_memory *memory; // stages of packets that may yet end in a drop; NULL: all are told
	struct trace_choice *choice; // which packets are traced; NULL: all of the interface
	struct filter *capture_filter;
};

// The forwarder's side of one socket; slots are those of the state segment.
struct app {
	int fd;                      // -1: none
	uint32_t generation;
	bool deaf;                   // the app has shut down its sending side
	bool hold_add;               // control is to be given the fd
	bool hold_gone;              // control is to drop the fd it has
	uint64_t gone_cookie;
	uint32_t buffer;             // bytes that our end's is charged with
	uint64_t byte_rate;          // of its owner's quota; 0: none
	uint32_t told;               // as of streams
	// The last verdict on a destination, for the rules of one publication.
	uint64_t judged_root;
	uint8_t judged_family;
	bool judged_allowed;
	uint8_t judged_address[16];
};

enum stream_state {
	STREAM_NONE = 0,
	STREAM_ALONE,                // the app's fd leads nowhere yet: not connected, or connecting
	STREAM_LISTENING,
	STREAM_JOINED,               // we hold the other end of the app's fd
	STREAM_FAILED,               // we have closed it; the pending error stands in the socket
	STREAM_DIALED                // connecting, and there is no fd yet: somebody waits for it
};

// The forwarder's side of one stream socket; the index is its slot - MAX_SOCKETS.  All links
// are index + 1.
struct stream {
	int fd;                      // our end; valid in STREAM_JOINED
	uint32_t generation;
	uint32_t account;            // who is charged for it
	uint32_t buffer;             // bytes that our end's is charged with
	uint64_t byte_rate;          // of its owner's quota; 0: none
	uint32_t told;               // server.lately when the app was given something; 0: it has come back since
	uint8_t state;               // enum stream_state
	uint8_t held_writes;
	bool accepted;               // came from a listener: the fd's name is the listener's
	bool connected;              // TCP is: bytes may flow
	bool failed;                 // before the app's fd led to us
	bool peer_closed;            // TCP saw the peer's FIN
	bool ending;                 // the app has shut down, or closed; its last bytes may still wait
	bool shut;                   // TCP knows that
	bool wants_room;             // the app's bytes wait for room in TCP
	bool full;                   // TCP's bytes wait for room in the fd
	bool watches_room;           // EPOLLOUT is watched
	bool bulk;                   // much was waiting last time
	bool watched;                // on the list of those whose app may be gone
	bool put_off;                // listener: beyond a quota of its owner, somebody waits in TCP's queue
	bool retried;                // on the list of those that are looked at again soon
	bool queued;                 // on the list of those with `events`
	uint32_t events;             // enum host_stream_event bits not acted on yet
	uint32_t skip;               // filler that is still to come
	uint32_t held;               // bytes in the app's queue that TCP has already
	uint32_t watch_previous, watch_next;
	uint32_t retry_next;
	uint32_t queue_next;
	uint32_t waiting;            // listener: a connection that finds the app's backlog full
	uint32_t waits_at;           // that connection: its listener
	// Whose request is answered once TCP is connected: index + 1 of the connection; 0: nobody's.
	uint32_t waiter;
	uint64_t waiter_request;
	uint8_t waiter_op;
	uint32_t waiter_previous, waiter_next; // others that wait for this connection
};

// All stream sockets of one VR.
struct streams {
	struct stream *at;           // MAX_TCP_SOCKETS of them; pages that were never used cost nothing
	uint32_t used;               // none from here on was ever used
	int listener;                // where the apps' fds connect to
	uint8_t name[STREAM_NAME];   // its name
	uint32_t name_length;
	uint32_t watch_head, watch_tail, watch_count;
	uint64_t watch_at;           // next look for apps that are gone; 0: nobody is watched
	uint64_t hurry_at;           // the same for those that were opened by one of `hurry_pids`; 0: none
	uint64_t hurry_until;
	uint32_t hurry_pids[HURRY_PIDS];
	uint32_t hurry_next;
	uint32_t retry_head;
	uint64_t retry_at;           // 0: nobody waits
	uint32_t queue_head, queue_tail;
	// Nonces of accepted connections that have failed, above them the errno: all that is left of them.
	uint64_t resets[STREAM_RESETS];
};

// What one account has used of our time in a round.
struct turn {
	uint64_t number;
	uint64_t spent_ns;
	uint64_t paid_at;            // rest.c: when what it has used is paid for
	uint64_t heavy_until;        // it has lately used more than its share
	bool rests;                  // until paid_at
};

// Who was heard, and when.
struct heard {
	uint32_t account;
	uint64_t at;
};

// A stretch of work for an account.
struct stint {
	uint64_t processor;          // what we had used by then; 0: nobody asks
	uint64_t start;
};

// A fd that is not in the epoll set while its owner rests.
struct parked {
	uint64_t data;               // of its event
	uint32_t account;
};

struct server {
	struct host *host;
	struct state_segment *state;
	const struct tables_view *tables;
	struct server_ops ops;
	int epoll_fd;
	int listener;
	int tables_ro;
	int state_ro;
	uint32_t uid;                // our own
	uint64_t now;
	uint32_t generation;
	uint64_t orphans_until;      // 0: no orphan is left
	uint64_t listen_at;          // when accepting is tried again; 0: it is on
	uint64_t hold_at;            // when holding is tried again; 0: nothing to do
	struct connection *connections[MAX_CONNECTIONS];
	uint32_t connection_count, datagram_count, stream_count;
	uint32_t rules_checksum;     // of the rules that all sockets are judged by
	uint32_t owed;               // apps that were given something lately and have not come back since
	uint32_t lately;             // which stretch of time this is, from 1
	uint64_t lately_until;
	uint64_t turn;               // counts the rounds in which everybody has one
	struct turn turns[MAX_ACCOUNTS];
	struct heard heard[2];       // the last one, and the last of all others
	struct parked parked[MAX_PARKED];
	uint32_t parked_count;
	uint64_t rest_at;            // when one of them may go on; 0: there is none
	uint64_t wanted_ns, waited_ns; // that we wanted to work, and of that waited for the processor
	bool pressed;                // others want the processor too
	uint32_t calm, calm_wanted;  // stretches without waiting since, and how many of them it takes
	bool relieved;               // until a stretch ago they did
	uint64_t rules_root, rules_epoch; // the publication that they stood in
	uint32_t review_next;        // next slot to judge anew; REVIEW_OVER: none
	struct connection *holder;   // the control that keeps our fds
	bool bfd_untold;             // it has not heard of the last change of a BFD session
	uint32_t tracers;
	uint32_t capturers;
	struct held_frames *held;    // of captures; NULL: there are none
	struct app apps[MAX_SOCKETS];
	struct streams streams;
	uint32_t kept_used;
	uint8_t kept[KEPT_ROOM];
	uint8_t records[RECORDS_PER_CALL][RECORD_ROOM];
};

// One request, as received.
struct request {
	struct rsock_header header;
	const uint8_t *body;
	uint32_t length;
	int fds[MAX_REQUEST_FDS];    // -1 once somebody owns it
	int fd_count;
	bool again;                  // it was executed before: what the socket is now is the answer
};

// An app is given something, or has come with something; `told` is its mark.
static inline void server_tell(struct server *server, uint32_t *told)
{
	server->owed += *told != server->lately;
	*told = server->lately;
}

static inline void server_hear(struct server *server, uint32_t *told)
{
	server->owed -= *told == server->lately;
	*told = 0;
}

static inline uint64_t event_data(enum event_kind kind, uint32_t index, uint32_t generation)
{
	return SERVER_EVENT | (uint64_t)kind << 56 | (uint64_t)generation << 24 | index;
}

// Who owns a socket, for the rules.
struct owner {
	uint32_t uid;
	uint32_t gid;
	uint32_t account;
	uint16_t type;
	uint16_t protocol;
};

// Who asks for a new socket.  Given: what stands in the request; the rest is found out.
struct admission {
	struct owner owner;          // given: type and protocol
	uint32_t identity;           // given: bytes of struct rsock_identity before what follows
	const uint8_t *app;          // given: what the app calls itself
	uint32_t app_length;
	uint32_t rights;             // enum rule_operation bits
};

// --- connection.c ---
int connection_accept(struct server *server);
int connection_event(struct server *server, struct connection *connection, uint32_t events);
void connection_close(struct server *server, struct connection *connection);
// Have the kernel refuse fds to who sends them to this socket, where it can.
void connection_refuse_rights(int fd);
// Send one record; false where the peer does not take it now.
bool connection_send(const struct connection *connection, const void *header, uint32_t header_length, const void *body, uint32_t length, const int *fds, int fd_count);
// Answer a request; a peer that does not read its answers is closed.
void connection_reply(struct connection *connection, const struct request *request, int error, const void *body, uint32_t length);
void connection_reply_fds(struct connection *connection, const struct request *request, uint8_t flags, const void *body, uint32_t length, const int *fds, int fd_count);

// --- request.c ---
// A peer's address as packets carry it, for the rules; gives the family.
uint8_t request_plain_address(uint16_t family, const uint8_t *address, uint8_t *plain);
// May who asks name the socket with this cookie, of this user?  Whoever shows the cookie, and with the nonce of its
// fd's name whoever has its owner's uid.
bool request_proven(const struct server *server, const struct connection *connection, const struct request *request, uint64_t cookie, uint32_t uid);
// Answer RESOLVE.
void request_resolved(struct connection *connection, const struct request *request, const struct rsock_resolved *resolved, const struct rsock_name *name);
// SETOPT: the value behind struct rsock_option, or NULL where the request is malformed.
const uint8_t *request_option(const struct request *request, struct rsock_option *option);
void request_getopt(struct server *server, struct connection *connection, const struct request *request);
void request_run(struct server *server, struct connection *connection, struct request *request);

// --- replay.c ---
// Answer a request that was executed before; false: it was not, or only the socket's names are to be told (`again`).
bool replay(struct server *server, struct connection *connection, struct request *request);
// It was executed and answered.
void replay_note(struct server *server, const struct connection *connection, const struct request *request);

// --- rights.c ---
bool rights_trusted(const struct server *server, uint32_t uid);
// May this uid open sockets in the name of remote apps?
bool rights_relay(const struct server *server, uint32_t uid);
// The operations that a peer may use, or the remote app with that key; *gid becomes the group by which, if by one.
uint32_t rights_of_peer(const struct server *server, const struct peer *peer, const uint8_t *key, uint32_t *gid);
// Who asks, and may he?  0 or a negated errno; quotas come next.
int rights_admit(struct server *server, const struct connection *connection, struct admission *admission);
// What the owner may have; NULL: he is trusted.
const struct quota *rights_quota(const struct server *server, const struct owner *owner);
// The same for a socket as it stands now, and what its rule says of ports and destinations; `operations`: one of
// them must be allowed.
uint32_t rights_of_socket(const struct server *server, const struct owner *owner);
bool rights_port(const struct server *server, const struct owner *owner, uint16_t port);
bool rights_destination(const struct server *server, const struct owner *owner, uint32_t operations, uint8_t family, const uint8_t *address);
// 0, or the errno that opening such a socket earns.
int rights_open(uint32_t operations, uint16_t type, uint16_t protocol);

// --- accounts.c: who uses this VR ---
// An index that is none counts on account 0, which is everybody's.
static inline uint32_t account_slot(uint32_t index)
{
	return index < MAX_ACCOUNTS ? index : 0;
}
static inline struct account *account_at(const struct server *server, uint32_t index)
{
	return &server->state->accounts[account_slot(index)];
}
// Go on with a predecessor's books.
void accounts_open(struct server *server);
// The account of a local user, or of the remote app with that key; -1: all are taken.
int accounts_of(struct server *server, uint32_t uid, const uint8_t *key);
// The key of a remote app; NULL: a local user's.
const uint8_t *accounts_key(const struct server *server, uint32_t index);
// Count a denial, and tell control of it unless it has just been told; gives -error.
int accounts_deny(const struct server *server, uint32_t index, enum denial denial, int error);

// --- quota.c ---
bool quota_connection(const struct server *server, uint32_t index);
void quota_connected(struct server *server, uint32_t index);
void quota_disconnected(struct server *server, uint32_t index);
// May the owner have one more socket?  0 or a negated errno; a denial is counted.
int quota_open(struct server *server, const struct owner *owner);
// The same for a connection of a listener; `again`: the same one was put off before.
bool quota_accept(struct server *server, const struct owner *owner, bool again);
// Has this account had its turn in this round?  What it wants waits for the next one.
bool quota_turn_over(const struct server *server, uint32_t index);
// Count the time since `start`.
void quota_turn(struct server *server, uint32_t index, uint64_t start);
uint64_t quota_clock(void);
void quota_charge(struct server *server, uint32_t index, bool stream);
void quota_discharge(struct server *server, uint32_t index, bool stream, uint32_t buffer);
// Charge for a buffer of which `have` bytes are charged already; gives the bytes that it may have.
uint32_t quota_buffer(struct server *server, const struct owner *owner, uint32_t have, uint32_t wanted);
uint64_t quota_byte_rate(const struct server *server, const struct owner *owner);
bool quota_may_send(const struct server *server, uint32_t index, uint64_t rate);
void quota_sent(struct server *server, uint32_t index, uint64_t rate, uint32_t bytes);

// --- rest.c: who takes more than his share while others are about ---
// An account asks for something.
void rest_heard(struct server *server, uint32_t index);
// It has used so much of our time.
void rest_spend(struct server *server, uint32_t index, uint64_t ns);
// The same of what is done from here to there, by the clock.
struct stint rest_begin(const struct server *server, uint32_t index);
void rest_end(struct server *server, uint32_t index, const struct stint *stint);
bool rest_due(struct server *server, uint32_t index);
// Has it used time that is not paid for yet?
bool rest_owes(const struct server *server, uint32_t index);
// It rests: this fd of its, with this event, is not looked at until that is over.
void rest_park(struct server *server, uint32_t index, int fd, uint64_t data);
// A connection of its was accepted, which took the time since `start`; true: nobody is accepted for a while.
bool rest_accepted(struct server *server, uint32_t index, uint64_t start);
void rest_tick(struct server *server);

// --- review.c: sockets that exist while the rules change ---
void review_tick(struct server *server);
uint64_t review_deadline(const struct server *server);

// --- names.c: abstract names of AF_UNIX, which reach this VR alone ---
// Both give the length of a struct sockaddr_un with the name.
struct sockaddr_un;
// Of the app's fd, by which it is found again for as long as some process holds it.
uint32_t names_of_socket(const struct server *server, uint32_t slot, const struct tcp_socket *s, struct sockaddr_un *name);
// The same of a datagram or raw socket; `copy` tells its fds apart while more than one is about.
uint32_t names_of_datagrams(const struct server *server, uint32_t slot, const struct socket_entry *entry, uint32_t copy, struct sockaddr_un *name);
// Of our end of an accepted connection: it tells the app who the peer is.
uint32_t names_of_connection(const struct server *server, uint32_t slot, const struct tcp_socket *s, struct sockaddr_un *name);
// The slot that the name of an app's fd tells; false: it is none of ours.
bool names_slot(const struct server *server, const struct sockaddr_un *name, uint32_t length, uint32_t *slot);
// What stands for the cookie in those names: it proves nothing but who may use it is known by his uid.
uint32_t names_nonce(const struct server *server, uint32_t slot, uint64_t cookie);
// The same in the name of an accepted connection: above it stands which of the forwarders accepted it.
uint64_t names_accepted_nonce(const struct server *server, uint32_t slot, uint64_t cookie);

// --- streams.c ---
static inline struct stream *stream_at(struct server *server, uint32_t slot)
{
	return &server->streams.at[slot - MAX_SOCKETS];
}
bool streams_new(struct server *server);
void streams_free(struct server *server);
// Begin to serve: the name that apps' fds connect to, and the sockets that a predecessor left.
int streams_serve(struct server *server);
void streams_open(struct server *server, struct connection *connection, const struct request *request);
// Our end of an app's fd, connected: watch it.  0 or a negated errno.
int stream_join(struct server *server, uint32_t slot, int fd);
// The app's fd leads nowhere from now on; the socket stays until the app has closed it.
void stream_fail(struct server *server, uint32_t slot);
// The app is gone: close(2), or `reset`.
void stream_close(struct server *server, uint32_t slot, bool reset);
// The same as a reset by the peer, to the app.
void stream_reset(struct server *server, uint32_t slot);
void stream_watch_room(struct server *server, uint32_t slot, bool on);
// A slot that the host stack has just made; charged to its owner.
struct stream *stream_begin(struct server *server, uint32_t slot);
// A new slot for who asks on a connection; -errno.
int stream_slot(struct server *server, const struct connection *connection, uint16_t family, struct admission *admission, uint32_t *slot);
struct owner stream_owner(const struct tcp_socket *s);

// --- stream_watch.c: whose app is gone, and what is to be done soon ---
void stream_watch(struct server *server, uint32_t slot);
void stream_unwatch(struct server *server, uint32_t slot);
// Is it not held by any process any more?  Then it is closed.
bool stream_look(struct server *server, uint32_t slot);
// Look for those of this process soon: it may have ended.
void streams_look_soon(struct server *server, uint32_t pid);
// Close those on a local port whose apps are gone; true where there was one.
bool streams_reap(struct server *server, uint16_t port);
void stream_retry(struct server *server, uint32_t slot);
void stream_queue(struct server *server, uint32_t slot, uint32_t events);
void stream_unqueue(struct server *server, uint32_t slot);
void streams_tick(struct server *server);
uint64_t streams_deadline(const struct server *server);

// --- stream_request.c ---
void stream_request(struct server *server, struct connection *connection, const struct request *request);

int stream_bind(struct server *server, uint32_t slot, const struct rsock_name *name);
int stream_connect(struct server *server, uint32_t slot, const struct rsock_name *name);
// The names of both ends, as replies tell them.
void stream_names(const struct tcp_socket *s, struct rsock_name *name);
// Answer CONNECT.
void stream_connected(struct server *server, struct connection *connection, const struct request *request, uint32_t slot);

// --- stream_dial.c ---
void stream_dial(struct server *server, struct connection *connection, const struct request *request);
// Have this request wait for the connection.
void stream_wait(struct server *server, uint32_t slot, struct connection *connection, const struct request *request);
// TCP is connected, or has failed: tell who waits.
void stream_waited(struct server *server, uint32_t slot);
void stream_forget_waiter(struct server *server, struct stream *stream);
// The socket is closed under who waits: tell him.
void stream_refuse_waiter(struct server *server, struct stream *stream);
// This connection is over: what it waits for is not wanted any more.
void stream_waiters_gone(struct server *server, struct connection *connection);

// --- stream_accept.c ---
// Apps' fds that have connected to us; returns how many.
int streams_accept(struct server *server);
// Hand established connections to the app of a listener, as many as it takes.
void stream_offer(struct server *server, uint32_t slot);

// --- stream_data.c ---
int stream_event(struct server *server, uint32_t slot, uint32_t events);
// For server_poll: look at all of them once.
int streams_poll(struct server *server);
// Take what the app has written; returns bytes.
int stream_pull(struct server *server, uint32_t slot);
// Act on what TCP told.
void stream_run(struct server *server, uint32_t slot, uint32_t events);

// --- sockets.c ---
// What the app calls itself; shown to operators and never relied on.
// Read OPEN, which is at least as long as its struct, for rights_admit.
struct admission sockets_admission(const struct request *request, struct rsock_open *open);
void sockets_take_name(char app[16], const uint8_t *name, uint32_t length);
void sockets_open(struct server *server, struct connection *connection, const struct request *request);
int sockets_event(struct server *server, uint32_t slot, uint32_t events);
// Close the sockets on a local port whose apps have closed them; true where there was one.
bool sockets_reap(struct server *server, uint16_t port);
void sockets_close(struct server *server, uint32_t slot);
// Take the app's records that wait on the fd; at most `most`.
int sockets_drain(struct server *server, uint32_t slot, int most);
// Mark where the records of an app's fd change their form, if any wait there; false: there is no room.
bool sockets_mark(struct server *server, uint32_t slot, uint32_t *marked);
// Deliver a datagram once more, in the new form; 0 or -errno.
int sockets_give_back(struct server *server, uint32_t slot, const uint8_t *payload, uint32_t length);
struct owner sockets_owner(const struct socket_entry *entry);
// Watch a forwarder's end; 0 or a negated errno.
int sockets_attach(struct server *server, uint32_t slot, int fd);
void sockets_detach(struct server *server, uint32_t slot);

// --- hold.c ---
void hold_request(struct server *server, struct connection *connection, struct request *request);
void hold_changed(struct server *server);
void hold_flush(struct server *server);
void hold_orphans_expire(struct server *server);
// A datagram for a socket whose fd is to come back: keep it until then; false: it is lost.
bool hold_keep(struct server *server, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length);

// --- interfaces.c ---
// Tell an app the router's interfaces and addresses.
void interfaces_tell(struct server *server, struct connection *connection, const struct request *request);

// --- observe.c ---
void observe_trace(struct server *server, struct connection *connection, const struct request *request);
void observe_stop(struct server *server, struct connection *connection);
// Others look, or nobody does any more.
void observe_changed(struct server *server);

// --- capture.c ---
void capture_request(struct server *server, struct connection *connection, const struct request *request);
void capture_stop(struct server *server, struct connection *connection);
// The frame with this trace id, if it is held, met its end.
void capture_dropped(struct server *server, uint32_t trace, uint32_t reason);

// --- admin.c ---
void admin_run(struct server *server, struct connection *connection, struct request *request);

#endif
