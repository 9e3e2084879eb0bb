"""Follows the log of moves and applies each, in stream order, to this edge's members, in slices.

No consumer: whoever puts a move pokes ``bus.moved``, and an edge that is poked (or has heard nothing for half a
second) asks for a batch of what follows the last sequence it has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from roomcast_edge.index import Index
from roomcast_edge.kv import Bucket, Entry, KvUnavailable
from roomcast_edge.metrics import Metrics
from roomcast_edge.movelog import MoveLog
from roomcast_edge.records import Move, Record, UnknownVersion
from roomcast_edge.socket import EdgeSocket

log = logging.getLogger("roomcast.edge")

MOVES = "move.>"
BATCH = 200
POLL_SECONDS = 0.5
READ_TIMEOUT = 0.5
SLICE_SECONDS = 0.004
"""A large move lets everything else run this often."""
SLICE_CHECK = 32
KEPT_RESULTS = 20_000
AHEAD_PATIENCE = 2.0
AHEAD_PAUSE = 0.02

Apply = Callable[[EdgeSocket, Move], bool]


class Follower:
    """Where this edge is in the log, and the results of what it applied lately."""

    def __init__(
        self, bucket: Bucket, index: Index[EdgeSocket], apply: Apply, before_slice: Callable[[], None], metrics: Metrics
    ) -> None:
        self._bucket = bucket
        self._index = index
        self._apply = apply
        self._before_slice = before_slice
        self._metrics = metrics
        self._poked = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._results: OrderedDict[int, tuple[int, int] | None] = OrderedDict()
        # Members that the move under way has not reached yet, and that move.
        self._todo: set[EdgeSocket] = set()
        self._now: Move | None = None
        self._began = 0.0
        self._matched = self._changed = 0
        self._backfill = asyncio.Lock()
        self._reading = asyncio.Lock()
        self.head = 0
        """The sequence of the newest move whose application has begun."""
        self.done = 0
        """The sequence up to which everything is applied."""
        self.log = MoveLog(0)

    def start_at(self, sequence: int) -> None:
        """Begin behind this sequence: there is no socket yet that older moves could concern."""
        self.head = self.done = sequence
        self.log = MoveLog(sequence)

    def poke(self) -> None:
        """The log has grown."""
        self._poked.set()

    def applied(self, socket: EdgeSocket) -> int:
        """The last move that this socket includes."""
        return self.done if socket in self._todo else self.head

    def catch_up(self, socket: EdgeSocket) -> None:
        """Apply the move under way to this socket now, out of its turn: a single change to it comes next."""
        if socket in self._todo:
            self._todo.remove(socket)
            assert self._now is not None, "what is to do belongs to a move"
            self._changed += self._apply_to(socket, self._now)

    def forget(self, socket: EdgeSocket) -> None:
        """The socket has left this edge."""
        self._todo.discard(socket)

    async def reached(self, sequence: int) -> tuple[int, int]:
        """Wait until this move is applied here; returns how many sockets were matched and changed.

        ``ValueError`` when this edge cannot read it.
        """
        if self.done < sequence:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((sequence, future))
            self.poke()
            await future
        result = self._results.get(sequence, (0, 0))
        if result is None:
            raise ValueError(f"this edge cannot read the move at {sequence} of the log; its own log tells why")
        return result

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._poked.wait()
            except TimeoutError:
                pass
            self._poked.clear()
            try:
                await self.read_to_end()
            except KvUnavailable as error:
                log.debug("the log of moves cannot be read now: %s", error)
                await asyncio.sleep(0.05)

    async def read_to_end(self) -> None:
        """Apply all that a replica has of the log. ``KvUnavailable``."""
        more = True
        async with self._reading:  # one move at a time, whoever reads
            if self._now is not None:  # whoever read last was cancelled in the middle of it
                await self._work_off(self._now)
            while more:
                entries, more = await self._bucket.after(self.head, MOVES, BATCH, READ_TIMEOUT)
                for entry in entries:
                    await self._take(entry)

    async def bring_up_to_date(self, own: str, record: Record) -> None:
        """Replay over a record all moves that this edge has begun to apply. ``KvUnavailable``.

        A record may be ahead of this edge: then the edge catches up first, or it would apply those moves again.
        """
        if record.applied > self.head:
            await self._catch_up_with(record.applied)
        while True:
            if record.applied < self.log.since:
                await self._reach_back(record.applied)
            if self.log.since <= record.applied:
                self.log.replay(own, record, self.head)
                return

    async def _catch_up_with(self, sequence: int) -> None:
        """Apply every move up to a place in the stream, which need not be a move's own. ``KvUnavailable``."""
        deadline = time.monotonic() + AHEAD_PATIENCE
        newest = await self._bucket.get(MOVES)
        until = 0 if newest is None else min(sequence, newest.revision)
        while self.done < until:
            await self.read_to_end()
            if self.done < until:
                if time.monotonic() > deadline:
                    raise KvUnavailable("the log of moves ends before what a record includes; a replica lags")
                await asyncio.sleep(AHEAD_PAUSE)
        if self._now is None:
            self.head = self.done = max(self.head, sequence)

    async def _reach_back(self, sequence: int) -> None:
        async with self._backfill:
            if sequence >= self.log.since:
                return
            moves: list[Move] = []
            last, until, more = sequence, self.log.since, True
            while more and last < until:
                entries, more = await self._bucket.after(last, MOVES, BATCH, READ_TIMEOUT * 4)
                for entry in entries:
                    last = entry.revision
                    move = self._parse(entry)
                    if move is not None and last <= until:
                        moves.append(move)
            if until == self.log.since:  # else the log has lost its oldest moves meanwhile: read again
                self.log.prepend(moves, sequence)

    async def _take(self, entry: Entry) -> None:
        move = self._parse(entry)
        if move is None:
            self.head = self.done = entry.revision
            self._wake()
            return
        self._began = time.perf_counter()
        self._before_slice()
        members = self._index.members(move.source)
        self._todo = set(members)
        self._now, self._matched, self._changed = move, len(members), 0
        self.log.append(move)
        self.head = entry.revision
        await self._work_off(move)

    async def _work_off(self, move: Move) -> None:
        todo = self._todo
        until = time.perf_counter() + SLICE_SECONDS
        count = 0
        while todo:
            socket = todo.pop()
            self._changed += self._apply_to(socket, move)
            count += 1
            if count % SLICE_CHECK == 0 and time.perf_counter() > until:
                await asyncio.sleep(0)
                self._before_slice()
                until = time.perf_counter() + SLICE_SECONDS
        self._now = None
        self.done = move.sequence
        self._keep(move.sequence, (self._matched, self._changed))
        self._metrics.move.observe(time.perf_counter() - self._began)
        self._wake()

    def _apply_to(self, socket: EdgeSocket, move: Move) -> bool:
        return self._apply(socket, move)

    def _parse(self, entry: Entry) -> Move | None:
        if entry.value is None:
            return None
        try:
            return Move.from_json(entry.key.removeprefix("move."), entry.value, entry.revision)
        except (ValueError, UnknownVersion) as error:
            self._metrics.invalid["move"] += 1
            log.error("a move in the log is not applied: %s", error)
            self._keep(entry.revision, None)
            return None

    def _keep(self, sequence: int, result: tuple[int, int] | None) -> None:
        self._results[sequence] = result
        if len(self._results) > KEPT_RESULTS:
            self._results.popitem(last=False)

    def _wake(self) -> None:
        still = []
        for sequence, future in self._waiting:
            if sequence > self.done:
                still.append((sequence, future))
            elif not future.done():
                future.set_result(None)
        self._waiting = still
