"""What a room, a socket and a cast may cost an edge: memory and CPU time, measured as ``roomcast bench`` does."""

from __future__ import annotations

import asyncio

import pytest

from roomcast.bench.connection import Target
from roomcast.bench.rooms import cast_to_many, fill_rooms, fill_sockets
from roomcast.bench.run import Run, Size
from roomcast.bench.system import System
from roomcast.open_files import raise_file_limit
from support.edges import EdgeProcess, StartEdge
from support.nats_servers import NatsServer

ROOM_BYTES = 1024
"""What one of 50,000 rooms with a member may take of an edge's memory, all in all."""
SOCKET_BYTES = 8 * 1024
"""What one connected socket in a room may take, its record's revision and its membership among it."""
CAST_SECONDS = 30e-6
"""CPU time of the edge for a cast to one of 50,000 rooms, from NATS to the socket."""
ROOMS = 50_000
MEMBERS = 500
SOCKETS = 3000
CASTS = 6000
TRIES = 3
"""Times that CPU time is measured: neighbours on the machine only ever add to it."""


def run_of(nats: NatsServer, edge: EdgeProcess) -> Run:
    """A run of the bench against an edge of a test."""
    system = System(
        nats.url,
        edge.prefix,
        [Target("127.0.0.1", edge.port)],
        [f"http://127.0.0.1:{edge.admin_port}"],
    )
    return Run(system, Size(), raise_file_limit(), processes=1)


def rooms_and_casts(run: Run) -> tuple[float, list[float], int]:
    """Bytes of a room; seconds of CPU time of a cast, several times; casts that were lost or came twice."""
    wrong = 0
    with run.load(MEMBERS) as workers:
        run.open(workers, MEMBERS, run.room("all"))
        per_room = fill_rooms(run, workers.ids(), ROOMS)
        costs = []
        for _ in range(TRIES):
            done = cast_to_many(run, workers, MEMBERS, ROOMS, CASTS)
            costs.append(done.cpu / done.counts.deliveries)
            wrong += done.lost + done.counts.gaps + done.counts.duplicates
    return per_room, costs, wrong


def sockets(run: Run) -> float:
    """Bytes of a socket."""
    with run.load(SOCKETS) as workers:
        return fill_sockets(run, workers, SOCKETS, run.room("all"))[1]


async def test_a_room_and_a_cast_to_it(
    nats: NatsServer, start_edge: StartEdge, capsys: pytest.CaptureFixture[str]
) -> None:
    """50,000 rooms on one edge: below 1 KiB each; a cast to one of them: below 30 µs of CPU time."""
    edge = await start_edge(nats.urls, client_rooms="bench-*")
    per_room, costs, wrong = await asyncio.to_thread(rooms_and_casts, run_of(nats, edge))
    with capsys.disabled():
        shown = ", ".join(f"{cost * 1e6:.1f}" for cost in costs)
        print(f"\na room of {ROOMS:,}: {per_room:.0f} bytes; a cast to one of them: {shown} µs of CPU time")
    assert not wrong
    assert 100 < per_room < ROOM_BYTES
    assert 1e-6 < min(costs) < CAST_SECONDS


async def test_a_socket(nats: NatsServer, start_edge: StartEdge, capsys: pytest.CaptureFixture[str]) -> None:
    """A connected socket in one room: below 8 KiB."""
    edge = await start_edge(nats.urls, client_rooms="bench-*")
    each = await asyncio.to_thread(sockets, run_of(nats, edge))
    with capsys.disabled():
        print(f"\na socket: {each:.0f} bytes")
    assert 1024 < each < SOCKET_BYTES
