"""One BFD session as an executable specification (RFC 5880 section 6.8), without socket, clock or random source.

    session.receive(packet, now) --+
    session.tick(now) -------------+--> session.sent: control packets; session.changes: states
    session.configure(wishes, now)-+    session.deadline: when tick is due

What runs in a VR is fastpath/src/bfd; a differential test compares both, packet for packet, in virtual time.  The
simulated networks use this one.  Times are nanoseconds, intervals microseconds, as there.

Not supported: what fastpath/src/bfd/bfd.h says, and the echo function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vrouter.wire.bfd import Authentication, BfdError, Control, Diagnostic, Kind, State, decode

SLOW: Final = 1_000_000  # section 6.8.3: at most one packet a second unless up
START_SPREAD: Final = 100_000
FAREWELLS: Final = 3
_MODULUS: Final = 2**32


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a session."""

    transmit: int = 300_000
    receive: int = 300_000
    multiplier: int = 3
    passive: bool = False
    kind: Kind = Kind.NONE
    key_id: int = 0
    key: bytes = field(default=b"", repr=False)


class Session:
    """The state of one session."""

    def __init__(self, wishes: Wishes, random: Callable[[], int], now: int, slot: int = 0) -> None:
        """Begin in Down; `random` gives 64 bits, and `slot` the low bits of the discriminator."""
        self._random = random
        self.wishes = wishes
        self.state = State.DOWN
        self.diagnostic = Diagnostic.NONE
        self.polling = 0
        self._desired = self._required = 0
        self._desired_in_force = self._required_in_force = 0
        self._forget_peer()
        self.sent_sequence = random() % _MODULUS
        random()  # the number of the first echo packet
        self.received_sequence: int | None = None
        self._forget_at: int | None = None
        self._last_sent = 0
        self._announce_wishes()
        self._transmit_at = now + self._jitter(START_SPREAD, 2)
        self.discriminator = (random() & 0xFFFFFC00) | slot
        if self.discriminator < 1024:
            self.discriminator |= 1024
        self.sent: list[bytes] = []
        self.changes: list[State] = []

    # --- intervals: sections 6.8.2 to 6.8.4 ---

    def _jitter(self, interval: int, multiplier: int) -> int:
        hundredth = interval * 1000 // 100
        width = hundredth * (15 if multiplier == 1 else 25)
        return hundredth * 75 + (self._random() % (width + 1) if width else 0)

    def _forget_peer(self) -> None:
        self.remote_discriminator = 0
        self.remote_state = State.DOWN
        self._remote_multiplier = self._remote_desired = 0
        self._remote_required = 1
        self._remote_demand = False
        self._detect_at: int | None = None

    def _announce_wishes(self) -> None:
        up = self.state == State.UP
        desired = self.wishes.transmit if up else max(self.wishes.transmit, SLOW)
        required = self.wishes.receive
        changed = (desired, required) != (self._desired, self._required)
        self._desired, self._required = desired, required
        # What could make the other end miss packets waits for the end of a Poll Sequence.
        if not up or desired < self._desired_in_force:
            self._desired_in_force = desired
        if not up or required > self._required_in_force:
            self._required_in_force = required
        if not up:
            self.polling = 0
        elif changed:
            self.polling = 2 if self.polling else 1

    def _poll_ended(self) -> None:
        if self.polling == 2:
            self.polling = 1
            return
        self.polling = 0
        self._desired_in_force, self._required_in_force = self._desired, self._required

    def _interval(self) -> int:
        return max(self._desired_in_force, self._remote_required)

    @property
    def detection_time(self) -> int:
        """Give the nanoseconds after which the peer is taken for dead."""
        return self._remote_multiplier * max(self._required_in_force, self._remote_desired) * 1000

    # --- transmission: section 6.8.7 ---

    @property
    def _transmits(self) -> bool:
        if (self.wishes.passive and not self.remote_discriminator) or not self._remote_required:
            return False
        quiet = self._remote_demand and self.state == self.remote_state == State.UP
        return not (quiet and not self.polling)

    def _transmit(self, now: int, *, final: bool = False) -> None:
        kind = self.wishes.kind
        if kind.meticulous:
            self.sent_sequence = (self.sent_sequence + 1) % _MODULUS
        section = None
        if kind != Kind.NONE:
            section = Authentication(kind, self.wishes.key_id, self.sent_sequence if kind.digest_size else 0)
        packet = Control(
            state=self.state,
            my_discriminator=self.discriminator,
            your_discriminator=self.remote_discriminator,
            desired=self._desired,
            required=self._required,
            multiplier=self.wishes.multiplier,
            diagnostic=self.diagnostic,
            poll=bool(self.polling) and not final,
            final=final,
            authentication=section,
        )
        self._last_sent = now
        self.sent.append(packet.signed(self.wishes.key).encode())

    def _next(self, now: int) -> None:
        self._transmit_at = now + self._jitter(self._interval(), self.wishes.multiplier)

    def _rescheduled(self, before: int, now: int) -> None:
        if self._interval() != before:
            self._transmit_at = max(now, self._last_sent + self._jitter(self._interval(), self.wishes.multiplier))

    # --- states ---

    def _enter(self, state: State, diagnostic: Diagnostic, now: int) -> None:
        if state == self.state:
            return
        if state != State.INIT:
            self.diagnostic = diagnostic
        self.state = state
        self.changes.append(state)
        if self.wishes.kind != Kind.NONE and not self.wishes.kind.meticulous:
            self.sent_sequence = (self.sent_sequence + 1) % _MODULUS
        self._announce_wishes()
        if self._transmits:
            self._transmit(now)
            self._next(now)

    def _follow(self, received: State, now: int) -> None:
        """Take the peer's state: the diagram of section 6.2."""
        down = received in {State.DOWN, State.ADMIN_DOWN}
        if self.state == State.DOWN and received == State.DOWN:
            self._enter(State.INIT, Diagnostic.NONE, now)
        elif (self.state == State.DOWN and received == State.INIT) or (self.state == State.INIT and not down):
            self._enter(State.UP, Diagnostic.NONE, now)
        elif (self.state == State.UP and down) or (self.state == State.INIT and received == State.ADMIN_DOWN):
            self._enter(State.DOWN, Diagnostic.NEIGHBOR_DOWN, now)

    # --- what happens to it ---

    def configure(self, wishes: Wishes, now: int) -> None:
        """Take other wishes, in place."""
        before = self._interval()
        if wishes.kind != self.wishes.kind:
            self.received_sequence = None
        self.wishes = wishes
        self._announce_wishes()
        if self._detect_at is not None:
            self._detect_at = max(self._detect_at, self._last_received + self.detection_time)
        self._rescheduled(before, now)

    def receive(self, data: bytes, now: int) -> bool:
        """Take a packet of the peer; false: it was refused."""
        try:
            packet = decode(data)
        except BfdError:
            return False
        if packet.your_discriminator not in {0, self.discriminator} or not self._authentic(packet):
            return False
        before = self._interval()
        self.remote_discriminator, self.remote_state = packet.my_discriminator, packet.state
        self._remote_demand, self._remote_multiplier = packet.demand, packet.multiplier
        self._remote_desired, self._remote_required = packet.desired, packet.required
        self._last_received = now
        if packet.final and self.polling:
            self._poll_ended()
        self._detect_at = now + self.detection_time
        self._forget_at = now + 2 * self.detection_time
        self._follow(packet.state, now)
        self._rescheduled(before, now)
        if packet.poll:
            self._transmit(now, final=True)
        return True

    def _authentic(self, packet: Control) -> bool:
        kind, section = self.wishes.kind, packet.authentication
        if section is None or kind == Kind.NONE:
            return section is None and kind == Kind.NONE
        if (section.kind, section.key_id) != (kind, self.wishes.key_id) or not packet.authentic(self.wishes.key):
            return False
        if kind.digest_size:
            if self.received_sequence is not None:
                ahead = (section.sequence - self.received_sequence) % _MODULUS
                if not kind.meticulous <= ahead <= 3 * self.wishes.multiplier:
                    return False
            self.received_sequence = section.sequence
        return True

    @property
    def deadline(self) -> int | None:
        """Give when tick is due."""
        own = self._transmit_at if self._transmits else None
        return min((at for at in (own, self._detect_at, self._forget_at) if at is not None), default=None)

    def tick(self, now: int) -> None:
        """Do what is due."""
        if self._detect_at is not None and now >= self._detect_at:
            self._forget_peer()
            if self.state in {State.INIT, State.UP}:
                self._enter(State.DOWN, Diagnostic.TIME_EXPIRED, now)
        if self._forget_at is not None and now >= self._forget_at:
            self._forget_at = None
            self.received_sequence = None
        if now >= self._transmit_at and self._transmits:
            self._transmit(now)
            self._next(now)

    def close(self, now: int) -> None:
        """Tell the peer that nothing has failed (section 6.8.16)."""
        if self.remote_discriminator:
            self.state, self.diagnostic, self.polling = State.ADMIN_DOWN, Diagnostic.ADMIN_DOWN, 0
            for _ in range(FAREWELLS):
                self._transmit(now)
