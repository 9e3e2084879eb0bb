"""One edge, put together: started, run until it is told to stop, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any

from nats import errors as nats_errors

from roomcast.names import Subjects
from roomcast.nats_client import MendedClient, connect
from roomcast.requests import Requests
from roomcast_edge.admin import AdminServer, Dependency, Health
from roomcast_edge.auth import Asked, Auth, Everybody, tokens_of
from roomcast_edge.calls import Calls
from roomcast_edge.casts import Casts
from roomcast_edge.closing import CloseCode
from roomcast_edge.coordinator import Coordinator
from roomcast_edge.dialects import Dialect, Dialects
from roomcast_edge.dialects.json import JsonDialect
from roomcast_edge.dialects.socketio import SocketIoDialect
from roomcast_edge.dialects.socketio2 import SocketIo2Dialect
from roomcast_edge.drain import Drain
from roomcast_edge.emits import Emits
from roomcast_edge.gauges import Gauges
from roomcast_edge.heartbeat import Heartbeat
from roomcast_edge.index import Index
from roomcast_edge.interest import Interest
from roomcast_edge.janitor import Janitor
from roomcast_edge.keeper import MOVE_TTL
from roomcast_edge.kv import Bucket, KvUnavailable, WrongRevision
from roomcast_edge.lease import Lease
from roomcast_edge.lifecycle import Tellers
from roomcast_edge.link import Link
from roomcast_edge.listener import Listener
from roomcast_edge.logs import Sampled
from roomcast_edge.membership import Membership
from roomcast_edge.metrics import Metrics
from roomcast_edge.outbox import FanOut
from roomcast_edge.records import new_edge_id
from roomcast_edge.refuge import Refuge
from roomcast_edge.renewal import Renewal
from roomcast_edge.service import Service
from roomcast_edge.sessions import Sessions
from roomcast_edge.settings import Settings
from roomcast_edge.socket import EdgeSocket
from roomcast_edge.workshop import Workshop

log = logging.getLogger("roomcast.edge")

FINISH_SECONDS = 8.0
"""For the last records, the answers under way and the lease, at the end; without NATS it is in vain."""
LAG_SECONDS = 0.25
EDGE_INBOX = "_INBOX.edge"
"""Where edges hear answers: NATS's permissions can keep others from listening there."""
VERIFY_UNDER_WAY = 200


class Edge:
    """A stateless server of websockets. All that outlives it is in the bucket."""

    def __init__(self, settings: Settings) -> None:
        """``ValueError``: the keys of tokens cannot be used; ``OSError``: the admin port is taken."""
        self._tokens = tokens_of(settings)
        if settings.auth == "none" and not _is_loopback(settings.listen[0]):
            log.warning("ANYONE may connect to %s:%d: set --auth to jwt or bus", *settings.listen)
        self.id = new_edge_id()
        self.settings = settings
        self.metrics = Metrics()
        self.metrics.identity = {"edge": self.id, "prefix": settings.prefix}
        self.health = Health()
        self.admin = AdminServer(settings.admin, self.metrics, self.health)
        self._draining = False
        self._leaving = False
        self._drain = Drain()
        self._started = False
        self._waits_for = "not connected yet"
        self._tasks: list[asyncio.Task[Any]] = []
        self._sampled = Sampled(log)
        self.listener: Listener | None = None
        self._link: Link | None = None
        self._heartbeat: Heartbeat | None = None

    async def start(self) -> None:
        """Connect, take the lease, catch up with the log, then accept clients. ``OSError``: a port is taken.

        A NATS or a bucket that is not there yet is waited for, with a line in the log every few seconds.
        """
        self.health.dependencies = self._dependencies
        self.admin.start()
        self._run(self._pulse())
        settings, metrics = self.settings, self.metrics
        subjects = Subjects(settings.prefix)
        self._client = client = await self._connect()
        self._requests = requests = Requests(client)
        requests.start()
        self._bucket = bucket = Bucket(client, requests, settings.prefix, failures=metrics.kv_failures)
        index: Index[EdgeSocket] = Index()
        fanout = FanOut(metrics)
        casts = Casts(settings.prefix, index, fanout, metrics, self._sampled.warning, settings.cast_limit)
        interest = Interest(client, subjects, self.id, casts.sink)
        self._membership = membership = Membership(
            index, interest, fanout, bucket, self.id, metrics, settings.resume_window
        )
        tellers = Tellers(self.id, subjects, client, bucket, membership.follower)
        membership.keeper.on_gone = tellers.gone
        membership.keeper.on_away = lambda socket, until: tellers.later(socket.id, self.id, until)
        janitor = Janitor(self.id, bucket, tellers, settings.resume_window)
        self._link = link = Link(bucket, membership.follower, casts, metrics, requests.fail, self._verify)
        sessions = Sessions(self.id, subjects, bucket, requests, membership, metrics)
        calls = Calls(fanout, settings.cast_limit)
        workshop = Workshop(self.id, membership, sessions, calls, link.gate)
        self._heartbeat = heartbeat = Heartbeat(self.id, subjects, client, requests)
        coordinator = Coordinator(self.id, subjects, client, requests, bucket, workshop, heartbeat.neighbours)
        self._service = service = Service(self.id, subjects, client, workshop, coordinator)
        auth: Auth = self._tokens or Everybody()
        if settings.auth == "bus":
            auth = Asked(requests, subjects, settings.action_timeout, self._sampled.warning)
        emits = Emits(subjects, requests, membership, fanout, metrics, Renewal(auth, membership), settings, self.id)
        dialects: list[Dialect] = [
            JsonDialect(),
            SocketIoDialect(settings.ping_interval, settings.ping_timeout, settings.message_limit),
            SocketIo2Dialect(settings.ping_interval, settings.ping_timeout, settings.message_limit),
        ]
        self.listener = listener = Listener(
            settings,
            Dialects(dialects),
            membership,
            sessions,
            auth,
            fanout,
            calls,
            metrics,
            emits.take,
            tellers.connected,
            self._takes_clients,
        )
        self._lease = lease = Lease(bucket, self.id)
        await self._wait_for_bucket(lease)
        sequence, _ = await bucket.state("edge.>")
        membership.follower.start_at(sequence)
        interest.start()
        heartbeat.start()
        await service.start()
        link.gate.set()
        follower, keeper = membership.follower, membership.keeper
        gauges = Gauges(
            *(dialects, index, interest, listener, keeper, requests, lease, link, self.health),
            draining=lambda: self._draining,
        )
        metrics.gauges(gauges)
        refuge = Refuge(client, bucket, lease, heartbeat, casts, settings.prefix, self._dial)
        works = (
            follower.run(),
            keeper.run(),
            lease.run(),
            heartbeat.run(),
            refuge.run(),
            listener.watch(),
            listener.freezer.run(),
        )
        for work in (*works, tellers.run(), janitor.run()):
            self._run(work)
        if listener.certificate is not None:
            self._run(listener.certificate.watch())
        await listener.start()
        self._started = True
        log.info(
            "edge %s takes clients at %s:%d, admin at %d", self.id, settings.listen[0], listener.port, self.admin.port
        )

    async def stop(self) -> None:
        """Send the clients to other edges at a pace, write their records, give the lease back, leave NATS.

        It takes the drain's delay and time, and at most the close timeout and 15 seconds more.
        """
        self._draining = True
        if self._started and self.listener is not None:
            settings = self.settings
            count = len(self.listener.open_connections())
            log.info(
                "edge %s drains: %d sockets within %g s, after %g s",
                *(self.id, count, settings.drain_time, settings.drain_delay),
            )
            await self._drain.run(self.listener, settings.drain_delay, settings.drain_time)
        if self.listener is not None:
            await self._finish()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.admin.stop()

    def hurry(self) -> None:
        """Close the sockets that a drain has left at once."""
        self._drain.hurry()

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                await self._membership.keeper.settled()
                await self._service.stop()
                await self._lease.end()
                await self._service.leave()
        except (TimeoutError, KvUnavailable, WrongRevision, nats_errors.Error) as error:
            log.warning("left without a word to the others: %s", error or "NATS did not answer in time")
        self._leaving = True
        if self._link is not None:
            await self._link.close()
        if self._heartbeat is not None:
            self._heartbeat.ends()
        self._requests.stop()
        with contextlib.suppress(nats_errors.Error):
            await self._client.close()

    # -- starting ----------------------------------------------------------------------------------------------------

    async def _dial(self, url: str) -> MendedClient:
        """A connection to one NATS node, for a look."""
        return await connect(
            [url],
            name=f"roomcast-look-{self.id}",
            inbox_prefix=EDGE_INBOX,
            **self.settings.access.options(),
        )

    async def _connect(self) -> MendedClient:
        async def on_error(error: Exception) -> None:
            self._waits_for = str(error) or type(error).__name__
            self._sampled.warning(f"NATS: {self._waits_for}", "")

        async def on_disconnect() -> None:
            if self._link is not None and not self._leaving:
                await self._link.on_disconnect()

        async def on_reconnect() -> None:
            if self._link is not None:
                await self._link.on_reconnect()

        return await connect(
            list(self.settings.nats),
            name=f"roomcast-edge-{self.id}",
            on_error=on_error,
            on_disconnect=on_disconnect,
            on_reconnect=on_reconnect,
            retry=True,
            dont_randomize=True,
            inbox_prefix=EDGE_INBOX,
            **self.settings.access.options(),
        )

    async def _wait_for_bucket(self, lease: Lease) -> None:
        while True:
            try:
                await self._bucket.ensure(self.settings.kv_replicas)
                await lease.renew()
            except (KvUnavailable, WrongRevision) as error:
                self._waits_for = str(error)
                self._sampled.warning(f"waiting for the bucket: {error}", "")
                await asyncio.sleep(1.0)
            else:
                return

    # -- running -----------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("a background task has failed", exc_info=task.exception())

    async def _pulse(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self.metrics.loop_lag.observe(max(0.0, loop.time() - due))
            self.health.beat()

    def _takes_clients(self) -> bool:
        if self._link is None or self.listener is None:
            return False
        return self._link.connected and self.listener.accepts

    def _dependencies(self) -> list[Dependency]:
        """What this edge needs to take clients; it is asked from the admin port's thread."""
        if not self._started or self._link is None:
            return [Dependency("starting", self._waits_for, self._started)]
        now, grace = time.monotonic(), self.settings.ready_grace
        away = 0.0 if self._link.connected else now - self._link.lost_at
        failing = now - self._lease.failing_since if self._lease.failing_since else 0.0
        return [
            Dependency("nats", f"away for {away:.0f} s" if away else "connected", away <= grace),
            Dependency("kv", f"takes no writes for {failing:.0f} s" if failing else "takes writes", failing <= grace),
            Dependency("draining", "yes" if self._draining else "no", not self._draining),
        ]

    async def _verify(self, away: float, has_leader: bool) -> None:
        """After a cut: is this edge still in the log, and are its sockets still its own?"""
        assert self.listener is not None, "the link breaks only after the start"
        if away > MOVE_TTL - 60:
            log.error("cut off for %.0f s, longer than moves are kept: all sockets are closed", away)
            for socket in list(self._membership.index.sockets.values()):
                socket.end(CloseCode.LOST_PLACE, "the edge was cut off for too long; come back")
            return
        if not has_leader:
            return  # nobody can have taken anything since the connection broke
        try:
            await self._lease.renew()
        except (KvUnavailable, WrongRevision):
            return
        if self._lease.lost:
            self._lease.lost = False
            await self._claim_all()

    async def _claim_all(self) -> None:
        """Others may have taken sockets over without a word: write every record, by compare-and-set."""
        sockets = list(self._membership.index.sockets.values())
        log.warning("the lease had expired: the claims of %d sockets are renewed", len(sockets))
        for start in range(0, len(sockets), VERIFY_UNDER_WAY):
            saves = [self._membership.keeper.save(socket) for socket in sockets[start : start + VERIFY_UNDER_WAY]]
            await asyncio.gather(*saves, return_exceptions=True)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
