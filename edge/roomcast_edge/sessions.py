"""Sessions: a new socket gets an id and a secret; one that comes back with its secret gets its id and rooms again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import orjson

from roomcast.envelope import parse_answer
from roomcast.errors import BusTimeout, RemoteError
from roomcast.grants import Grant
from roomcast.membership import Change
from roomcast.names import Subjects, is_socket_id
from roomcast.requests import NoResponders, Requests
from roomcast_edge.keeper import MOVE_TTL, RECORD_TTL
from roomcast_edge.kv import Bucket, Entry, WrongRevision
from roomcast_edge.membership import Membership
from roomcast_edge.metrics import Metrics
from roomcast_edge.records import (
    Move,
    Record,
    UnknownVersion,
    new_session,
    secret_hash,
    split_session,
)
from roomcast_edge.session_state import Event, obstacle
from roomcast_edge.socket import EdgeSocket
from roomcast_edge.turnstile import Turnstile

log = logging.getLogger("roomcast.edge")

RELEASE_TIMEOUT = 3.0
SILENT_TWICE = 0.2
"""Seconds between two "no responders" after which an edge counts as dead."""
DEATH_REMEMBERED = 1.0
"""Seconds for which an edge that was found dead is not asked again."""
TAKE_TRIES = 5
OPENS_UNDER_WAY = 500

Make = Callable[[str, str], EdgeSocket]
"""Makes the socket of a connection from an id and the hash of its secret."""


class LostRace(Exception):
    """Another edge took the session up in the same moment, and holds it."""


@dataclass(slots=True)
class Opened:
    """A socket that is in the index and may be greeted."""

    socket: EdgeSocket
    session: str
    resumed: bool


class Sessions:
    """Opens sockets, new or resumed, on this edge; lets go of those that other edges take up."""

    def __init__(
        self,
        edge: str,
        subjects: Subjects,
        bucket: Bucket,
        requests: Requests,
        membership: Membership,
        metrics: Metrics,
    ) -> None:
        self._edge = edge
        self._subjects = subjects
        self._bucket = bucket
        self._requests = requests
        self._membership = membership
        self._metrics = metrics
        self._dead: dict[str, float] = {}
        self._opens = Turnstile(OPENS_UNDER_WAY)
        self.opening: dict[str, asyncio.Future[None]] = {}
        """Sockets that are about to be here, by id: changes wait for them."""

    async def open(self, session: str, grant: Grant, make: Make, still_there: Callable[[], bool]) -> Opened | None:
        """The socket of a connection, inserted. None when the client went meanwhile; ``KvUnavailable``."""
        async with self._opens:
            if session:
                opened = await self._resume(session, grant, make, still_there)
                if opened is not None:
                    return opened
            return await self._new(grant, make, still_there)

    async def _new(self, grant: Grant, make: Make, still_there: Callable[[], bool]) -> Opened | None:
        name, secret = new_session(self._edge)
        socket = make(name, secret_hash(secret))
        socket.user, socket.data, socket.client_rooms = grant.user, grant.data, grant.client_rooms
        follower = self._membership.follower
        record = socket.record(self._edge, follower.head)
        record.rooms = set(grant.all_rooms)
        with self._membership.hearing(socket.id, record.rooms) if record.rooms else nullcontext():
            socket.revision = await self._bucket.put(f"socket.{socket.id}", record.to_json(), expect=0, ttl=RECORD_TTL)
            socket.saved_at = time.monotonic()
            await follower.bring_up_to_date(socket.id, record)
            # From here to the insertion nothing waits: no move can come between.
            if not still_there() or record.disconnect is not None:
                self._membership.abandon(socket, record.rooms, Event.LEFT)
                return None
            self._membership.insert(socket, record.rooms)
        return Opened(socket, f"{socket.id}.{secret}", False)

    # -- coming back -------------------------------------------------------------------------------------------------

    async def _resume(self, session: str, grant: Grant, make: Make, still_there: Callable[[], bool]) -> Opened | None:
        name, secret = split_session(session)
        if not is_socket_id(name):
            self._metrics.resumes["malformed"] += 1
            return None
        while name in self.opening:  # two connections race for it on this very edge: the later one is the client's
            await self.opening[name]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.opening[name] = done
        try:
            with ExitStack() as heard:
                taken = await self._take(name, secret, grant, heard)
                if taken is None:
                    return None
                record, revision = taken
                return await self._settle_in(name, secret, record, revision, make, still_there)
        finally:
            del self.opening[name]
            done.set_result(None)

    async def _take(self, name: str, secret: str, grant: Grant, heard: ExitStack) -> tuple[Record, int] | None:
        """Make this edge the owner in the record, by compare-and-set; None when the session is not to be had.

        Its rooms are heard before: a cast that a client sends for once it is greeted must reach it.
        """
        rival = False
        for _ in range(TAKE_TRIES):
            entry = await self._bucket.get(f"socket.{name}")
            record = self._parse(entry)
            if entry is None or record is None or record.expired(time.time()):
                self._metrics.resumes["unknown"] += 1
                return None
            if why := obstacle(record, secret, grant.user):
                self._metrics.resumes[why] += 1
                return None
            silent = False
            if record.owner is not None:
                try:
                    released = await self._release(record.owner, name, rival)
                except LostRace:
                    break
                if released is None:
                    silent = True
                elif released:
                    continue  # its last write may be newer than what was read
            await self._membership.follower.bring_up_to_date(name, record)
            if why := obstacle(record, secret, grant.user):
                self._metrics.resumes[why] += 1
                return None
            previous, record.owner = record.owner, self._edge
            record.client_rooms, record.data = grant.client_rooms, grant.data
            record.rooms.update(grant.all_rooms)
            heard.enter_context(self._membership.hearing(name, record.rooms))
            try:
                revision = await self._bucket.put(
                    f"socket.{name}", record.to_json(), expect=entry.revision, ttl=RECORD_TTL
                )
            except WrongRevision:
                rival = True
                continue
            if silent and previous is not None:
                await self._leave_note(name, revision)
            return record, revision
        self._metrics.resumes["lost_race"] += 1
        return None

    async def _settle_in(
        self, name: str, secret: str, record: Record, revision: int, make: Make, still_there: Callable[[], bool]
    ) -> Opened | None:
        membership = self._membership
        socket = make(name, record.hash)
        socket.user, socket.data, socket.client_rooms = record.user, record.data, record.client_rooms
        socket.connected_at, socket.extra, socket.told = record.connected_at, record.extra, True
        socket.revision, socket.saved_at = revision, time.monotonic()
        await membership.follower.bring_up_to_date(name, record)
        # From here to the insertion nothing waits: no move can come between.
        if not still_there() or record.disconnect is not None:
            membership.abandon(socket, record.rooms, Event.LOST if record.disconnect is None else Event.KICKED)
            return None
        membership.insert(socket, record.rooms)
        self._metrics.resumes["resumed"] += 1
        return Opened(socket, f"{name}.{secret}", True)

    async def _release(self, owner: str, name: str, rival: bool) -> bool | None:
        """Ask an edge to let go of a socket: True when it did now, False when it did not hold it, None: it is dead.

        A ``rival`` wrote the record while this edge was about to: what it holds it keeps, by :class:`LostRace`.
        """
        if owner == self._edge:
            return self.let_go(name)
        body = orjson.dumps({"op": "release", "id": name, "rival": rival})
        for attempt in range(2):
            if time.monotonic() - self._dead.get(owner, -DEATH_REMEMBERED) < DEATH_REMEMBERED:
                return None
            try:
                reply = await self._requests.ask(self._subjects.edge(owner), body, RELEASE_TIMEOUT)
                answer = parse_answer(reply.data)
                if answer.get("held"):
                    raise LostRace
                return bool(answer.get("released"))
            except NoResponders:
                if attempt == 0:
                    await asyncio.sleep(SILENT_TWICE)
            except (BusTimeout, RemoteError) as error:
                log.warning("edge %s did not let go of a socket: %s", owner, error)
                return None
        self._dead[owner] = time.monotonic()
        return None

    async def _leave_note(self, name: str, revision: int) -> None:
        """Tell a silent edge, in the log that it reads when it is back, that the socket is ours now."""
        note = name.replace(".", "-") + f"-{revision:x}"
        move = Move(id=note, source=name, change=Change(), owner=self._edge, taken=revision)
        await self._bucket.put(f"move.{move.id}", move.to_json(), expect=None, ttl=MOVE_TTL)

    def let_go(self, name: str) -> bool:
        """Release a socket of this edge to another one: close its stale connection. Returns whether it was here."""
        socket = self._membership.index.sockets.get(name)
        if socket is None:
            return False
        self._membership.release(socket)
        return True

    def _parse(self, entry: Entry | None) -> Record | None:
        if entry is None or entry.value is None:
            return None
        try:
            return Record.from_json(entry.value)
        except (ValueError, UnknownVersion) as error:
            log.error("a record cannot be resumed: %s", error)
            return None
