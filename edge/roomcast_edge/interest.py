"""Interest: one light subscription for each room that has a member here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from roomcast.names import Subjects, encode_room
from roomcast.nats_client import LightSubscription, MendedClient
from roomcast.wire import Sink


class Interest:
    """Which rooms this edge hears. All casts go to one sink, so that their order holds across rooms."""

    def __init__(self, client: MendedClient, subjects: Subjects, edge: str, sink: Sink) -> None:
        self._client = client
        self._subjects = subjects
        self._own = edge + "."
        self._sink = sink
        self._rooms: dict[str, LightSubscription] = {}
        # Rooms heard for sockets that are about to be here, and for how many; those of them without a member yet.
        self._ahead: Counter[str] = Counter()
        self._memberless: set[str] = set()

    def start(self) -> None:
        """Hear blasts, and the rooms of all sockets whose ids this edge gives."""
        self._client.subscribe_light(self._subjects.blast_all, self._sink)
        self._client.subscribe_light(self._subjects.own_sockets(self._own[:-1]), self._sink)

    def add(self, room: str) -> None:
        """Hear a room from now on: what is sent on the connection after this is behind it. ``KeyError`` if heard."""
        if self._covered(room):
            return
        if room in self._memberless:
            self._memberless.remove(room)
        elif room in self._rooms:
            raise KeyError(f"{room!r} is subscribed already")
        else:
            self._subscribe(room)

    def remove(self, room: str) -> None:
        """Hear a room no more. ``KeyError`` when it was not heard."""
        if self._covered(room):
            return
        if room in self._memberless:
            raise KeyError(f"{room!r} has no member")
        if room in self._ahead:
            self._memberless.add(room)
        else:
            self._unsubscribe(room)

    @contextmanager
    def ahead(self, rooms: Collection[str]) -> Iterator[None]:
        """Hear rooms, as long as the block runs, for a socket that is about to be a member of them."""
        rooms = [room for room in rooms if not self._covered(room)]
        for room in rooms:
            self._ahead[room] += 1
            if room not in self._rooms:
                self._memberless.add(room)
                self._subscribe(room)
        try:
            yield
        finally:
            for room in rooms:
                self._ahead[room] -= 1
                if self._ahead[room]:
                    continue
                del self._ahead[room]
                if room in self._memberless:
                    self._memberless.remove(room)
                    self._unsubscribe(room)

    def _subscribe(self, room: str) -> None:
        self._rooms[room] = self._client.subscribe_light(self._subjects.room_events(room), self._sink, key=room)

    def _unsubscribe(self, room: str) -> None:
        self._client.unsubscribe_light(self._rooms.pop(room))

    def __len__(self) -> int:
        return len(self._rooms)

    def _covered(self, room: str) -> bool:
        # A second subscription beside the wildcard would bring every cast twice.
        return room.startswith(self._own) and encode_room(room).count(".") == 1
