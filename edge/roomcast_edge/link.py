"""The edge's connection to NATS: what happens when it breaks, and what must be done before it counts as back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from roomcast_edge.casts import Casts
from roomcast_edge.follower import MOVES, Follower
from roomcast_edge.kv import Bucket, KvUnavailable
from roomcast_edge.metrics import Metrics

log = logging.getLogger("roomcast.edge")

LEADER_PATIENCE = 1.5
"""Seconds that casts are held back for the stream's leader; without one, no move can be made either."""
RETRY_SECONDS = 0.05


class Link:
    """Holds casts and answers back after a reconnect until this edge has applied the log's last move."""

    def __init__(
        self,
        bucket: Bucket,
        follower: Follower,
        casts: Casts,
        metrics: Metrics,
        fail_requests: Callable[[str], None],
        verify: Callable[[float, bool], Awaitable[None]],
    ) -> None:
        self._bucket = bucket
        self._follower = follower
        self._casts = casts
        self._metrics = metrics
        self._fail_requests = fail_requests
        self._verify = verify
        self._catching_up: asyncio.Task[None] | None = None
        self.gate = asyncio.Event()
        """Set while this edge is in step with the log, as far as it can know."""
        self.connected = True
        self.lost_at = 0.0
        """When (``time.monotonic``) the connection broke."""

    async def on_disconnect(self) -> None:
        """The connection broke."""
        if self.connected:
            self.lost_at = time.monotonic()
            log.warning("the connection to NATS is lost")
        self.connected = False
        self.gate.clear()
        self._casts.hold()
        self._casts.drop()  # what was held since the last time belongs to a connection that is gone
        self._fail_requests("the connection to NATS was lost before the answer; whether it was done is unknown")
        if self._catching_up is not None:
            self._catching_up.cancel()

    async def on_reconnect(self) -> None:
        """A connection stands again, and all subscriptions are made."""
        self.connected = True
        self._metrics.nats_reconnects += 1
        log.warning("connected to NATS again after %.1f s", time.monotonic() - self.lost_at)
        self._catching_up = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self) -> None:
        began = time.monotonic()
        self._follower.poke()  # what a replica has is read meanwhile
        newest: int | None = None
        try:
            async with asyncio.timeout(LEADER_PATIENCE):
                newest = await self._newest_move()
        except TimeoutError:
            log.warning("casts go on without the stream's leader")
        while newest is not None and self._follower.done < newest:
            try:
                await self._follower.read_to_end()
            except KvUnavailable as error:
                log.debug("the log of moves cannot be read now: %s", error)
            if self._follower.done < newest:
                await asyncio.sleep(RETRY_SECONDS)
        await self._verify(time.monotonic() - self.lost_at, newest is not None)
        self.gate.set()
        self._casts.release()
        log.info("in step with the log of moves %.1f s after the reconnect", time.monotonic() - began)

    async def _newest_move(self) -> int:
        """The place of the log's last move, as the stream's leader knows it; waits for a leader."""
        while True:
            try:
                newest = await self._bucket.get(MOVES)
            except KvUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return 0 if newest is None else newest.revision

    async def close(self) -> None:
        """Stop catching up."""
        if self._catching_up is not None:
            self._catching_up.cancel()
