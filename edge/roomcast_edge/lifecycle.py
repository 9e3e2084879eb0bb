"""Tells services of each session that begins, and once of each that is over.

A session that was ended on purpose is over with the purge of its record. One whose connection was lost, or whose edge
has died, is over when its resume window is: then the record is purged by compare-and-set, and whoever's purge it was
tells. So nobody tells of a session that has come back, and no two tell of the same one.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from typing import Any

import orjson
from nats import errors as nats_errors

from roomcast.lifecycle import Lifecycle
from roomcast.names import Subjects
from roomcast.nats_client import MendedClient
from roomcast_edge.follower import Follower
from roomcast_edge.kv import Bucket, KvUnavailable, WrongRevision
from roomcast_edge.records import Record, UnknownVersion
from roomcast_edge.socket import EdgeSocket

log = logging.getLogger("roomcast.edge")

TELLS_UNDER_WAY = 50
LOOK_SECONDS = 0.5
AGAIN_SECONDS = 5.0


class Tellers:
    """Publishes ``bus.event.connect`` and ``bus.event.disconnect``; purges the records of sessions that are over."""

    def __init__(self, edge: str, subjects: Subjects, client: MendedClient, bucket: Bucket, follower: Follower) -> None:
        self._edge = edge
        self._subjects = subjects
        self._client = client
        self._bucket = bucket
        self._follower = follower
        # Sessions that may be over, by when that is known (time.time), and who held them.
        self._due: list[tuple[float, str, str]] = []
        self._waiting: dict[str, float] = {}
        self._places = asyncio.Semaphore(TELLS_UNDER_WAY)
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def connected(self, socket: EdgeSocket) -> None:
        """A new session was greeted."""
        socket.told = True
        self._tell(self._subjects.connects, self._event(socket))

    def gone(self, socket: EdgeSocket) -> None:
        """The record of a session that was ended is purged."""
        if socket.told:
            self._tell(self._subjects.disconnects, {**self._event(socket), "reason": socket.why})

    def later(self, name: str, holder: str, due: float) -> None:
        """A session that ``holder`` held may be over at this time, in seconds since the epoch."""
        if self._waiting.get(name) != due:
            self._waiting[name] = due
            heapq.heappush(self._due, (due, name, holder))

    async def run(self) -> None:
        """For ever: see which sessions are over."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.time()
            while self._due and self._due[0][0] <= now:
                due, name, holder = heapq.heappop(self._due)
                if self._waiting.get(name) != due:
                    continue
                await self._places.acquire()
                task = asyncio.get_running_loop().create_task(self._see(due, name, holder))
                self._tasks.add(task)
                task.add_done_callback(self._seen)

    def _seen(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("the end of a session was not told", exc_info=task.exception())

    async def _see(self, due: float, name: str, holder: str) -> None:
        try:
            over = await self._end(name, holder)
        except (KvUnavailable, WrongRevision) as error:  # a rival's write: look again, it may be back
            log.debug("the end of a session is looked at again: %s", error)
            if self._waiting.get(name) == due:
                self.later(name, holder, time.time() + AGAIN_SECONDS)
            return
        if self._waiting.get(name) == due:
            del self._waiting[name]
        if over is not None:
            self._tell(self._subjects.disconnects, over.to_json())

    async def _end(self, name: str, holder: str) -> Lifecycle | None:
        """Purge the record of a session that is over; None when it is not, or when that was told."""
        key = f"socket.{name}"
        entry = await self._bucket.get(key)
        if entry is None or entry.value is None:
            return None
        try:
            record = Record.from_json(entry.value)
        except (ValueError, UnknownVersion):
            return None
        if record.holder != holder or (record.away is not None and record.away.until > time.time()):
            return None
        await self._follower.bring_up_to_date(name, record)
        why = record.away.why if record.away is not None else "lost"
        if record.disconnect is not None:
            why = "kicked"
        await self._bucket.purge(key, expect=entry.revision)
        return Lifecycle(name, record.user, holder, why, frozenset(record.rooms), record.data)

    def _event(self, socket: EdgeSocket) -> dict[str, Any]:
        """As :meth:`Lifecycle.to_json` writes it."""
        edge, rooms = self._edge, sorted(socket.rooms)
        return {"id": socket.id, "user": socket.user, "edge": edge, "rooms": rooms, "data": socket.data}

    def _tell(self, subject: str, event: dict[str, Any]) -> None:
        try:
            self._client.send(subject, orjson.dumps(event))
        except nats_errors.Error as error:
            log.debug("%s was not told: %s", subject, error)
