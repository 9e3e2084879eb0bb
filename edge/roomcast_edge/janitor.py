"""Finds the sessions that dead edges have left behind: the oldest edge scans the records, after each edge's end."""

from __future__ import annotations

import asyncio
import logging
import random
import time

import orjson

from roomcast_edge.kv import Bucket, KvUnavailable
from roomcast_edge.lifecycle import Tellers
from roomcast_edge.records import Record, UnknownVersion

log = logging.getLogger("roomcast.edge")

LOOK_SECONDS = 5.0
PAGE = 500
READ_TIMEOUT = 2.0


class Janitor:
    """Watches who lives, and hands the sessions of those who do not to the tellers."""

    def __init__(self, edge: str, bucket: Bucket, tellers: Tellers, resume_window: float) -> None:
        self._edge = edge
        self._bucket = bucket
        self._tellers = tellers
        self._resume_window = resume_window
        self._known: set[str] | None = None
        """The edges that lived when the records were last in order; None: that is not known."""
        self.scans = 0

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.look()
            except KvUnavailable as error:
                log.debug("who lives cannot be seen: %s", error)
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))

    async def look(self) -> None:
        """See who lives, and scan the records when somebody has gone. ``KvUnavailable``."""
        _, keys = await self._bucket.state("edge.>")
        live = {key.removeprefix("edge.") for key in keys}
        if self._edge not in live or not await self._is_oldest(live):
            self._known = None  # whoever takes over later does not know what its predecessor has seen
            return
        if self._known is None or self._known - live:
            await self._scan(live)
        self._known = live

    async def _is_oldest(self, live: set[str]) -> bool:
        entries, _ = await self._bucket.after(0, "edge.>", 1000, READ_TIMEOUT)
        started = {}
        for entry in entries:
            name = entry.key.removeprefix("edge.")
            if entry.value is not None and name in live:
                started[name] = (_started(entry.value), name)
        return bool(started) and min(started.values())[1] == self._edge

    async def _scan(self, live: set[str]) -> None:
        """Read all records, a page at a time."""
        self.scans += 1
        found, sequence, more = 0, 0, True
        now = time.time()
        while more:
            entries, more = await self._bucket.after(sequence, "socket.>", PAGE, READ_TIMEOUT)
            for entry in entries:
                sequence = entry.revision
                if entry.value is None:
                    continue
                try:
                    record = Record.from_json(entry.value)
                except (ValueError, UnknownVersion):
                    continue
                if record.holder in live:
                    continue
                found += 1
                due = record.away.until if record.away is not None else now + self._resume_window
                self._tellers.later(entry.key.removeprefix("socket."), record.holder, due)
            await asyncio.sleep(0)
        if found:
            log.info("%d sessions were held by edges that are gone; they have %g s", found, self._resume_window)


def _started(lease: bytes) -> float:
    try:
        return float(orjson.loads(lease)["started"])
    except (ValueError, TypeError, KeyError):
        return 0.0
