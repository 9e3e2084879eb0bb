"""NATS goes away, stalls, or was never there: sockets stay, calls fail in time, and all comes back by itself."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from roomcast import Bus, BusTimeout, BusUnavailable, RoomcastError
from support.arena import Arena, arena
from support.edges import EdgeProcess
from support.nats_servers import NatsServer, Port
from support.raw_client import RawClient
from support.until import until
from support.websocket_client import Client

SLACK = 0.5
"""Seconds that a call may take beyond its timeout on a busy machine."""


@pytest.fixture
async def stage(fresh_nats: NatsServer, prefix, start_edge) -> AsyncIterator[Arena]:
    """Two edges and a Bus on a NATS that may be killed."""
    async with arena([fresh_nats.urls] * 2, fresh_nats.url, prefix, start_edge, client_rooms="*") as made:
        yield made


def calls(bus: Bus, socket_id: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every call that waits, with a timeout of a second."""
    return {
        "join": lambda: bus.join(socket_id, "late", timeout=1),
        "leave": lambda: bus.leave(socket_id, "room", timeout=1),
        "leave_all": lambda: bus.leave_all("room", timeout=1),
        "move": lambda: bus.add_room_members_to_rooms("room", "late", timeout=1),
        "disconnect": lambda: bus.disconnect(socket_id, timeout=1),
        "get": lambda: bus.get(socket_id, timeout=1),
        "rooms": lambda: bus.rooms(socket_id, timeout=1),
        "count": lambda: bus.count("room", timeout=1),
        "members": lambda: anext(bus.members("room", timeout=1)),
        "flush": lambda: bus.flush(timeout=1),
    }


async def all_fail_in_time(bus: Bus, socket_id: str) -> None:
    """Each call says in its time that the bus is away, or that it does not know."""
    for name, call in calls(bus, socket_id).items():
        began = time.monotonic()
        with pytest.raises((BusUnavailable, BusTimeout)):
            await call()
        assert time.monotonic() - began < 1 + SLACK, f"{name} took too long to fail"
    results = await bus.join([socket_id, socket_id], "late", timeout=1)
    assert all(isinstance(result.error, BusUnavailable | BusTimeout) for result in results), results


async def is_back(bus: Bus, count: int) -> bool:
    """Whether the room's members are all found again."""
    try:
        return await bus.count("room", timeout=1) == count
    except RoomcastError:
        return False


async def test_nats_is_killed_and_comes_back(stage: Arena, fresh_nats: NatsServer):
    bus, clients = stage.bus, await stage.clients(4)
    ids = [client.id for client in clients]
    await bus.join(ids, "room")
    await bus.add_room_members_to_rooms("room", ["moved", "and more"])
    before = [await bus.rooms(name) for name in ids]

    await asyncio.to_thread(fresh_nats.kill)
    await until(lambda: not bus.nats.is_connected, what="the Bus notices")
    for _ in range(20):
        began = time.monotonic()
        with pytest.raises(BusUnavailable):
            await bus.broadcast("room", "lost", None)
        with pytest.raises(BusUnavailable):
            await bus.blast("lost", None)
        assert time.monotonic() - began < 0.1, "casts fail at once"
    await all_fail_in_time(bus, ids[0])
    for client in clients:
        assert await client.emit("bus:ping") == {"id": 1, "data": {}}, "sockets stay"
    answers = await asyncio.gather(*[client.emit("bus:join", {"room": "late"}) for client in clients])
    assert {answer["error"]["code"] for answer in answers} <= {"unavailable", "timeout"}, answers
    newcomer = await RawClient.dial(stage.edges[0].port)
    status, headers = await newcomer.upgrade()
    assert status == 503
    assert 1 <= int(headers["retry-after"]) <= 10, "seconds, not the same for all"
    for edge in stage.edges:
        assert await edge.metric("roomcast_nats_connected") == 0
        assert (await edge.get("/healthz"))[0] == 200
        assert (await edge.get("/readyz"))[0] == 200, "NATS may blink for half a minute"

    await asyncio.to_thread(fresh_nats.start)
    await until(lambda: is_back(bus, 4), 20, "the members are found again")
    assert [await bus.rooms(name) for name in ids] == before, "what was refused was undone"
    await bus.join(ids, "late")
    result = await bus.add_room_members_to_rooms("late", "later")
    assert (result.matched, result.changed, result.missing) == (4, 4, [])
    for room in ("room", "moved", "later"):
        await bus.broadcast(room, room, None)
    heard = [("room", None), ("moved", None), ("later", None)]
    assert await stage.heard(*clients) == [heard] * 4, "nothing is delivered late, nothing is lost"
    await stage.client(1)
    for edge in stage.edges:
        assert await edge.metric("roomcast_nats_connected") == 1
        assert await edge.metric("roomcast_nats_reconnects_total") >= 1
        assert "Traceback" not in edge.log


async def test_nats_dies_again_and_again(stage: Arena, fresh_nats: NatsServer):
    bus, clients = stage.bus, await stage.clients(4)
    await bus.join([client.id for client in clients], "room")
    for number in range(3):
        await asyncio.to_thread(fresh_nats.kill)
        await asyncio.to_thread(fresh_nats.start)
        await until(lambda: is_back(bus, 4), 20, "the members are found again")
        await bus.broadcast("room", "news", number)
        assert await stage.heard(*clients) == [[("news", number)]] * 4
        assert (await bus.add_room_members_to_rooms("room", f"target.{number}")).changed == 4


async def test_nats_stalls(stage: Arena, fresh_nats: NatsServer):
    bus, clients = stage.bus, await stage.clients(2)
    ids = [client.id for client in clients]
    await bus.join(ids, "room")
    fresh_nats.stall()
    try:
        await all_fail_in_time(bus, ids[0])
        await until(lambda: not bus.nats.is_connected, what="the Bus notices")
        with pytest.raises(BusUnavailable):
            await bus.broadcast("room", "lost", None)
        assert "data" in await clients[0].emit("bus:ping")
    finally:
        fresh_nats.resume()
    await until(lambda: is_back(bus, 2), 20, "the members are found again")
    assert (await bus.add_room_members_to_rooms("room", "target")).changed == 2
    await bus.broadcast("target", "news", 1)
    for heard in await stage.heard(*clients):
        assert heard == [("news", 1)]
    # Nobody knows of a call that ran into its timeout whether it was done, but asking again is safe.
    await bus.leave(ids, "late")
    assert await bus.rooms(ids[0]) == {"room", "target"}


async def test_an_edge_that_starts_without_nats_waits_for_it(fresh_nats: NatsServer, prefix):
    await asyncio.to_thread(fresh_nats.stop)
    edge = EdgeProcess(fresh_nats.urls, prefix)
    port = Port()
    edge.admin_port = port.number
    try:
        began = time.monotonic()
        await edge.start(ready=False)
        await until(lambda: len(_complaints(edge)) >= 2, 15, "it says twice what it waits for")
        assert len(_complaints(edge)) <= 1 + (time.monotonic() - began) / 2.5, "a line every few seconds"
        assert all("127.0.0.1" in line or "NATS" in line for line in _complaints(edge)), edge.log
        assert (await edge.get("/healthz"))[0] == 200
        assert (await edge.get("/readyz"))[0] == 503
        await asyncio.to_thread(fresh_nats.start)
        await edge.is_ready()
        assert (await edge.get("/readyz"))[0] == 200
        client = await Client.open(edge.url)
        async with Bus.connect(fresh_nats.url, prefix=prefix) as bus:
            await bus.join(client.id, "room")
            await bus.broadcast("room", "news", 1)
        assert await client.hears(1) == [("news", 1)]
        await client.close()
        assert "Traceback" not in edge.log
    finally:
        await edge.close()
        port.release()


def _complaints(edge: EdgeProcess) -> list[str]:
    return [line for line in edge.log.splitlines() if re.search(r"WARNING|ERROR", line)]


async def test_an_edge_that_waits_for_nats_ends_when_it_is_told_to(fresh_nats: NatsServer, prefix):
    await asyncio.to_thread(fresh_nats.stop)
    edge = EdgeProcess(fresh_nats.urls, prefix)
    try:
        await edge.start(ready=False)
        await until(lambda: _complaints(edge), 15, "it says what it waits for")
        assert await edge.stop(within=5) == 0
        assert "Traceback" not in edge.log
    finally:
        await edge.close()


async def test_a_bus_that_connects_to_nobody_says_so_in_time():
    port = Port()
    began = time.monotonic()
    with pytest.raises(BusUnavailable, match=str(port.number)):
        await Bus.connect(f"nats://127.0.0.1:{port.number}")
    assert time.monotonic() - began < 8
    port.release()


async def test_a_bus_reconnects_for_ever(stage: Arena, fresh_nats: NatsServer):
    bus = stage.bus
    assert bus.nats.options["max_reconnect_attempts"] == -1
    client = await stage.client()
    await bus.join(client.id, "room")
    await asyncio.to_thread(fresh_nats.kill)
    await until(lambda: _attempts(bus) > 5, 20, "it tries again and again")
    await asyncio.to_thread(fresh_nats.start)
    await until(lambda: is_back(bus, 1), 20, "the member is found again")
    await bus.broadcast("room", "news", 1)
    assert await stage.heard(client) == [[("news", 1)]]


def _attempts(bus: Bus) -> int:
    return max(server.reconnects for server in bus.nats._server_pool)
