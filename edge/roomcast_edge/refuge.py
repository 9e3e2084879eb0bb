"""Leaves a NATS node that stands and answers, but is cut off from the rest of its cluster.

Clients of such a node hear nothing that is published elsewhere, and nothing tells them. What an edge can see is that
its lease is not renewed. It looks at the other nodes then, and goes to one of more than half of all nodes that hear
each other and not this one (they elect a leader of the stream next); or, after longer than an election takes, to one
where its lease is renewed. It stays when its lease, tried again, is renewed here. So nobody moves for an election or
without a quorum.
"""

from __future__ import annotations

import asyncio
import logging
import time

from roomcast.access import masked
from roomcast.errors import RoomcastError
from roomcast.lookout import DIAL_SECONDS, LONGEST_PAUSE, LOOK_SECONDS, PAUSE_SECONDS, Dial
from roomcast.nats_client import MendedClient
from roomcast.requests import Requests
from roomcast_edge.casts import Casts
from roomcast_edge.heartbeat import Heartbeat
from roomcast_edge.kv import Bucket, KvUnavailable, WrongRevision
from roomcast_edge.lease import REFRESH_SECONDS, Lease
from roomcast_edge.reach import groups

log = logging.getLogger("roomcast.edge")

LEASE_PATIENCE = REFRESH_SECONDS + 0.75
"""Seconds without a renewal after which an edge has its doubts."""
ELECTION_SECONDS = 10.0
"""Seconds without a renewal after which a renewal elsewhere says more than that a leader was elected just now."""
DOUBT_SECONDS = 0.3
"""Seconds that one more renewal may take here before an edge in doubt looks elsewhere."""
HERE_SECONDS = 0.6
"""Seconds that a renewal may take here before the edge leaves."""
SLACK_SECONDS = 1.0
"""What clocks of publishers may be off by, where it matters: see :meth:`Casts.leave`."""
THERE_SECONDS = 1.0


class Refuge:
    """Watches over the node that this edge is connected to."""

    def __init__(
        self,
        client: MendedClient,
        bucket: Bucket,
        lease: Lease,
        heartbeat: Heartbeat,
        casts: Casts,
        prefix: str,
        dial: Dial,
    ) -> None:
        """``dial`` makes a connection to one node, with all that it needs to be let in."""
        self._client = client
        self._bucket = bucket
        self._lease = lease
        self._heartbeat = heartbeat
        self._casts = casts
        self._prefix = prefix
        self._dial = dial

    async def run(self) -> None:
        """For ever: where there is a doubt, look elsewhere."""
        pause = PAUSE_SECONDS
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._client.is_connected or self._unrenewed() < LEASE_PATIENCE:
                pause = PAUSE_SECONDS
                continue
            since = self._lease.renewed_at
            if not await self._renews_here(DOUBT_SECONDS):
                await self._look_elsewhere(since)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _unrenewed(self) -> float:
        """Seconds since the lease was last renewed."""
        return time.monotonic() - self._lease.renewed_at

    async def _look_elsewhere(self, since: float) -> None:
        """Leave for another node where that helps; the lease was not renewed here since then (``time.monotonic``)."""
        urls = self._client.other_servers()
        others: dict[str, MendedClient] = {}
        looks: list[asyncio.Task[str]] = []
        try:
            await asyncio.gather(*[self._reach(url, others) for url in urls])
            looks = [asyncio.create_task(self._among_most(others, len(urls) - len(others)))]
            if self._unrenewed() > ELECTION_SECONDS:
                looks += [asyncio.create_task(self._renews_at(url, client)) for url, client in others.items()]
            for look in asyncio.as_completed(looks):
                found = await look
                if found:
                    log.warning("this NATS node is cut off from the others: going to %s", masked(found))
                    await self._heartbeat.leaves()
                    self._casts.leave(time.monotonic() - since + SLACK_SECONDS)
                    await self._client.move_to(found)
                    return
        finally:
            for task in looks:
                task.cancel()
            await asyncio.gather(*looks, return_exceptions=True)
            await asyncio.gather(*[client.close() for client in others.values()], return_exceptions=True)

    async def _reach(self, url: str, others: dict[str, MendedClient]) -> None:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                others[url] = await self._dial(url)
        except (TimeoutError, RoomcastError) as error:
            log.debug("%s is out of reach: %s", masked(url), error)

    async def _among_most(self, others: dict[str, MendedClient], missing: int) -> str:
        """A URL of one of more than half of all nodes, which hear each other and not this one; else nothing.

        Nothing, too, when the lease is renewed here meanwhile.
        """
        nodes = {self._client.server_id: ("", self._client)}
        for url, client in others.items():
            nodes.setdefault(client.server_id, (url, client))
        urls, clients = zip(*nodes.values(), strict=True)
        found, renewed = await asyncio.gather(groups(clients), self._renews_here(HERE_SECONDS))
        for group in found:
            if not renewed and 0 not in group and 2 * len(group) > len(nodes) + missing:
                return str(urls[min(group)])
        return ""

    async def _renews_here(self, seconds: float) -> bool:
        return self._client.is_connected and await self._renews(self._bucket, seconds)

    async def _renews_at(self, url: str, client: MendedClient) -> str:
        """The URL when the lease is renewed there and, tried after that, not here; else nothing."""
        requests = Requests(client)
        requests.start()
        try:
            renewed = await self._renews(Bucket(client, requests, self._prefix), THERE_SECONDS)
        finally:
            requests.stop()
        return url if renewed and not await self._renews_here(HERE_SECONDS) else ""

    async def _renews(self, bucket: Bucket, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._lease.renew(bucket)
        except (TimeoutError, KvUnavailable, WrongRevision):
            return False
        return True
