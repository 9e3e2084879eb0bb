"""A socket as the edge holds it: its outbox, its rooms, who it is, and how far its record is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from roomcast.membership import Change
from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Dialect
from roomcast_edge.limits import Asker
from roomcast_edge.outbox import Outbox
from roomcast_edge.records import Record
from roomcast_edge.session_state import Fate


def _nothing(*_: object) -> None:
    """What is left to do for a connection that is gone."""


class EdgeSocket(Outbox):
    """One greeted websocket. The index changes ``rooms``, the record keeper the fields of the record."""

    __slots__ = (
        "__weakref__",
        "asker",
        "client_rooms",
        "connected_at",
        "data",
        "end",
        "extra",
        "fate",
        "hash",
        "id",
        "includes",
        "revision",
        "rooms",
        "save_waiters",
        "saved_at",
        "saving",
        "told",
        "unsaved",
        "user",
        "why",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        dialect: Dialect,
        limit: int,
        on_slow: Callable[[], None],
        end: Callable[[CloseCode, str], None],
        socket_id: str,
        secret_hash: str,
        plain: bool = True,
    ) -> None:
        super().__init__(transport, dialect, limit, on_slow, plain)
        self.id = socket_id
        self.hash = secret_hash
        self.rooms: set[str] = set()
        self.user: str | None = None
        self.data: Any = None
        # Patterns of rooms that the client may join by itself; None: those of the settings.
        self.client_rooms: tuple[str, ...] | None = None
        self.connected_at = time.time()
        # What it may ask of services; None: it has asked for nothing yet.
        self.asker: Asker | None = None
        self.end = end
        self.extra: dict[str, Any] = {}
        # The record: its revision in the stream, changes that no acknowledged write includes yet, who waits for one.
        self.fate = Fate.HERE
        # The last move that the rooms include, once the socket has left this edge: later ones do not reach it here.
        self.includes = 0
        # Whether services know of its session; why it left, as they are told.
        self.told = False
        self.why = ""
        self.revision = 0
        self.saved_at = 0.0
        self.saving = False
        self.unsaved: list[Change] = []
        self.save_waiters: list[asyncio.Future[None]] = []

    def untie(self) -> None:
        """Let go of the connection, which is gone."""
        self.end = self.on_slow = _nothing

    def record(self, owner: str | None, applied: int) -> Record:
        """The record of this socket as it is now."""
        return Record(
            owner=owner,
            rooms=self.rooms,
            applied=applied,
            hash=self.hash,
            user=self.user,
            data=self.data,
            client_rooms=self.client_rooms,
            connected_at=self.connected_at,
            extra=self.extra,
        )

    def describe(self, edge: str) -> dict[str, Any]:
        """What services are told of this socket."""
        return {
            "id": self.id,
            "edge": edge,
            "rooms": sorted(self.rooms),
            "user": self.user,
            "data": self.data,
            "dialect": self.dialect.name,
            "connected_at": self.connected_at,
        }
