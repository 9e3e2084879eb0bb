"""Takes a service to where the edges are, when its NATS node stands and answers but is cut off from its cluster.

Nothing tells the clients of such a node: what they publish goes nowhere. What a service can see is that it hears no
edge any more: each says once a second on ``bus.alive`` that it lives, and says so when it leaves a cut-off node. The
service listens at the other nodes then, and goes to the first where it hears one, unless one is heard here after all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from nats import errors as nats_errors

from roomcast.access import masked
from roomcast.errors import RoomcastError
from roomcast.names import Subjects
from roomcast.nats_client import LightSubscription, MendedClient

log = logging.getLogger("roomcast")

LEAVES = b"leaves"
"""What an edge says after its id when it leaves a NATS node that is cut off."""
ENDS = b"ends"
"""What it says when it ends."""
SILENT_SECONDS = 2.0
"""Seconds without a word of any edge after which a service looks elsewhere: edges speak once a second."""
SURE_SECONDS = 3.5
"""Seconds without a word, where no edge said that it leaves, after which a service goes: longer than edges take to
leave a node that is cut off, since they may all be there, and about to come here."""
FORGET_SECONDS = 60.0
"""Seconds without a word after which there are no edges, as far as a service is concerned."""
HEAR_SECONDS = 1.25
"""How long it listens at the other nodes."""
DIAL_SECONDS = 1.0
LOOK_SECONDS = 0.25
STALL_SECONDS = 0.5
"""A loop that is late by this much may have a word before it that it has not read yet."""
PAUSE_SECONDS = 1.0
"""Seconds between two looks; twice as long after each that found nothing, up to:"""
LONGEST_PAUSE = 8.0

Dial = Callable[[str], Awaitable[MendedClient]]


class Lookout:
    """Hears the edges for one service."""

    def __init__(self, client: MendedClient, subjects: Subjects, dial: Dial) -> None:
        """``dial`` makes a connection to one node, with all that it needs to be let in."""
        self._client = client
        self._subject = subjects.alive
        self._dial = dial
        # When (time.monotonic) each edge was heard last; without those that have left, or are silent for long.
        self._edges: dict[bytes, float] = {}
        self._heard_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen, and watch in the background. A user who may not hear the edges stays where it is."""
        self._client.subscribe_light(self._subject, self._on_alive, optional=True)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()

    def _on_alive(self, _: LightSubscription, __: bytes, ___: bytes, payload: bytes, ____: bytes) -> None:
        edge, _space, word = payload.partition(b" ")
        if word == ENDS:
            self._edges.pop(edge, None)
            self._heard_at = self._heard_at if self._edges else 0.0
            return
        self._heard_at = time.monotonic()
        if word == LEAVES:
            self._edges.pop(edge, None)
        else:
            self._edges[edge] = self._heard_at

    async def _run(self) -> None:
        pause, connection, since = PAUSE_SECONDS, -1, 0.0
        while True:
            due = time.monotonic() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            if not self._client.is_connected or self._client.stats["reconnects"] != connection:
                connection, since = self._client.stats["reconnects"], now
            if now - due > STALL_SECONDS or now - since < SILENT_SECONDS or not self._hears_nobody(now):
                pause = PAUSE_SECONDS if now - self._heard_at < SILENT_SECONDS else pause
                continue
            await self._look_elsewhere()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _hears_nobody(self, now: float) -> bool:
        """Whether there were edges lately, and none is heard now."""
        if now - self._heard_at > FORGET_SECONDS:
            self._edges.clear()
            return False
        self._edges = {edge: heard for edge, heard in self._edges.items() if now - heard < SURE_SECONDS}
        return all(now - heard > SILENT_SECONDS for heard in self._edges.values())

    async def _look_elsewhere(self) -> None:
        looks = [asyncio.create_task(self._hears_edges_at(url)) for url in self._client.other_servers()]
        try:
            for look in asyncio.as_completed(looks):
                found = await look
                if not found:
                    continue
                if await self._is_sure() and self._client.is_connected:
                    log.warning("this NATS node is cut off from the edges: going to %s", masked(found))
                    await self._client.move_to(found)
                return
        finally:
            for task in looks:
                task.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _is_sure(self) -> bool:
        """Wait until an edge is heard here after all, or none is left to wait for: then it is."""
        while True:
            if not self._hears_nobody(time.monotonic()):
                return False
            if not self._edges:
                return True
            await asyncio.sleep(LOOK_SECONDS)

    async def _hears_edges_at(self, url: str) -> str:
        """The URL when an edge is heard there, and it is not this node under another name; else nothing."""
        heard = asyncio.Event()

        def hear(_: LightSubscription, __: bytes, ___: bytes, payload: bytes, ____: bytes) -> None:
            if b" " not in payload:
                heard.set()

        client: MendedClient | None = None
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                client = await self._dial(url)
            client.subscribe_light(self._subject, hear, optional=True)
            async with asyncio.timeout(HEAR_SECONDS):
                await heard.wait()
        except (TimeoutError, RoomcastError) as error:
            log.debug("no edge is heard at %s: %s", masked(url), error)
            return ""
        finally:
            if client is not None:
                with contextlib.suppress(nats_errors.Error):
                    await client.close()
        return url if client.server_id != self._client.server_id else ""
