"""Membership on one edge: the index, what NATS brings for it, and the records, kept in step by one pair of hands."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AbstractContextManager

from roomcast.membership import Change
from roomcast_edge.closing import CloseCode
from roomcast_edge.follower import Follower
from roomcast_edge.index import Delta, Index
from roomcast_edge.interest import Interest
from roomcast_edge.keeper import Elsewhere, Keeper
from roomcast_edge.kv import Bucket
from roomcast_edge.metrics import Metrics
from roomcast_edge.outbox import FanOut
from roomcast_edge.records import Move
from roomcast_edge.session_state import Event
from roomcast_edge.socket import EdgeSocket


class Membership:
    """Every change of who is in which room here goes through this. Casts sent before it meet the members of before."""

    def __init__(
        self,
        index: Index[EdgeSocket],
        interest: Interest,
        fanout: FanOut,
        bucket: Bucket,
        edge: str,
        metrics: Metrics,
        resume_window: float,
    ) -> None:
        self.index = index
        self._interest = interest
        self._fanout = fanout
        self._edge = edge
        self._metrics = metrics
        self.follower = Follower(bucket, index, self._apply_move, fanout.settle, metrics)
        self.keeper = Keeper(bucket, edge, self.follower, metrics, self.set_rooms, resume_window)

    def hearing(self, name: str, rooms: Collection[str]) -> AbstractContextManager[None]:
        """Hear the rooms of a socket that is about to be here. Once any request sent after this is answered, casts
        sent next come here."""
        return self._interest.ahead({name, *rooms})

    def insert(self, socket: EdgeSocket, rooms: Collection[str]) -> None:
        """A greeted socket, which includes all moves up to the follower's head."""
        self._fanout.settle()
        if socket.id not in self.index.rooms:
            self._interest.add(socket.id)
        self._hear(self.index.insert(socket, rooms))

    def remove(self, socket: EdgeSocket, event: Event) -> asyncio.Future[None] | None:
        """A socket whose connection is over; its record says what becomes of the session. Twice is no error.

        The future tells when the record says it.
        """
        if self.index.sockets.get(socket.id) is not socket:
            return None
        self._fanout.settle()
        self.follower.catch_up(socket)
        if self.index.sockets.get(socket.id) is not socket:
            return None  # the move under way has disconnected it
        rooms = set(socket.rooms)
        self._hear(self.index.remove(socket))
        if socket.id not in self.index.rooms:
            self._interest.remove(socket.id)
        socket.rooms = rooms  # what its record still says
        self.follower.forget(socket)
        self.keeper.forget(socket)
        return self._finish(socket, event)

    def release(self, socket: EdgeSocket) -> None:
        """Let another edge have the session; a write that is under way loses against its compare-and-set, or wins."""
        self.remove(socket, Event.TAKEN)
        socket.end(CloseCode.REPLACED, "the session was taken up elsewhere")

    def abandon(self, socket: EdgeSocket, rooms: Collection[str], event: Event) -> None:
        """A socket whose client went before it was greeted."""
        socket.rooms = set(rooms)
        self._finish(socket, event)

    def _finish(self, socket: EdgeSocket, event: Event) -> asyncio.Future[None] | None:
        fate = socket.fate.after(event)
        if fate is not socket.fate:
            socket.fate, socket.why = fate, event.value
        socket.includes = self.follower.head
        if event is Event.TAKEN:
            return None
        saved = self.keeper.save(socket)
        saved.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody may wait for it
        return saved

    def change(self, socket: EdgeSocket, change: Change) -> tuple[bool, asyncio.Future[None] | None]:
        """Make a single change in memory and in NATS at once; the future tells when the record has it. ``Elsewhere``.

        Whoever is answered on the same connection after this finds the socket in its new rooms.
        """
        self._fanout.settle()
        self.follower.catch_up(socket)
        if self.index.sockets.get(socket.id) is not socket:
            raise Elsewhere  # the move under way has ended it here
        delta = self.index.change(socket, change)
        self._hear(delta)
        for kind, rooms in (("join", delta.joined), ("leave", delta.left)):
            if rooms:
                self._metrics.changes[kind] += len(rooms)
        if change.disconnect is not None:
            self._metrics.changes["disconnect"] += 1
            saved = self.remove(socket, Event.KICKED)
            socket.end(CloseCode.KICKED, change.disconnect)
            return True, saved
        if delta:
            return True, self.keeper.save(socket, Change(join=tuple(delta.joined), leave=tuple(delta.left)))
        # A change that another caller still waits for is not done for this one either.
        return False, self.keeper.save(socket) if socket.unsaved else None

    def set_rooms(self, socket: EdgeSocket, rooms: set[str]) -> None:
        """Make these a socket's rooms, after its record said so."""
        if self.index.sockets.get(socket.id) is not socket:
            socket.rooms = set(rooms)
            return
        self._fanout.settle()
        leave = tuple(socket.rooms - rooms)
        self._hear(self.index.change(socket, Change(join=tuple(rooms), leave=leave)))

    def _apply_move(self, socket: EdgeSocket, move: Move) -> bool:
        change = move.change
        if move.owner:
            if move.owner == self._edge or socket.revision > move.taken:
                return False
            socket.end(CloseCode.REPLACED, "the session was taken up elsewhere")
            return True
        delta = self.index.change(socket, change)
        self._hear(delta)
        if change.disconnect is not None:
            self._metrics.changes["move_disconnect"] += 1
            socket.fate, socket.why = socket.fate.after(Event.KICKED), Event.KICKED.value  # its client may be gone
            socket.end(CloseCode.KICKED, change.disconnect)
            return True
        if delta:
            self._metrics.changes["move_join"] += len(delta.joined)
            self._metrics.changes["move_leave"] += len(delta.left)
            self.keeper.touch(socket)
            return True
        return False

    def _hear(self, delta: Delta) -> None:
        for room in delta.opened:
            if room not in self.index.sockets:
                self._interest.add(room)
        for room in delta.closed:
            if room not in self.index.sockets:
                self._interest.remove(room)
