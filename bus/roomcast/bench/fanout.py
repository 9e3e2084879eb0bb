"""Scenarios of one large room: the machine's limit, casts alone and in bursts, and clients that do not read."""

from __future__ import annotations

from collections.abc import Callable

from roomcast.bench.connection import Target
from roomcast.bench.errors import BenchError
from roomcast.bench.frames import PAYLOAD_BYTES
from roomcast.bench.limit import Limit
from roomcast.bench.run import Figure, Run, latencies

SOCKETS = 2000
ALONE_PER_SECOND = 50.0
BURSTS_PER_SECOND = {1: ALONE_PER_SECOND, 10: 25.0, 50: 12.0}
STALLED_PART = 20
"""One of so many sockets does not read."""
STALLED_BYTES = 2 << 20
"""What is sent to a stalled socket in all: more than an edge keeps for one."""
STALLED_BURST = 10
STALLED_BURSTS_PER_SECOND = 20.0


def limit(run: Run) -> list[Figure]:
    """Measure what ``os.write`` in a tight loop reaches, with the same sockets and the same load."""
    sockets = run.size.sockets(SOCKETS)
    messages = max(20, int(run.size.seconds * ALONE_PER_SECOND))
    with Limit(run.system.edge_cpus) as served:
        served.accept(sockets)
        with run.load(sockets, [Target("127.0.0.1", served.port)]) as workers:
            workers.open_all(sockets, greeted=False, within=30.0)
            workers.count()
            cpu = max(served.run(messages, ALONE_PER_SECOND), 1e-3)
            workers.wait_for(messages * sockets)
            counts, last = workers.counts()
            workers.close(0.0)  # that server knows no farewell
    if counts.deliveries != messages * sockets:
        raise BenchError(f"of {messages * sockets} messages of the limit {counts.deliveries} arrived")
    run.limit_rate = messages * sockets / cpu
    return [
        Figure("deliveries_per_cpu_second", "deliveries per CPU-second", run.limit_rate, "1/s"),
        *latencies(counts.latency, "latency", "write → a socket"),
        *latencies(last, "last", "write → the last socket"),
    ]


def fanout(burst: int) -> Callable[[Run], list[Figure]]:
    """A scenario: bursts of so many casts to one room."""

    def measure(run: Run) -> list[Figure]:
        sockets = run.size.sockets(SOCKETS)
        per_second = BURSTS_PER_SECOND[burst]
        room = run.room(f"fanout{burst}")
        with run.load(sockets) as workers:
            run.open(workers, sockets, room)
            batches = max(10, int(run.size.seconds * per_second))
            done = run.cast(
                workers, room, sockets, burst=burst, batches=batches, per_second=per_second, size=PAYLOAD_BYTES
            )
        rate = done.counts.deliveries / done.cpu
        figures = [Figure("deliveries_per_cpu_second", "deliveries per CPU-second", rate, "1/s")]
        if run.limit_rate:
            figures.append(Figure("times_the_limit", "  as a multiple of the limit", rate / run.limit_rate, "×"))
        return [
            *figures,
            *latencies(done.counts.latency, "latency", "publish → a socket"),
            *latencies(done.last, "last", "publish → the last socket"),
            *done.integrity(),
        ]

    return measure


def slow(run: Run) -> list[Figure]:
    """Measure the same casts twice: all sockets read; then one of twenty does not."""
    sockets = run.size.sockets(SOCKETS)
    stalled = max(1, sockets // STALLED_PART)
    batches = max(10, int(run.size.seconds * STALLED_BURSTS_PER_SECOND))
    payload = max(PAYLOAD_BYTES, min(16384, STALLED_BYTES // (batches * STALLED_BURST)))
    p99 = []
    figures: list[Figure] = []
    for stall in (False, True):
        room = run.room(f"slow{stall:d}")
        readers = sockets - stalled
        with run.load(sockets) as workers:
            run.open(workers, readers, room)
            if stall:
                run.open(workers, stalled, room, narrow=True)
                workers.stall(readers)
            done = run.cast(
                workers,
                room,
                readers,
                burst=STALLED_BURST,
                batches=batches,
                per_second=STALLED_BURSTS_PER_SECOND,
                size=payload,
            )
        p99.append(done.counts.latency.percentile(0.99) / 1000)
        if stall:
            closed = done.after.since(done.before, "roomcast_slow_sockets_closed_total")
            waiting = done.after.total("roomcast_outbox_bytes")
            figures = [
                Figure("stalled", "sockets that do not read", stalled, "sockets"),
                Figure("closed_as_slow", "  of which closed as too slow", closed, "sockets"),
                Figure("waiting_bytes", "  waiting for the rest at the end", waiting / 2**20, "MiB"),
                *done.integrity(),
            ]
    return [
        Figure("p99_without_ms", "publish → a reading socket, p99, all read", p99[0], "ms"),
        Figure("p99_with_ms", "publish → a reading socket, p99, some do not", p99[1], "ms"),
        Figure("p99_ratio", "  the second as a multiple of the first", p99[1] / max(p99[0], 1e-3), "×"),
        *figures,
    ]
