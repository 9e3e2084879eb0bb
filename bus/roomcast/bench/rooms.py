"""Scenarios of sockets and rooms: what each costs, storms of connections, small rooms, and moves of all members."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

from roomcast.bench.errors import BenchError
from roomcast.bench.frames import FIRST, join_hello
from roomcast.bench.run import Figure, Outcome, Run, latencies
from roomcast.bench.workers import Workers
from roomcast.bus import Bus

WARM_SOCKETS = 50
MANY_ROOMS = 50_000
ROOMS_PER_JOIN = 100
SMALL_SOCKETS = 10_000
SMALL_CASTS_PER_SECOND = 20_000
SMALL_BATCH = 50
STORM_SOCKETS = 10_000
STORM_ROOMS = 3
MOVE_SOCKETS = 10_000
MOVES = 5
MOVE_WITHIN = 60.0
WATCHERS = 10
WATCH_EVERY = 0.005
"""Seconds between two casts while members are moved."""


def memory(run: Run) -> list[Figure]:
    """Measure what a socket costs; with ``--full`` also a room, of 50,000. Right only on an edge that just started."""
    sockets = max(run.size.sockets(5000, quick=1000), WARM_SOCKETS)
    room = run.room("memory")
    with run.load(WARM_SOCKETS) as workers:
        run.open(workers, WARM_SOCKETS, room)
    with run.load(sockets) as workers:
        before = run.sample()
        run.open(workers, sockets, room, told=lambda ready: run.tick(ready / sockets))
        after = run.sample()
        bytes_each = (after.memory - before.memory) / sockets
        figures = [Figure("bytes_per_socket", "memory of a socket in one room", bytes_each / 1024, "KiB")]
        if run.size.full:
            per_room = fill_rooms(run, workers.ids(), MANY_ROOMS)
            figures.append(Figure("bytes_per_room", f"memory of a room, of {MANY_ROOMS:,}", per_room / 1024, "KiB"))
            done = cast_at_random(run, workers, [run.room(f"many-{i}") for i in range(MANY_ROOMS)], 20_000)
            figures.append(_cpu_per_cast(done, f"CPU time of a cast to one of {MANY_ROOMS:,} rooms"))
            figures += done.integrity()
    return figures


def fill_rooms(run: Run, ids: Sequence[str], rooms: int) -> float:
    """Make sockets members of many rooms, one each; returns the bytes of the edge's memory for each room."""
    ids = ids[: -(-rooms // ROOMS_PER_JOIN)]
    names = [run.room(f"many-{i}") for i in range(rooms)]
    starts = range(0, rooms, ROOMS_PER_JOIN)
    before = run.sample()
    run.join([(ids[k % len(ids)], names[i : i + ROOMS_PER_JOIN]) for k, i in enumerate(starts)])
    after = run.sample()
    made = after.total("roomcast_rooms") - before.total("roomcast_rooms")
    if made < rooms * 0.99:
        raise BenchError(f"{rooms} rooms were to be made, the edges have {made:.0f} more")
    return (after.memory - before.memory) / rooms


def cast_at_random(run: Run, workers: Workers, rooms: Sequence[str], casts: int) -> Outcome:
    """Publish so many casts to rooms of one member each, chosen at random."""
    templates = [run.template(room) for room in rooms]
    choice = random.Random(1)
    batches = -(-casts // SMALL_BATCH)

    def batch(sent: int) -> bytes:
        parts = []
        for _ in range(SMALL_BATCH):
            which = choice.randrange(len(templates))
            numbers[which] += 1
            parts.append(templates[which] % (sent, numbers[which], sent))
        return b"".join(parts)

    per_second = SMALL_CASTS_PER_SECOND / SMALL_BATCH
    with run.publisher() as publisher:
        for count, tick in ((20, lambda _: None), (batches, run.tick)):  # the first casts do not count
            numbers = [FIRST - 1] * len(rooms)
            workers.count(last_wanted=False)
            before = run.sample()
            publisher.pace(count, per_second, batch, tick)
            done = run.outcome(workers, count * SMALL_BATCH, before)
    return done


def _cpu_per_cast(done: Outcome, text: str) -> Figure:
    return Figure("cpu_us_per_cast", text, done.cpu / max(done.counts.deliveries, 1) * 1e6, "µs")


def small_rooms(run: Run) -> list[Figure]:
    """Measure casts to random ones of many rooms of one member."""
    sockets = run.size.sockets(SMALL_SOCKETS, quick=1000)
    with run.load(sockets) as workers:
        run.open(workers, sockets, run.room("account-{i}"), told=lambda ready: run.tick(ready / sockets / 3))
        rooms = [run.room(f"account-{i}") for i in range(sockets)]
        done = cast_at_random(run, workers, rooms, int(run.size.seconds * SMALL_CASTS_PER_SECOND))
    return [
        Figure("casts_per_cpu_second", "casts per CPU-second", done.counts.deliveries / done.cpu, "1/s"),
        _cpu_per_cast(done, "CPU time of a cast"),
        *latencies(done.counts.latency, "latency", "publish → the socket"),
        *done.integrity(),
    ]


def connect(run: Run) -> list[Figure]:
    """Measure a storm: all at once, each socket joins three rooms of its own, and waits for the answers."""
    if not run.clients_join:
        raise BenchError(f"clients may not join {run.name}-…: run the edges with ROOMCAST_CLIENT_ROOMS=bench-*")
    sockets = run.size.sockets(STORM_SOCKETS, quick=1000)
    hellos = [join_hello(run.room(f"storm{number}-{{i}}"), number + 1) for number in range(STORM_ROOMS)]
    with run.load(sockets) as workers:
        before = run.sample()
        opened = workers.open(sockets, hellos, told=lambda ready: run.tick(ready / sockets))
        after = run.sample()
    cpu = max(after.cpu - before.cpu, 1e-3)
    return [
        Figure("connections_per_cpu_second", "connections per CPU-second", opened.ready / cpu, "1/s"),
        Figure("connections_per_second", "connections per second", opened.ready / max(opened.seconds, 1e-3), "1/s"),
        Figure("not_opened", "NOT OPENED", opened.lost, "sockets", shown=opened.lost > 0),
    ]


def moves(run: Run) -> list[Figure]:
    """Measure changes of all members of a room, while casts go to another."""
    sockets = run.size.sockets(MOVE_SOCKETS, quick=1000)
    source, watched = run.room("move"), run.room("watched")
    with run.load(sockets + WATCHERS) as workers:
        run.open(workers, sockets, source, told=lambda ready: run.tick(ready / sockets * 0.8))
        run.open(workers, WATCHERS, watched)
        workers.count()
        before = run.sample()
        seconds, casts = run.with_bus(lambda bus: _move(bus, run, source, watched))
        done = run.outcome(workers, casts * WATCHERS, before)
    lag = done.after.highest_since(before, "roomcast_loop_lag_seconds")
    median = statistics.median(seconds)
    return [
        Figure("seconds", f"all {sockets:,} members join a room, median of {MOVES}", median, "s"),
        Figure("us_per_member", "  for each member", median / sockets * 1e6, "µs"),
        Figure("longest_wait_ms", "longest wait of a cast meanwhile", done.counts.latency.highest / 1000, "ms"),
        Figure("loop_lag_at_most_ms", "longest loop lag seen by the edge, at most", lag * 1000, "ms"),
        *done.integrity(),
    ]


async def _move(bus: Bus, run: Run, source: str, watched: str) -> tuple[list[float], int]:
    """Move all members some times; returns the seconds that each took, and how many casts went on meanwhile."""
    done = asyncio.Event()
    casts = 0

    async def watch() -> None:
        nonlocal casts
        while not done.is_set():
            await bus.broadcast(watched, {"bench": [FIRST + casts, time.time_ns()]})
            casts += 1
            await asyncio.sleep(WATCH_EVERY)

    watching = asyncio.create_task(watch())
    seconds = []
    try:
        for number in range(MOVES):
            began = time.perf_counter()
            result = await bus.add_room_members_to_rooms(source, f"{source}-{number}", timeout=MOVE_WITHIN)
            seconds.append(time.perf_counter() - began)
            if not result.changed:
                raise BenchError(f"nobody was moved: {result}")
            run.tick(0.8 + (number + 1) / MOVES * 0.2)
    finally:
        done.set()
        await watching
    await bus.flush()
    return seconds, casts
