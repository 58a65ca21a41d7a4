// How the preloaded library's own system calls pass the filter of `rsock exec` (supervisor_filter.c).
//
// The filter hands calls that name addresses or options to the supervisor.  The library makes them for itself, and
// what it makes must reach the kernel as it is: such a call carries this number in the first argument that the
// kernel does not look at (socket: args[3], setsockopt: args[5]).  It protects nothing; a program that uses it gets
// the kernel's sockets, as one does that is started without `rsock exec`.
#ifndef RSOCK_BYPASS_H
#define RSOCK_BYPASS_H

#define RSOCK_BYPASS 0x72736f636b657421ul // "rsocket!"

#endif
