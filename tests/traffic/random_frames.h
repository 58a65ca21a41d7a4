// Random frames over patch links; see random_frames.c.
#pragma once

#include <stdint.h>

struct traffic;

// Take the far end of the link of a side (0 or 1); NULL where that cannot be done.
struct traffic *traffic_open(uint32_t side, uint64_t seed, int own, int peer, int own_event, int peer_event);
void traffic_close(struct traffic *traffic);
// Put frames on the link; returns how many there was room for.
uint64_t traffic_fill(struct traffic *traffic, uint64_t count);
// Take all that came; returns how many frames.
uint64_t traffic_drain(struct traffic *traffic);
// Frames that were sent by traffic_drain, of all sides.
extern uint64_t traffic_answers;
