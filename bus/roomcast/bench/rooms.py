"""Scenarios of sockets and rooms: what each costs, storms of connections, small rooms, and moves of all members."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

from roomcast.bench.errors import BenchError
from roomcast.bench.frames import FIRST, join_hello
from roomcast.bench.publisher import Publisher, Tick
from roomcast.bench.run import Figure, Outcome, Run, latencies
from roomcast.bench.workers import Workers
from roomcast.bus import Bus

WARM_BATCHES = 20
MANY_ROOMS = 50_000
ROOMS_PER_JOIN = 100
SMALL_SOCKETS = 10_000
SMALL_CASTS_PER_SECOND = 20_000
"""In all, and at most 20 to a socket."""
SMALL_BATCH = 50
STORM_SOCKETS = 10_000
STORM_ROOMS = 3
MOVE_SOCKETS = 10_000
MOVES = 5
MOVE_WITHIN = 60.0
LAG_SEEN_AFTER = 0.5
"""Seconds within which an edge's own timer has noticed that it was late."""
WATCHERS = 10
WATCH_EVERY = 0.005
"""Seconds between two casts while members are moved."""


def memory(run: Run) -> list[Figure]:
    """Measure what one more socket costs; with ``--full`` also a room, of 50,000. Right only on a fresh edge."""
    sockets = run.size.sockets(5000, quick=1500)
    with run.load(sockets) as workers:
        alone, each = fill_sockets(run, workers, sockets, run.room("memory"))
        figures = [
            Figure("alone_bytes", "memory of the edge before", alone / 2**20, "MiB"),
            Figure("bytes_per_socket", "memory of a socket", each / 1024, "KiB"),
        ]
        if run.size.full:
            members = workers.ids()[: MANY_ROOMS // ROOMS_PER_JOIN]
            per_room = fill_rooms(run, members, MANY_ROOMS)
            figures.append(Figure("bytes_per_room", f"memory of a room, of {MANY_ROOMS:,}", per_room / 1024, "KiB"))
            done = cast_to_many(run, workers, len(members), MANY_ROOMS, 20_000)
            figures.append(_cpu_per_cast(done, f"CPU time of a cast to one of {MANY_ROOMS:,} rooms"))
            figures += done.integrity()
    return figures


def fill_sockets(run: Run, workers: Workers, sockets: int, room: str) -> tuple[float, float]:
    """Open sockets in one room; returns the bytes of the edges' memory before, and for each socket.

    The second half is what counts: with the first, memory grows for what is used again later.
    """
    half = sockets // 2
    alone = run.sample().memory
    run.open(workers, half, room, told=lambda ready: run.tick(ready / sockets))
    before = run.sample().memory
    run.open(workers, sockets - half, room, told=lambda ready: run.tick((half + ready) / sockets))
    return alone, max(0.0, run.sample().memory - before) / (sockets - half)


def fill_rooms(run: Run, members: Sequence[str], rooms: int) -> float:
    """Make sockets members of many rooms, in turn, one member each; returns the bytes of memory for each room."""
    changes: list[tuple[str, list[str]]] = []
    for i, member in enumerate(members):
        names = [_many(run, room) for room in range(i, rooms, len(members))]
        changes += [(member, names[k : k + ROOMS_PER_JOIN]) for k in range(0, len(names), ROOMS_PER_JOIN)]
    before = run.sample()
    run.join(changes)
    after = run.sample()
    made = after.since(before, "roomcast_rooms")
    if made != rooms:
        raise BenchError(f"{rooms} rooms were to be made, the edges have {made:.0f} more")
    return max(0.0, after.memory - before.memory) / rooms


def _many(run: Run, number: int) -> str:
    return run.room(f"many-{number}")


def cast_to_many(run: Run, workers: Workers, members: int, rooms: int, casts: int) -> Outcome:
    """Publish so many casts to random ones of the rooms that :func:`fill_rooms` made."""
    return cast_at_random(run, workers, [_many(run, room) for room in range(rooms)], members, casts)


def cast_at_random(run: Run, workers: Workers, rooms: Sequence[str], members: int, casts: int) -> Outcome:
    """Publish so many casts to rooms chosen at random; each has one member, ``members`` sockets in turn.

    The casts of all rooms of a member are numbered in one row: their order must hold across rooms.
    """
    templates = [run.template(room) for room in rooms]
    choice = random.Random(1)
    numbers: list[int] = []

    def batch(sent: int) -> bytes:
        parts = []
        for _ in range(SMALL_BATCH):
            which = choice.randrange(len(templates))
            member = which % members
            parts.append(templates[which] % (sent, numbers[member], sent))
            numbers[member] += 1
        return b"".join(parts)

    batches_per_second = _small_rate(members) / SMALL_BATCH

    def publish(publisher: Publisher, batches: int, tick: Tick) -> Outcome:
        numbers[:] = [FIRST] * members
        workers.count(last_wanted=False)
        before = run.sample()
        publisher.pace(batches, batches_per_second, batch, tick)
        return run.outcome(workers, batches * SMALL_BATCH, before)

    with run.publisher() as publisher:
        publish(publisher, WARM_BATCHES, lambda _: None)  # the first casts cost more
        return publish(publisher, -(-casts // SMALL_BATCH), run.tick)


def _small_rate(sockets: int) -> int:
    """Casts a second to small rooms."""
    return min(SMALL_CASTS_PER_SECOND, 20 * sockets)


def _cpu_per_cast(done: Outcome, text: str) -> Figure:
    return Figure("cpu_us_per_cast", text, done.cpu / max(done.counts.deliveries, 1) * 1e6, "µs")


def small_rooms(run: Run) -> list[Figure]:
    """Measure casts to random ones of many rooms of one member."""
    sockets = run.size.sockets(SMALL_SOCKETS, quick=1000)
    with run.load(sockets) as workers:
        run.open(workers, sockets, run.room("account-{i}"), told=lambda ready: run.tick(ready / sockets / 3))
        rooms = [run.room(f"account-{i}") for i in range(sockets)]
        casts = int(run.size.seconds * _small_rate(sockets))
        done = cast_at_random(run, workers, rooms, sockets, casts)
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
        await asyncio.sleep(LAG_SEEN_AFTER)
    finally:
        done.set()
        await watching
    await bus.flush()
    return seconds, casts
