"""One run of the bench, as a scenario sees it: the system, how much to do, and the steps that scenarios share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from roomcast.bench.connection import Target
from roomcast.bench.counts import Counts
from roomcast.bench.errors import BenchError
from roomcast.bench.frames import FIRST, PAYLOAD_BYTES, cast_template, join_hello
from roomcast.bench.histogram import Histogram
from roomcast.bench.machine import check_sockets
from roomcast.bench.measure import Sample, sample
from roomcast.bench.publisher import Publisher
from roomcast.bench.system import System
from roomcast.bench.workers import Workers
from roomcast.bus import Bus
from roomcast.errors import RoomcastError
from roomcast.names import DEFAULT_EVENT, Subjects

MAX_PROCESSES = 8
JOINS_UNDER_WAY = 200
JOIN_WITHIN = 30.0
TOO_BUSY = 0.8
"""The part of the time above which the load may be what limits the figures."""
WARM_UP = 10
"""Casts before any that count: the first of a kind costs more."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that was measured."""

    key: str
    text: str
    value: float
    unit: str
    shown: bool = True
    """Whether it stands in the table; all stand in the JSON."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is to be measured."""

    quick: bool = False
    full: bool = False
    asked_sockets: int | None = None
    asked_seconds: float | None = None

    def sockets(self, usual: int, quick: int = 500) -> int:
        """The sockets of a scenario."""
        return self.asked_sockets or (quick if self.quick else usual)

    @property
    def seconds(self) -> float:
        """For how long casts are published."""
        return self.asked_seconds or (1.5 if self.quick else 6.0)


@dataclass(slots=True)
class Outcome:
    """What came of casts that were published at a pace."""

    counts: Counts
    last: Histogram
    lost: int
    before: Sample
    after: Sample

    @property
    def cpu(self) -> float:
        """Seconds of CPU time of the edges."""
        return max(self.after.cpu - self.before.cpu, 1e-3)

    def integrity(self) -> list[Figure]:
        """What must be zero, and how busy the load was itself; in the table only where it is not well."""
        busy = self.counts.busy
        cuts = self.after.since(self.before, "roomcast_nats_reconnects_total")
        return [
            Figure("load_busy", "THE LOAD WAS TOO BUSY: part of a processor", busy, "", shown=busy > TOO_BUSY),
            Figure("nats_reconnects", "CUT OFF from NATS", cuts, "times", shown=cuts > 0),
            Figure("lost", "LOST", self.lost, "casts", shown=self.lost > 0),
            Figure("gaps", "skipped", self.counts.gaps, "casts", shown=False),
            Figure("duplicates", "TWICE", self.counts.duplicates, "casts", shown=self.counts.duplicates > 0),
            Figure("closed", "CLOSED", self.counts.closed, "sockets", shown=self.counts.closed > 0),
        ]


@dataclass(slots=True)
class Run:
    """The system under measurement, and how scenarios use it. ``tick`` hears how far a scenario is, from 0 to 1."""

    system: System
    size: Size
    allowed_files: int
    processes: int = 0
    """Of the load; 0: one for each processor that it may use."""
    tick: Callable[[float], None] = lambda _: None
    name: str = field(default_factory=lambda: f"bench-{secrets.token_hex(4)}")
    limit_rate: float = 0.0
    """Deliveries per CPU-second of the limit, once it is measured."""
    _clients_join: bool | None = None

    def room(self, name: str) -> str:
        """A room of this run alone."""
        return f"{self.name}-{name}"

    def sample(self) -> Sample:
        """The edges' metrics now."""
        return sample(self.system.admins)

    @contextmanager
    def load(self, sockets: int, targets: Sequence[Target] = ()) -> Iterator[Workers]:
        """Processes for so many sockets, of the edges or of other servers; at the end the sockets leave."""
        processes = self.processes or min(len(self.system.load_cpus) or 1, MAX_PROCESSES)
        # An edge, or a server of the bench's own, on this machine holds all of them in one process.
        check_sockets(sockets, self.allowed_files, 1 if targets or self.system.embedded else processes)
        with Workers(targets or self.system.targets, processes) as workers:
            yield workers
            workers.close()

    @contextmanager
    def publisher(self) -> Iterator[Publisher]:
        """A publisher on the first NATS server."""
        with Publisher(self.system.nats.split(",")[0].strip()) as publisher:
            yield publisher

    def template(self, room: str, payload_bytes: int = PAYLOAD_BYTES) -> bytes:
        """What is published for a cast to a room."""
        return cast_template(Subjects(self.system.prefix).room(room, DEFAULT_EVENT), payload_bytes)

    # -- sockets in rooms ----------------------------------------------------------------------------------------------

    @property
    def clients_join(self) -> bool:
        """Whether the edges let clients join the bench's rooms by themselves; tried once."""
        if self._clients_join is None:
            with self.load(1) as workers:
                opened = workers.open(1, [join_hello(self.room("probe"), 1)], within=20.0)
            if opened.lost:
                raise BenchError(f"a socket cannot be opened: {opened.why}")
            self._clients_join = not opened.forbidden
        return self._clients_join

    def open(self, workers: Workers, count: int, room: str, **options: Any) -> None:
        """Open sockets that are members of a room; ``{i}`` in its name stands for the socket's index."""
        first = workers.size
        if self.clients_join:
            workers.open_all(count, [join_hello(room, 1)], **options)
            return
        workers.open_all(count, **options)
        ids = workers.ids()[first:]
        self.join([(name, [room.replace("{i}", str(first + i))]) for i, name in enumerate(ids)])

    def join(self, changes: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Make sockets members of rooms, through the SDK."""
        self.with_bus(lambda bus: _join(bus, changes))

    def with_bus(self, work: Callable[[Bus], Any]) -> Any:
        """Run async work with a Bus; what goes wrong on the bus is a :class:`BenchError`."""

        async def connected() -> Any:
            async with Bus.connect(self.system.nats, prefix=self.system.prefix, name="roomcast bench") as bus:
                return await work(bus)

        try:
            return asyncio.run(connected())
        except RoomcastError as error:
            raise BenchError(f"{type(error).__name__}: {error}") from error

    # -- casts ---------------------------------------------------------------------------------------------------------

    def cast(
        self, workers: Workers, room: str, members: int, *, burst: int, batches: int, per_second: float, size: int
    ) -> Outcome:
        """Publish bursts to one room at a pace, wait until its members have them, and say what came of it.

        ``size`` is of the payload, in bytes. A few casts that do not count go first.
        """
        template = self.template(room, size)

        def batch(number: int) -> Callable[[int], bytes]:
            numbers = iter(range(number, number + batches * burst))
            return lambda sent: b"".join([template % (sent, next(numbers), sent) for _ in range(burst)])

        with self.publisher() as publisher:
            workers.count()
            publisher.pace(WARM_UP, per_second, batch(FIRST))
            workers.wait_for(WARM_UP * burst * members)
            workers.count()
            before = self.sample()
            publisher.pace(batches, per_second, batch(FIRST), self.tick)
        return self.outcome(workers, batches * burst * members, before)

    def outcome(self, workers: Workers, expected: int, before: Sample) -> Outcome:
        """Wait until so many casts have arrived since ``before``, or no more come."""
        workers.wait_for(expected)
        after = self.sample()
        counts, last = workers.counts()
        lost = expected - (counts.deliveries - counts.duplicates)
        return Outcome(counts, last, lost, before, after)


async def _join(bus: Bus, changes: Sequence[tuple[str, Sequence[str]]]) -> None:
    window = asyncio.Semaphore(JOINS_UNDER_WAY)

    async def one(socket: str, rooms: Sequence[str]) -> None:
        async with window:
            await bus.join(socket, rooms, timeout=JOIN_WITHIN)

    await asyncio.gather(*[one(socket, rooms) for socket, rooms in changes])


def latencies(histogram: Histogram, key: str, text: str) -> list[Figure]:
    """The median, the 99th percentile and the maximum, in milliseconds."""
    return [
        Figure(f"{key}_p50_ms", f"{text}, median", histogram.percentile(0.5) / 1000, "ms"),
        Figure(f"{key}_p99_ms", f"{text}, p99", histogram.percentile(0.99) / 1000, "ms"),
        Figure(f"{key}_max_ms", f"{text}, max", histogram.highest / 1000, "ms"),
    ]
