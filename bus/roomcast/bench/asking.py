"""The scenario of requests: clients ask a service, through the edges, and wait for its answers."""

from __future__ import annotations

import asyncio
import time

import orjson

from roomcast.bench.errors import BenchError
from roomcast.bench.run import Figure, Run
from roomcast.bench.workers import Workers
from roomcast.bus import Bus
from roomcast.names import Subjects
from roomcast.nats_client import LightSubscription

SOCKETS = 500
AT_ONCE = 20
"""Requests of a socket under way."""
REQUESTS_PER_SECOND = 20_000
"""Of the length of the run: how many are asked in all."""
ROUND_WITHIN = 30.0


def requests(run: Run) -> list[Figure]:
    """Measure requests to a service that answers at once; it runs here, beside the load."""
    sockets = run.size.sockets(SOCKETS, quick=100)
    rounds = max(2, round(run.size.seconds * REQUESTS_PER_SECOND / sockets / AT_ONCE))
    action = f"{run.name}-echo"
    with run.load(sockets) as workers:
        workers.open_all(sockets, told=lambda ready: run.tick(ready / sockets * 0.2))
        return list(run.with_bus(lambda bus: _ask(run, bus, workers, action, rounds)))


async def _ask(run: Run, bus: Bus, workers: Workers, action: str, rounds: int) -> list[Figure]:
    def answer(_: LightSubscription, __: bytes, reply: bytes, ___: bytes, ____: bytes) -> None:
        bus.nats.send(reply.decode(), b'{"ok":true}')

    bus.nats.subscribe_light(Subjects(run.system.prefix).action(action), answer)
    await bus.flush()
    hello = orjson.dumps({"event": action, "data": {"orderId": "42"}, "id": 1}).decode()
    await asyncio.to_thread(_round, workers, hello)  # the first costs more
    before, began = run.sample(), time.perf_counter()
    for number in range(rounds):
        await asyncio.to_thread(_round, workers, hello)
        run.tick(0.2 + 0.8 * (number + 1) / rounds)
    seconds, after = time.perf_counter() - began, run.sample()
    asked = rounds * AT_ONCE * workers.size
    return [
        Figure("requests_per_cpu_second", "requests per CPU-second", asked / max(after.cpu - before.cpu, 1e-3), "1/s"),
        Figure("requests_per_second", "requests per second", asked / seconds, "1/s"),
    ]


def _round(workers: Workers, hello: str) -> None:
    answered = workers.ask(hello, AT_ONCE, ROUND_WITHIN)
    if answered < AT_ONCE * workers.size:
        raise BenchError(f"{AT_ONCE * workers.size - answered} requests were refused, or not answered in time")
