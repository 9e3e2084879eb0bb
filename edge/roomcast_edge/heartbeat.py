"""Every edge says that it lives, hears the others, and asks those that fall silent (``bus.alive``, ``bus.edge.*``)."""

from __future__ import annotations

import asyncio
import contextlib
import time

import orjson
from nats import errors as nats_errors

from roomcast.errors import BusTimeout, RoomcastError
from roomcast.lookout import ENDS, LEAVES
from roomcast.names import Subjects, is_edge_id
from roomcast.nats_client import LightSubscription, MendedClient
from roomcast.requests import NoResponders, Requests
from roomcast_edge.lease import LEASE_TTL
from roomcast_edge.neighbours import Neighbours, State
from roomcast_edge.sessions import SILENT_TWICE

BEAT_SECONDS = 1.0
EAGER_SECONDS = 2.0
"""For so long after it went to another NATS node an edge beats at each look: services look for it."""
SILENT_SECONDS = 2.0
ANSWER_SECONDS = 1.0
"""With the two above: a stalled edge is suspect before NATS, pinging every 2 seconds, closes its connection."""
LOOK_SECONDS = 0.25
SAY_WITHIN = 0.25
"""Seconds that a last word may take to reach NATS."""
STALL_SECONDS = 0.5
"""A loop that is late by this much may have an answer before it that it has not read yet."""


class Heartbeat:
    """This edge's heartbeat, and what it makes of the others'."""

    def __init__(self, edge: str, subjects: Subjects, client: MendedClient, requests: Requests) -> None:
        self._edge = edge
        self._subjects = subjects
        self._client = client
        self._requests = requests
        self._asking: set[asyncio.Task[None]] = set()
        self._beat_at = self._eager_until = 0.0
        self.neighbours = Neighbours(SILENT_SECONDS, 2 * LEASE_TTL)

    def start(self) -> None:
        """Listen. The subscription is replayed by a reconnect; call once."""
        self._client.subscribe_light(self._subjects.alive, self._on_alive)

    async def run(self) -> None:
        """For ever: say that this edge lives, look who does not say so."""
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                if not self._client.is_connected:
                    continue
                now = time.monotonic()
                if now >= self._beat_at:
                    self._beat_at = now if now < self._eager_until else now + BEAT_SECONDS - LOOK_SECONDS / 2
                    self._say(self._edge.encode())
                for edge in self.neighbours.silent(now):
                    self._spawn(edge)
        finally:
            for task in self._asking:
                task.cancel()

    async def leaves(self) -> None:
        """Say, to whoever hears it at this NATS node, that this edge leaves it; where it goes it is heard at once."""
        self._say(self._edge.encode() + b" " + LEAVES)
        self._beat_at, self._eager_until = 0.0, time.monotonic() + EAGER_SECONDS
        with contextlib.suppress(TimeoutError, nats_errors.Error):
            await self._client.flush(SAY_WITHIN)

    def ends(self) -> None:
        """Say that this edge ends."""
        self._say(self._edge.encode() + b" " + ENDS)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(nats_errors.Error):  # a server that takes no more: others may ask
            self._client.send(self._subjects.alive, word)

    def _on_alive(self, _: LightSubscription, __: bytes, ___: bytes, payload: bytes, ____: bytes) -> None:
        edge = payload.decode("ascii", "replace").partition(" ")[0]
        if edge != self._edge and is_edge_id(edge):
            self.neighbours.heard(edge, time.monotonic())

    def _spawn(self, edge: str) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(edge))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, edge: str) -> None:
        """Ask a silent edge whether it lives. An answer of whatever kind is a sign of life.

        No answer means nothing where this edge itself was cut off or stalled meanwhile: it is asked again.
        """
        asked = orjson.dumps({"op": "alive"})
        for attempt in range(2):
            began = time.monotonic()
            try:
                await self._requests.ask(self._subjects.edge(edge), asked, ANSWER_SECONDS)
                self.neighbours.heard(edge, time.monotonic())
                return
            except NoResponders:
                if attempt == 0:
                    await asyncio.sleep(SILENT_TWICE)
            except BusTimeout:
                on_time = time.monotonic() - began < ANSWER_SECONDS + STALL_SECONDS
                self.neighbours.judge(edge, State.SUSPECT if on_time and await self._hears() else State.HEARD)
                return
            except RoomcastError:
                self.neighbours.judge(edge, State.HEARD)
                return
        self.neighbours.judge(edge, State.DEAD)

    async def _hears(self) -> bool:
        """Whether NATS answers this edge itself."""
        try:
            await self._client.flush(ANSWER_SECONDS)
        except (TimeoutError, nats_errors.Error):
            return False
        return True
