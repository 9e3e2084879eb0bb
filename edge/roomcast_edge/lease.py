"""The edge's lease: a key that says that it lives, refreshed far more often than it expires."""

from __future__ import annotations

import asyncio
import logging
import time

import orjson

from roomcast import __version__
from roomcast_edge.kv import Bucket, KvUnavailable, WrongRevision

log = logging.getLogger("roomcast.edge")

LEASE_TTL = 30.0
"""Seconds that a lease lives: longer than any election of the stream's leader."""
REFRESH_SECONDS = 1.0
"""So often, since this is also how an edge finds out that its NATS node is cut off from the others."""


class Lease:
    """``edge.<edge>`` in the bucket, while this edge lives."""

    def __init__(self, bucket: Bucket, edge: str) -> None:
        self._bucket = bucket
        self._key = f"edge.{edge}"
        self._value = orjson.dumps({"v": 1, "version": __version__, "started": time.time()})
        self._revision = 0
        self.renewed_at = 0.0
        """When (``time.monotonic``) the lease was last known to stand."""
        self.failing_since = 0.0
        """When (``time.monotonic``) a renewal first failed since one succeeded; 0: the last one succeeded."""
        self.lost = False
        """Whether it had expired when it was renewed: others may have taken sockets of this edge without a word."""

    async def renew(self, bucket: Bucket | None = None) -> None:
        """Write the lease, perhaps over another connection. ``KvUnavailable``."""
        bucket = bucket or self._bucket
        try:
            self._revision = await bucket.put(self._key, self._value, expect=self._revision, ttl=LEASE_TTL)
        except WrongRevision:
            entry = await bucket.get(self._key)
            self.lost = self.lost or entry is None or entry.value is None
            self._revision = await bucket.put(self._key, self._value, expect=None, ttl=LEASE_TTL)
        self.renewed_at, self.failing_since = time.monotonic(), 0.0

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            try:
                await self.renew()
            except (KvUnavailable, WrongRevision) as error:
                self.failing_since = self.failing_since or time.monotonic()
                log.debug("the lease is not renewed: %s", error)
                await asyncio.sleep(0.5)
            else:
                await asyncio.sleep(REFRESH_SECONDS)

    async def end(self) -> None:
        """Give the lease back: nobody waits for this edge any more."""
        await self._bucket.purge(self._key, expect=self._revision)
