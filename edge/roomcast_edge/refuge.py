"""Leaves a NATS node that stands and answers, but is cut off from the rest of its cluster.

Clients of such a node hear nothing that is published elsewhere, and nothing tells them. What an edge can see is that
its neighbours are silent, or that its lease cannot be renewed. It goes to another node only when its lease is renewed
there and, asked again after that, not here: nobody moves for an election, for a stalled neighbour, or without a quorum.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from nats import errors as nats_errors

from roomcast.errors import RoomcastError
from roomcast.nats_client import MendedClient
from roomcast.requests import Requests
from roomcast_edge.kv import Bucket, KvUnavailable, WrongRevision
from roomcast_edge.lease import Lease
from roomcast_edge.neighbours import Neighbours

log = logging.getLogger("roomcast.edge")

LOOK_SECONDS = 0.25
LEASE_PATIENCE = 10.0
"""Seconds without a renewal after which an edge without silent neighbours looks elsewhere: longer than an election."""
HERE_SECONDS = 0.6
"""Seconds that a renewal may take here before the node is doubted."""
THERE_SECONDS = 1.0
PAUSE_SECONDS = 1.0
"""Seconds between two looks."""

Dial = Callable[[str], Awaitable[MendedClient]]


class Refuge:
    """Watches over the node that this edge is connected to."""

    def __init__(
        self, client: MendedClient, bucket: Bucket, lease: Lease, neighbours: Neighbours, prefix: str, dial: Dial
    ) -> None:
        """``dial`` makes a connection to one node, with all that it needs to be let in."""
        self._client = client
        self._bucket = bucket
        self._lease = lease
        self._neighbours = neighbours
        self._prefix = prefix
        self._dial = dial

    async def run(self) -> None:
        """For ever: where there is a doubt, look elsewhere."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._client.is_connected or not self._doubts():
                continue
            if not await self._renews_here():
                await self._look_elsewhere()
            await asyncio.sleep(PAUSE_SECONDS)

    def _doubts(self) -> bool:
        return self._neighbours.any_suspect() or time.monotonic() - self._lease.renewed_at > LEASE_PATIENCE

    async def _look_elsewhere(self) -> None:
        looks = [asyncio.create_task(self._renews_at(url)) for url in self._client.other_servers()]
        try:
            for look in asyncio.as_completed(looks):
                found = await look
                if found and not await self._renews_here():
                    log.warning("this NATS node is cut off from the others: going to %s", found.rpartition("@")[2])
                    await self._client.move_to(found)
                    return
                if found:
                    return
        finally:
            for task in looks:
                task.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _renews_here(self) -> bool:
        return self._client.is_connected and await self._renews(self._bucket, HERE_SECONDS)

    async def _renews(self, bucket: Bucket, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._lease.renew(bucket)
        except (TimeoutError, KvUnavailable, WrongRevision):
            return False
        return True

    async def _renews_at(self, url: str) -> str:
        """The URL when the lease is renewed there, else nothing."""
        try:
            async with asyncio.timeout(THERE_SECONDS):
                client = await self._dial(url)
        except (TimeoutError, RoomcastError):
            return ""
        requests = Requests(client)
        try:
            requests.start()
            renewed = await self._renews(Bucket(client, requests, self._prefix), THERE_SECONDS)
        finally:
            requests.stop()
            try:
                await client.close()
            except nats_errors.Error as error:
                log.debug("a look at %s: %s", url, error)
        return url if renewed else ""
