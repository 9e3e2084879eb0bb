"""An edge that is cut off from NATS: it misses no move, and delivers nothing that a move has forbidden meanwhile."""

from __future__ import annotations

import asyncio
import random
import time

import orjson
import pytest

from roomcast import Bus, BusTimeout, MoveIncomplete
from roomcast_edge import server
from roomcast_edge.server import Edge
from roomcast_edge.settings import Settings
from support.bucket import BucketView, bucket_view
from support.chaos import length, seeded
from support.proxy import StallProxy
from support.until import until
from support.websocket_client import Client

CUT_SECONDS = length(3, 10)
MOVES = length(300, 1000)
CLIENTS = 12
ROOMS = [f"r{n}" for n in range(8)]
UNDER_WAY = 100


async def make_moves(bus: Bus, rng: random.Random, count: int) -> tuple[int, list[MoveIncomplete]]:
    """Random moves, many at once; how many were complete, and the errors of those that were not."""
    window = asyncio.Semaphore(UNDER_WAY)
    incomplete: list[MoveIncomplete] = []
    unknown: list[str] = []

    async def move() -> None:
        source = rng.choice(ROOMS)
        join, leave = rng.sample(ROOMS, 2)
        async with window:
            try:
                await bus.move(source, join=join, leave=leave, timeout=1.5)
            except MoveIncomplete as error:
                incomplete.append(error)
            except BusTimeout:  # NATS chose the stalled edge, again and again: nobody knows, and that is said
                unknown.append(source)

    await asyncio.gather(*[move() for _ in range(count)])
    assert len(unknown) <= count // 10, "the caller almost always learns who did not answer"
    return count - len(incomplete) - len(unknown), incomplete


async def replayed(bucket: BucketView, rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """What a naive reader of the log, in stream order, makes of these memberships."""
    entries = [await bucket.get(key) for key in await bucket.keys("move.>")]
    for entry in sorted(entries, key=lambda entry: entry.seq):
        move = orjson.loads(entry.data)
        for own, inside in rooms.items():
            if move["from"] in inside or move["from"] == own:
                inside -= set(move.get("leave", ()))
                inside |= set(move.get("join", ()))
    return rooms


@pytest.mark.parametrize("how", ["stall", "cut"])
async def test_a_cut_off_edge_has_all_moves_in_order_once_it_is_back(nats, prefix, start_edge, how):
    rng = seeded()
    async with (
        StallProxy(nats.url) as proxy,
        Bus.connect(nats.url, prefix=prefix) as bus,
        bucket_view(nats.url, prefix) as bucket,
    ):
        cut_off, other = await start_edge([proxy.url]), await start_edge(nats.urls)
        clients = [await Client.open(edge.url) for edge in (cut_off, other) for _ in range(CLIENTS)]
        rooms = {client.id: set(rng.sample(ROOMS, 3)) for client in clients}
        for client in clients:
            await bus.join(client.id, sorted(rooms[client.id]))
        if how == "stall":
            proxy.stall()
        else:
            proxy.refuse()
            proxy.cut()
        cut_at = time.monotonic()
        complete, incomplete = await make_moves(bus, rng, MOVES)
        for error in incomplete:
            assert error.result.missing == [cut_off.id], "the caller is told who did not answer"
            assert set(error.result.edges) == {other.id}
        if how == "stall":
            assert incomplete, "while its connection stands, the edge is waited for"
        await asyncio.sleep(max(0.0, cut_at + CUT_SECONDS - time.monotonic()))
        back_at = time.monotonic()
        if how == "stall":
            proxy.resume()
        else:
            await proxy.accept()
        result = await until(lambda: _complete(bus, {cut_off.id, other.id}), 15, "the edge takes part again")
        print(
            f"{how}: {complete} complete, {len(incomplete)} incomplete, cut off for {back_at - cut_at:.1f} s, "
            f"in step {time.monotonic() - back_at:.1f} s later"
        )
        assert result is not None
        expected = await replayed(bucket, rooms)
        for client in clients:
            assert await bus.rooms(client.id) == expected[client.id], "all moves, in order"
        for room in ROOMS:
            await bus.broadcast(room, "cast", room)
        await bus.blast("end", None)
        for client in clients:
            await client.hears_event("end")
            assert {data for event, data in client.events if event == "cast"} == expected[client.id]
            await client.close()


async def _complete(bus: Bus, edges: set[str]) -> bool:
    try:
        return set((await bus.move("nobody", join="nowhere", timeout=1)).edges) == edges
    except (MoveIncomplete, BusTimeout):
        return False


async def test_between_reconnect_and_the_end_of_the_log_no_removed_member_hears_a_cast(nats, prefix, start_edge):
    """Casts flow all the time; the moves that remove members are made while their edge is cut off."""
    async with StallProxy(nats.url) as proxy, Bus.connect(nats.url, prefix=prefix) as bus:
        cut_off, _other = await start_edge([proxy.url]), await start_edge(nats.urls)
        removed = [await Client.open(cut_off.url) for _ in range(6)]
        kept = [await Client.open(cut_off.url) for _ in range(6)]
        await bus.join([client.id for client in removed + kept], "secret")
        await bus.join([client.id for client in removed], "suspects")
        sent = 0
        over = False

        async def cast() -> None:
            nonlocal sent
            while not over:
                sent += 1
                await bus.broadcast("secret", "cast", sent)
                await bus.blast("tick", sent)
                await asyncio.sleep(0.01)

        casting = asyncio.create_task(cast())
        for round_ in range(length(3, 10)):
            await kept[0].hears_that(lambda at=sent: heard_since(kept[0], at), 5, "casts")
            proxy.refuse()
            proxy.cut()
            for n in range(400):  # so that the end of the log is some way off
                bus.nats.send(f"{prefix}.api.move", b'{"from":"nobody","join":["filler-%d"]}' % n)
            await bus.remove_room_members_from_rooms("suspects", "secret")
            removed_at = sent
            await proxy.accept()
            await kept[0].hears_that(lambda at=removed_at: heard_since(kept[0], at), 10, "casts after the cut")
            for client in removed:
                await client.hears_that(lambda c=client, at=removed_at: heard_since(c, at), 10, "the blasts")
                late = [data for event, data in client.events if event == "cast" and data > removed_at]
                assert not late, f"round {round_}: heard {late[:5]} after the move that removed it ({removed_at})"
            assert await until(lambda: _matches(bus, "suspects", 6), 10, "the edge takes part again")
            for client in removed:
                del client.events[:]
            for client in kept:
                numbers = [data for event, data in client.events if event == "cast"]
                assert numbers == sorted(set(numbers)), "in order, at most once"
        over = True
        await casting
        held = await cut_off.metric("roomcast_casts_dropped_total")
        print(f"{sent} casts; held too long or dropped: {held:.0f}")
        await asyncio.gather(*[client.close() for client in removed + kept])


def heard_since(client: Client, number: int) -> bool:
    """Whether a client has heard anything that was sent after this number."""
    return bool(client.events) and client.events[-1][1] > number


async def _matches(bus: Bus, room: str, count: int) -> bool:
    try:
        return (await bus.move(room, join="secret", timeout=1)).matched == count
    except (MoveIncomplete, BusTimeout):
        return False


async def test_a_session_that_was_taken_up_while_its_edge_was_cut_off_is_let_go(nats, prefix, start_edge):
    """Nobody could ask the edge to let go; a note in the log tells it before it delivers anything."""
    async with StallProxy(nats.url) as proxy, Bus.connect(nats.url, prefix=prefix) as bus:
        cut_off, other = await start_edge([proxy.url]), await start_edge(nats.urls)
        client = await Client.open(cut_off.url)
        await bus.join(client.id, "room")
        proxy.refuse()
        proxy.cut()
        back = await Client.open(other.url, session=client.session)
        assert (back.id, back.resumed) == (client.id, True)
        await bus.broadcast("room", "cast", 1)
        await proxy.accept()
        assert await client.is_closed(10) == 4503
        assert client.events == [], "the stale connection hears nothing of it"
        assert await back.hears_event("cast") == 1
        await bus.join(back.id, "later")
        assert await bus.rooms(back.id) == {"room", "later"}
        assert await bus.count("room") == 1
        await back.close()


async def test_an_edge_that_lost_its_place_in_the_log_sends_its_clients_away(nats, prefix, start_edge, monkeypatch):
    """Moves live for hours; here an edge in this process believes that they live for less than it was cut off."""
    async with StallProxy(nats.url) as proxy, Bus.connect(nats.url, prefix=prefix) as bus:
        other = await start_edge(nats.urls)
        edge = Edge(Settings(nats=(proxy.url,), prefix=prefix, listen=("127.0.0.1", 0), admin=("127.0.0.1", 0)))
        await edge.start()
        try:
            assert edge.listener is not None
            client = await Client.open(f"ws://127.0.0.1:{edge.listener.port}/ws")
            await bus.join(client.id, ["room", "left"])
            monkeypatch.setattr(server, "MOVE_TTL", 60.0)  # what of it is left after the margin: nothing
            proxy.refuse()
            proxy.cut()
            await bus.move("room", join="joined", leave="left")
            await proxy.accept()
            assert await client.is_closed(10) == 4000
            back = await Client.open(other.url, session=client.session)
            assert (back.resumed, await bus.rooms(back.id)) == (True, {"room", "joined"})
            await back.close()
        finally:
            await edge.stop()
