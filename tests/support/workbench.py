"""The heart of an edge in the test's own process, without clients: a real bucket, moves and records under control."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import cast

from roomcast.errors import BusUnavailable
from roomcast.membership import Change
from roomcast.names import Subjects
from roomcast.nats_client import MendedClient, connect
from roomcast.requests import Reply, Requests
from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects.json import JsonDialect
from roomcast_edge.follower import MOVES
from roomcast_edge.index import Index
from roomcast_edge.interest import Interest
from roomcast_edge.kv import Bucket, KvUnavailable, KvUnknown
from roomcast_edge.membership import Membership
from roomcast_edge.metrics import Metrics
from roomcast_edge.outbox import FanOut
from roomcast_edge.records import Move, Record, new_edge_id, new_session
from roomcast_edge.session_state import closed_with
from roomcast_edge.socket import EdgeSocket

TTL = 600.0


class FaultyBucket(Bucket):
    """A bucket whose writes of records can be held, refused, or stored without a word."""

    def __init__(self, client: MendedClient, requests: Requests, name: str) -> None:
        super().__init__(client, requests, name)
        self.free = asyncio.Event()
        self.free.set()
        self.refusing = False
        self.silent = 0
        """So many writes are stored, but their acknowledgement is lost."""
        self.puts: list[str] = []

    def put_soon(self, key: str, value: bytes, *, expect: int, ttl: float) -> asyncio.Future[Reply]:
        if self.refusing or self.silent or not self.free.is_set():
            raise BusUnavailable("the way without a task is closed by the test")
        self.puts.append(key)
        return super().put_soon(key, value, expect=expect, ttl=ttl)

    async def put(self, key: str, value: bytes, *, expect: int | None, ttl: float, timeout: float | None = None) -> int:
        if not key.startswith("socket."):
            return await super().put(key, value, expect=expect, ttl=ttl, timeout=timeout)
        self.puts.append(key)
        await self.free.wait()
        if self.refusing:
            raise KvUnavailable("refused by the test")
        revision = await super().put(key, value, expect=expect, ttl=ttl, timeout=timeout)
        if self.silent:
            self.silent -= 1
            raise KvUnknown("no acknowledgement")
        return revision


class SilentTransport:
    """A transport that takes everything and keeps nothing."""

    def get_extra_info(self, _: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, _: bytes) -> None:
        pass


class Workbench:
    """One edge's index, log and records."""

    def __init__(self, client: MendedClient, requests: Requests, prefix: str, resume_window: float) -> None:
        self.edge = new_edge_id()
        self.bucket = FaultyBucket(client, requests, prefix)
        self.metrics = Metrics()
        self.index: Index[EdgeSocket] = Index()
        fanout = FanOut(self.metrics)
        self.interest = Interest(client, Subjects(prefix), self.edge, lambda *_: None)
        self.membership = Membership(
            self.index, self.interest, fanout, self.bucket, self.edge, self.metrics, resume_window
        )
        self.follower, self.keeper = self.membership.follower, self.membership.keeper
        self.ended: dict[str, CloseCode] = {}
        """The codes with which sockets were closed, by id."""

    def make(self, name: str = "") -> EdgeSocket:
        """A socket that is nowhere yet. Its end goes the way of a connection's."""
        name = name or new_session(self.edge)[0]

        def end(code: CloseCode, _: str) -> None:
            if name not in self.ended:
                self.ended[name] = code
                self.membership.remove(socket, closed_with(code))

        transport = cast(asyncio.Transport, SilentTransport())
        socket = EdgeSocket(transport, JsonDialect(), 1 << 20, lambda: None, end, name, "hash", plain=False)
        return socket

    async def socket(self, *rooms: str) -> EdgeSocket:
        """A socket that is here, in these rooms, with its record."""
        socket = self.make()
        record = socket.record(self.edge, self.follower.head)
        record.rooms = set(rooms)
        socket.revision = await self.bucket.put(f"socket.{socket.id}", record.to_json(), expect=0, ttl=TTL)
        await self.follower.bring_up_to_date(socket.id, record)
        self.membership.insert(socket, record.rooms)
        return socket

    async def record(self, socket: EdgeSocket) -> Record | None:
        """The socket's record as it is in the bucket."""
        entry = await self.bucket.get(f"socket.{socket.id}")
        return None if entry is None or entry.value is None else Record.from_json(entry.value)

    async def resumable(self, socket: EdgeSocket) -> set[str] | None:
        """The rooms with which any edge would take the socket up; None when it would not."""
        record = await self.record(socket)
        if record is None:
            return None
        await self.follower.read_to_end()
        await self.follower.bring_up_to_date(socket.id, record)
        return None if record.disconnect is not None else record.rooms

    async def move(self, source: str, *, owner: str = "", taken: int = 0, **change: object) -> int:
        """Put a move into the log; its place. With an owner it is the note of a takeover at that revision."""
        move = Move(os.urandom(8).hex(), source, Change(**change), owner=owner, taken=taken)  # type: ignore[arg-type]
        return await self.bucket.put(f"move.{move.id}", move.to_json(), expect=0, ttl=TTL)

    def members(self, room: str) -> set[str]:
        """The ids of a room's members here."""
        return {socket.id for socket in self.index.members(room)}

    async def half_way(self, condition: Callable[[], bool]) -> asyncio.Task[None]:
        """Begin to read the log, and stop the world when the condition first holds."""
        task = asyncio.create_task(self.follower.read_to_end())
        while not condition():
            assert not task.done(), "the log was read before the condition held"
            await asyncio.sleep(0)
        return task


@asynccontextmanager
async def workbench(url: str, prefix: str, resume_window: float = 60.0) -> AsyncIterator[Workbench]:
    """A workbench on a bucket of its own."""

    async def ignore(_: Exception) -> None:
        pass

    client = await connect([url], name="workbench", on_error=ignore)
    requests = Requests(client)
    requests.start()
    bench = Workbench(client, requests, prefix, resume_window)
    try:
        await bench.bucket.ensure(1)
        sequence, _ = await bench.bucket.state(MOVES)
        bench.follower.start_at(sequence)
        yield bench
    finally:
        bench.bucket.free.set()
        await bench.keeper.settled()
        requests.stop()
        await client.close()


def rooms_of(sockets: Collection[EdgeSocket]) -> list[set[str]]:
    """The rooms of sockets, in their order."""
    return [set(socket.rooms) for socket in sockets]
