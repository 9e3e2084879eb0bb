"""The membership index: which local sockets are in which room. Plain dicts, no I/O. Pure code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from roomcast.membership import Change


class Member(Protocol):
    """What the index needs to know of a socket. It alone changes ``rooms``."""

    id: str
    rooms: set[str]


S = TypeVar("S", bound=Member)


@dataclass(slots=True)
class Delta:
    """What a change did: rooms joined and left by the socket, rooms that now have their first or lost their last."""

    joined: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.joined or self.left)


class Index(Generic[S]):
    """Sockets by id, and the members of each room that has any. A socket's own room needs no entry."""

    def __init__(self) -> None:
        self.sockets: dict[str, S] = {}
        # Members in the order in which they came: a cast walks them, and the kernel's sockets behind them, as they lie
        # in memory. In a set's order a delivery costs a quarter more.
        self.rooms: dict[str, dict[S, None]] = {}

    def insert(self, socket: S, rooms: Collection[str] = ()) -> Delta:
        """Add a socket that is in these rooms. ``KeyError`` when its id is here already."""
        if socket.id in self.sockets:
            raise KeyError(f"{socket.id} is in the index already")
        self.sockets[socket.id] = socket
        return self.change(socket, Change(join=tuple(rooms)))

    def remove(self, socket: S) -> Delta:
        """Take a socket out, and out of all its rooms. ``KeyError`` when it is not here."""
        if self.sockets.get(socket.id) is not socket:
            raise KeyError(f"{socket.id} is not in the index")
        delta = self.change(socket, Change(leave_all=True))
        del self.sockets[socket.id]
        return delta

    def change(self, socket: S, change: Change) -> Delta:
        """Apply a change to one socket (its joins and leaves; a disconnect is the caller's work)."""
        joined, left = change.delta(socket.rooms, socket.id)
        delta = Delta(joined, left)
        for room in left:
            members = self.rooms[room]
            del members[socket]
            socket.rooms.remove(room)
            if not members:
                del self.rooms[room]
                delta.closed.append(room)
        for room in joined:
            known = self.rooms.get(room)
            if known is None:
                self.rooms[room] = {socket: None}
                delta.opened.append(room)
            else:
                known[socket] = None
            socket.rooms.add(room)
        return delta

    def members(self, room: str) -> Collection[S]:
        """Who is in a room now: a live view or a copy; do not change membership while walking it."""
        own = self.sockets.get(room)
        members = self.rooms.get(room)
        if own is None:
            return members if members is not None else ()
        return (own,) if members is None else {own: None} | members
