"""Joins, leaves, moves and casts without end, and what must be true of them whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from roomcast import Bus, BusUnavailable, MoveIncomplete, OutcomeUnknown, RemoteError
from support.websocket_client import Client

EVERYONE = "everyone"
"""The room that all clients are in from the start: casts and moves go to it."""
ROOMS = [f"r{n}" for n in range(6)]
CAST_EVERY = 0.01
PAUSE = 0.05
CHANGE_TIMEOUT = 3.0
MOVE_TIMEOUT = 5.0


@dataclass(eq=False)
class Kept:
    """A client, the rooms that it must be in, and those of which nobody knows."""

    client: Client
    edge: str
    rooms: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


class Workload:
    """Runs as long as it is entered. Each socket is changed by one task alone, so that its rooms are known."""

    def __init__(self, bus: Bus, kept: list[Kept], rng: random.Random) -> None:
        self._bus = bus
        self._kept = kept
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False
        # Over which connection of the Bus each cast was sent: order holds within one.
        self._connections: list[int] = []
        self.sent: list[float] = []
        """When each cast was sent, by its number."""
        self.refused: list[int] = []
        self.changes = 0
        self.moves: list[str] = []
        """Rooms that an acknowledged move made everyone join, in order."""
        self.unsure_moves: set[str] = set()
        self.failures: list[tuple[float, str]] = []
        """When a change or a move ended with an error, and with which."""
        self.last_change: dict[str, float] = {}
        """When the newest acknowledged change of each edge's sockets, or move (by ``"move"``), was begun."""

    async def __aenter__(self) -> Workload:
        for kept in self._kept:
            await self._bus.join(kept.client.id, EVERYONE, timeout=10)
        self._tasks = [asyncio.create_task(self._cast()), asyncio.create_task(self._move())]
        self._tasks += [asyncio.create_task(self._change(kept)) for kept in self._kept]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _cast(self) -> None:
        while not self._over:
            self.sent.append(time.monotonic())
            self._connections.append(self._bus.nats.stats["reconnects"])
            try:
                await self._bus.broadcast(EVERYONE, "cast", len(self.sent) - 1)
            except BusUnavailable:
                self.refused.append(len(self.sent) - 1)
            await asyncio.sleep(CAST_EVERY)

    async def _change(self, kept: Kept) -> None:
        while not self._over:
            joins, room, began = self._rng.random() < 0.6, self._rng.choice(ROOMS), time.monotonic()
            try:
                await (self._bus.join if joins else self._bus.leave)(kept.client.id, room, timeout=CHANGE_TIMEOUT)
            except (OutcomeUnknown, BusUnavailable, RemoteError) as error:
                self.failures.append((time.monotonic(), f"{type(error).__name__}: {error}"[:100]))
                if isinstance(error, OutcomeUnknown):
                    kept.unknown.add(room)
            else:
                self.changes += 1
                (kept.rooms.add if joins else kept.rooms.discard)(room)
                self.last_change[kept.edge] = began
            await asyncio.sleep(PAUSE)

    async def _move(self) -> None:
        number = 0
        while not self._over:
            room, began = f"moved-{number}", time.monotonic()
            number += 1
            try:
                await self._bus.add_room_members_to_rooms(EVERYONE, room, timeout=MOVE_TIMEOUT)
            except MoveIncomplete as error:  # durable, but somebody is late
                self.failures.append((time.monotonic(), f"MoveIncomplete: {error}"[:100]))
                self.moves.append(room)
            except (OutcomeUnknown, BusUnavailable, RemoteError) as error:
                self.failures.append((time.monotonic(), f"{type(error).__name__}: {error}"[:100]))
                if isinstance(error, OutcomeUnknown):
                    self.unsure_moves.add(room)
            else:
                self.moves.append(room)
                self.last_change["move"] = began
            await asyncio.sleep(PAUSE)

    # -- judging -------------------------------------------------------------------------------------------------------

    def heard(self, kept: Kept) -> set[int]:
        """The numbers of the casts that a client has heard."""
        return {data for event, data in kept.client.events if event == "cast"}

    def flows(self, since: float) -> bool:
        """Whether every client has heard a cast, and every edge and the log have taken a change, begun after this."""
        for kept in self._kept:
            newest = next((data for event, data in reversed(kept.client.events) if event == "cast"), None)
            if newest is None or self.sent[newest] < since:
                return False
        edges = {kept.edge for kept in self._kept}
        return all(self.last_change.get(name, 0.0) > since for name in {*edges, "move"})

    def lost(self, since: float = 0.0) -> list[int]:
        """The numbers of the casts since a time that not every client has heard, refused ones among them."""
        numbers = {n for n, at in enumerate(self.sent) if at >= since}
        missed: set[int] = set()
        for kept in self._kept:
            missed |= numbers - self.heard(kept)
        return sorted(missed)

    async def check(self) -> None:
        """Every acknowledged change and move is there, and nothing that was refused; casts came in order, once."""
        wrong = []
        for kept in self._kept:
            rooms = await self._bus.rooms(kept.client.id, timeout=10) - {EVERYONE}
            moved = {room for room in rooms if room.startswith("moved-")}
            missing = kept.rooms - rooms - kept.unknown | set(self.moves) - moved
            extra = rooms - moved - kept.rooms - kept.unknown | moved - set(self.moves) - self.unsure_moves
            if missing or extra:
                wrong.append(f"{kept.client.id}: missing {sorted(missing)}, never acknowledged {sorted(extra)}")
            numbers = [data for event, data in kept.client.events if event == "cast"]
            if len(numbers) != len(set(numbers)):
                wrong.append(f"{kept.client.id} heard a cast twice")
            for connection in set(self._connections):
                of_one = [number for number in numbers if self._connections[number] == connection]
                if of_one != sorted(of_one):
                    wrong.append(f"{kept.client.id} heard casts of the publisher's connection {connection} disordered")
        assert not wrong, wrong
