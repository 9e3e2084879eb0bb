"""From NATS to the sockets: reads a cast, finds who gets it, and hands it to the fan-out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import orjson

from roomcast.envelope import excepted_rooms, sent_ns
from roomcast.names import decode_event, decode_room, is_reserved_event
from roomcast.nats_client import LightSubscription
from roomcast_edge.index import Index
from roomcast_edge.metrics import Metrics
from roomcast_edge.outbox import FanOut
from roomcast_edge.socket import EdgeSocket

MAX_HELD = 50_000
"""Casts held back while this edge catches up with the log of moves; more are dropped and counted."""
MAX_HELD_BYTES = 64 * 1024 * 1024
CACHED_EVENTS = 10_000

Message = tuple[LightSubscription, bytes, bytes, bytes]


class Casts:
    """The one sink of all casts, in the order of the connection."""

    def __init__(
        self,
        prefix: str,
        index: Index[EdgeSocket],
        fanout: FanOut,
        metrics: Metrics,
        warn: Callable[[str, str], None],
        limit: int,
    ) -> None:
        self._room_start = len(prefix) + len(".room.")
        self._blast_start = f"{prefix}.blast.".encode()
        self._index = index
        self._everyone = index.sockets.values()  # one live view: casts to it in a row are one run
        self._fanout = fanout
        self._metrics = metrics
        self._warn = warn
        self._limit = limit
        # Event names by token; None where the token is no event that an application may send.
        self._events: dict[bytes, str | None] = {}
        self._held: list[Message] | None = None
        self._held_bytes = 0
        # Casts that were sent between these (ns since the epoch) and come now were heard on the connection before.
        self._heard_from = self._heard_until = 0

    def sink(self, sub: LightSubscription, subject: bytes, _: bytes, payload: bytes, headers: bytes) -> None:
        """Take one cast from NATS."""
        if self._held is not None:
            self._hold((sub, subject, payload, headers))
            return
        split = subject.rfind(b".") + 1
        token = subject[split:]
        try:
            event = self._events[token]
        except KeyError:
            event = self._learn(token)
        if event is None:
            self._refuse("event", subject)
            return
        members: Collection[EdgeSocket]
        metrics = self._metrics
        room = sub.key
        if room is not None:
            members = self._index.rooms.get(room) or ()
            if room in self._index.sockets:
                members = self._index.members(room)
            metrics.casts_received["room"] += 1
        elif subject.startswith(self._blast_start):
            members = self._everyone
            metrics.casts_received["blast"] += 1
        else:
            members = self._members_of(subject[self._room_start : split - 1])
            metrics.casts_received["socket"] += 1
        if len(payload) > self._limit:
            self._refuse("size", subject)
            return
        try:
            orjson.loads(payload)
        except orjson.JSONDecodeError:
            self._refuse("payload", subject)
            return
        sent = 0
        if headers:
            sent = sent_ns(headers)
            if self._heard_from < sent < self._heard_until:
                self._warn("cast dropped: it was heard on the node that was left", repr(subject[:200])[1:])
                return
            if b"Roomcast-Except:" in headers:
                members = self._without(members, headers)
        if members:
            self._fanout.cast(members, event, payload, sent)

    def leave(self, seconds: float) -> None:
        """This edge leaves a NATS node that has been cut off for so long at most, for another one.

        What was published there meanwhile was heard, and comes again when the node's routes to the others are whole;
        it is known by its ``Roomcast-Sent``.
        """
        self._heard_until = time.time_ns()
        self._heard_from = self._heard_until - int(seconds * 1e9)

    def hold(self) -> None:
        """Hold casts back: what they meet here may lag behind the log of moves."""
        if self._held is None:
            self._held = []
            self._held_bytes = 0

    def release(self) -> None:
        """Deliver, in order, what was held back."""
        held, self._held = self._held, None
        for sub, subject, payload, headers in held or ():
            self.sink(sub, subject, b"", payload, headers)

    def drop(self) -> None:
        """Forget what is held back, counting it."""
        if self._held:
            self._metrics.casts_dropped["held_too_long"] += len(self._held)
            self._held = []
            self._held_bytes = 0

    @property
    def holding(self) -> bool:
        """Whether casts are held back now."""
        return self._held is not None

    def _hold(self, message: Message) -> None:
        assert self._held is not None, "called only while casts are held"
        self._held_bytes += len(message[2]) + len(message[3])
        if len(self._held) >= MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
            self._metrics.casts_dropped["held_too_many"] += 1
            return
        self._metrics.casts_held += 1
        self._held.append(message)

    def _members_of(self, tokens: bytes) -> Collection[EdgeSocket]:
        name = tokens.decode("ascii", "replace")
        own = self._index.sockets.get(name)
        if own is not None and name not in self._index.rooms:
            return (own,)
        try:
            return self._index.members(decode_room(name))
        except ValueError:
            self._refuse("room", tokens)
            return ()

    def _without(self, members: Collection[EdgeSocket], headers: bytes) -> Collection[EdgeSocket]:
        skipped: set[EdgeSocket] = set()
        for tokens in excepted_rooms(headers):
            try:
                skipped.update(self._index.members(decode_room(tokens)))
            except ValueError:
                self._refuse("except", tokens.encode())
        if not skipped:
            return members
        return [socket for socket in members if socket not in skipped]

    def _learn(self, token: bytes) -> str | None:
        try:
            event: str | None = decode_event(token.decode("ascii"))
        except ValueError:
            event = None
        if event is not None and is_reserved_event(event):
            event = None
        if len(self._events) >= CACHED_EVENTS:
            self._events.clear()
        self._events[token] = event
        return event

    def _refuse(self, reason: str, subject: bytes) -> None:
        self._metrics.invalid[reason] += 1
        self._warn(f"cast dropped: bad {reason}", repr(subject[:200])[1:])  # escaped: it may hold what breaks a line
