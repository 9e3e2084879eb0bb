"""Keeps each socket's record in step with its membership: every write a compare-and-set, one under way per socket.

Changes that come while a write is under way share the next one. A write that the bucket refuses is undone here too;
one whose outcome is unknown is repeated in the background until it is known.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable

from roomcast.errors import BusUnavailable, PermissionDenied
from roomcast.membership import Change
from roomcast.requests import NoResponders, Reply
from roomcast_edge.closing import CloseCode
from roomcast_edge.follower import Follower
from roomcast_edge.kv import Bucket, KvRefused, KvUnavailable, KvUnknown, WrongRevision
from roomcast_edge.metrics import Metrics
from roomcast_edge.records import Away, Record, UnknownVersion
from roomcast_edge.session_state import Event, Fate, overtaken
from roomcast_edge.socket import EdgeSocket
from roomcast_edge.turnstile import Turnstile

log = logging.getLogger("roomcast.edge")

RECORD_TTL = 3600.0
"""Seconds that a record lives; it is refreshed when half of it is over, or a quarter later at most."""
REFRESH_SECONDS = 1.0
"""Seconds between two looks for records that grow old."""
REFRESH_AT_LEAST = 10
"""Records that are refreshed at a look, however few there are."""
MOVE_TTL = 2 * RECORD_TTL + 600.0
"""Seconds that a move lives: longer than any record that might lag behind it."""
REWRITE_WITHIN = 60.0
"""Seconds within which the records that a move touched are rewritten."""
SAVE_PATIENCE = 4.0
"""Seconds that a change waits for a bucket that has no leader."""
WRITES_UNDER_WAY = 500
AWAY_MARGIN = 60.0
"""Seconds that the record of a socket which has not come back is left for whoever tells of its end."""


class Elsewhere(Exception):
    """Another edge holds the socket now."""


class Keeper:
    """Writes the records of this edge's sockets."""

    def __init__(
        self,
        bucket: Bucket,
        edge: str,
        follower: Follower,
        metrics: Metrics,
        set_rooms: Callable[[EdgeSocket, set[str]], None],
        resume_window: float,
    ) -> None:
        self._bucket = bucket
        self._edge = edge
        self._follower = follower
        self._metrics = metrics
        self._set_rooms = set_rooms
        self._resume_window = resume_window
        self.on_gone: Callable[[EdgeSocket], None] = _nothing
        """Called once a session's record is purged."""
        self.on_away: Callable[[EdgeSocket, float], None] = _nothing
        """Called once a record says that the socket is away, and until when it may come back (``time.time``)."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes = Turnstile(WRITES_UNDER_WAY)
        self._under_way = 0
        # Sockets in the order in which their records were written; those that a move touched since.
        self._by_age: dict[EdgeSocket, None] = {}
        self._touched: dict[EdgeSocket, float] = {}

    def save(self, socket: EdgeSocket, change: Change | None = None) -> asyncio.Future[None]:
        """Write the record as it is now; done when a write that includes it is acknowledged.

        The future raises ``KvUnavailable`` (refused and undone), ``TimeoutError`` (unknown) or :class:`Elsewhere`.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        socket.save_waiters.append(future)
        if change is not None:
            socket.unsaved.append(change)
        if not socket.saving:
            socket.saving = True
            # At the end of the loop's pass: what a client asks for in one breath shares one write.
            asyncio.get_running_loop().call_soon(self._begin, socket)
        return future

    def touch(self, socket: EdgeSocket) -> None:
        """A move changed this socket: its record lags, and is rewritten within a minute."""
        if socket not in self._touched:
            self._touched[socket] = time.monotonic() + random.uniform(0.2, 0.8) * REWRITE_WITHIN

    def forget(self, socket: EdgeSocket) -> None:
        """The socket has left this edge; what is under way for it still ends."""
        self._by_age.pop(socket, None)
        self._touched.pop(socket, None)

    @property
    def lagging(self) -> int:
        """Records that lag behind moves."""
        return len(self._touched)

    async def settled(self) -> None:
        """Wait until no write is under way."""
        while self._tasks or self._under_way:
            if self._tasks:
                await asyncio.wait(self._tasks)
            else:
                await asyncio.sleep(0.01)

    async def run(self) -> None:
        """In the background: rewrite what moves touched, refresh what grows old."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            now = time.monotonic()
            due = [socket for socket, when in self._touched.items() if when <= now]
            for socket in due:
                del self._touched[socket]
                self._quietly(socket)
            for socket in self._old(now):
                self._quietly(socket)

    def _old(self, now: float) -> list[EdgeSocket]:
        """Those to refresh now, the oldest first: sockets that came in one storm do not make another one of writes."""
        pace = REFRESH_AT_LEAST + int(len(self._by_age) * REFRESH_SECONDS / (RECORD_TTL / 4))
        oldest = itertools.islice(self._by_age, pace)
        return list(itertools.takewhile(lambda socket: socket.saved_at + RECORD_TTL / 2 <= now, oldest))

    def _quietly(self, socket: EdgeSocket) -> None:
        if socket.saving:
            return
        self.save(socket).add_done_callback(lambda future: future.cancelled() or future.exception())

    # -- one socket's writes, one after another ----------------------------------------------------------------------

    def _begin(self, socket: EdgeSocket) -> None:
        """The common case, without a task: one put, acknowledged. Anything else is :meth:`_write_all`'s work."""
        if socket.fate is not Fate.HERE or self._under_way >= WRITES_UNDER_WAY:
            self._spawn(socket)
            return
        began = time.monotonic()
        included = len(socket.unsaved)
        waiters = len(socket.save_waiters)
        record = socket.record(self._edge, self._follower.applied(socket))
        key = f"socket.{socket.id}"
        try:
            asked = self._bucket.put_soon(key, record.to_json(), expect=socket.revision, ttl=RECORD_TTL)
        except (BusUnavailable, ValueError):
            self._spawn(socket)
            return
        self._under_way += 1

        def acknowledged(future: asyncio.Future[Reply]) -> None:
            self._under_way -= 1
            try:
                socket.revision = self._bucket.revision_of(key, future.result())
            except (Exception, asyncio.CancelledError) as error:
                # The task finds out what is the matter; a put without an answer may have been stored.
                known = KvUnavailable | WrongRevision | NoResponders | PermissionDenied
                self._spawn(socket, unknown=not isinstance(error, known))
                return
            self._saved(socket, included, began)
            done, socket.save_waiters = socket.save_waiters[:waiters], socket.save_waiters[waiters:]
            _tell(done, None)
            if socket.save_waiters:
                self._begin(socket)
            else:
                socket.saving = False

        asked.add_done_callback(acknowledged)

    def _saved(self, socket: EdgeSocket, included: int, began: float) -> None:
        del socket.unsaved[:included]
        socket.saved_at = time.monotonic()
        self._metrics.record_write.observe(time.monotonic() - began)
        if socket.fate is Fate.HERE:
            self._by_age.pop(socket, None)
            self._by_age[socket] = None

    def _spawn(self, socket: EdgeSocket, unknown: bool = False) -> None:
        task = asyncio.get_running_loop().create_task(self._write_all(socket, unknown))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_all(self, socket: EdgeSocket, unknown: bool) -> None:
        try:
            while socket.save_waiters:
                waiters, socket.save_waiters = socket.save_waiters, []
                error: Exception | None = None
                try:
                    async with self._writes:
                        await self._write(socket, unknown)
                except KvUnavailable as caught:
                    error = caught
                    # Who came meanwhile may count on a change that is undone now: refused with the rest.
                    waiters += socket.save_waiters
                    socket.save_waiters = []
                    self._undo(socket)
                except (TimeoutError, Elsewhere) as caught:
                    error = caught
                _tell(waiters, error)
                unknown = False
        finally:
            socket.saving = False

    async def _write(self, socket: EdgeSocket, unknown: bool) -> None:
        """One acknowledged write of what the socket is now. Raises what :meth:`save` says."""
        began = time.monotonic()
        while True:
            included = len(socket.unsaved)
            try:
                if await self._try(socket):
                    self._saved(socket, included, began)
                    return
            except KvUnavailable as error:
                unknown = unknown or isinstance(error, KvUnknown)
                patience = SAVE_PATIENCE if socket.fate is Fate.HERE else self._resume_window
                if time.monotonic() > began + patience or isinstance(error, KvRefused):
                    if unknown:
                        self.touch(socket)
                        raise TimeoutError(str(error)) from None
                    raise
                await asyncio.sleep(random.uniform(0.1, 0.3))

    async def _try(self, socket: EdgeSocket) -> bool:
        """Put the record, or merge what somebody wrote meanwhile, to be put next. Whether it is put."""
        try:
            await self._put(socket)
        except WrongRevision:
            await self._merge(socket)
            return False
        return True

    async def _put(self, socket: EdgeSocket) -> None:
        key = f"socket.{socket.id}"
        if socket.fate is Fate.RELEASED:
            raise Elsewhere
        if socket.fate is Fate.GONE:
            if socket.revision:
                socket.revision = await self._bucket.purge(key, expect=socket.revision)
                self.on_gone(socket)
            return
        here = socket.fate is Fate.HERE
        applied = self._follower.applied(socket) if here else socket.includes
        record = socket.record(self._edge if here else None, applied)
        if here:
            socket.revision = await self._bucket.put(key, record.to_json(), expect=socket.revision, ttl=RECORD_TTL)
            return
        record.away = Away(self._edge, time.time() + self._resume_window, socket.why)
        ttl = self._resume_window + AWAY_MARGIN
        socket.revision = await self._bucket.put(key, record.to_json(), expect=socket.revision, ttl=ttl)
        self.on_away(socket, record.away.until)

    async def _merge(self, socket: EdgeSocket) -> None:
        """Somebody wrote the record since: ourselves, unheard, or another edge, which then holds the socket."""
        entry = await self._bucket.get(f"socket.{socket.id}")
        value, revision = (None, 0) if entry is None else (entry.value, entry.revision)
        try:
            record = None if value is None else Record.from_json(value)
        except (ValueError, UnknownVersion) as error:
            log.error("the record of a socket cannot be read: %s", error)
            raise KvUnavailable(str(error)) from None
        event = overtaken(record, socket.hash, self._edge)
        if event is Event.EXPIRED and socket.fate is not Fate.HERE:
            socket.revision, socket.fate = 0, socket.fate.after(event)
            return
        if event is not None:
            if socket.fate is Fate.HERE and event is Event.EXPIRED:
                socket.end(CloseCode.LOST_PLACE, "the session has expired; come back")
            elif socket.fate is Fate.HERE:
                socket.end(CloseCode.REPLACED, "the session was taken up elsewhere")
            raise Elsewhere
        assert record is not None, "what is there no more has expired"
        socket.revision = revision
        socket.extra = record.extra
        # Under our own name nobody but this edge writes: what is in memory is newer.
        if socket.fate is Fate.HERE and record.owner is None:
            await self._follower.bring_up_to_date(socket.id, record)
            for change in socket.unsaved:
                record.apply(socket.id, change)
            self._set_rooms(socket, record.rooms)

    def _undo(self, socket: EdgeSocket) -> None:
        """Take back, newest first, the changes that the bucket has refused."""
        undone, socket.unsaved = socket.unsaved, []
        rooms = set(socket.rooms)
        for change in reversed(undone):
            rooms.difference_update(change.join)
            rooms.update(change.leave)
        if rooms != socket.rooms:
            self._set_rooms(socket, rooms)


def _nothing(*_: object) -> None:
    """Nobody wants to know."""


def _tell(waiters: list[asyncio.Future[None]], error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
