"""The guarantees, each by a test that fails when the mechanism behind it is taken out."""

from __future__ import annotations

import asyncio
import random

import pytest

from roomcast import Bus
from support.arena import Arena, arena, spread
from support.flood import Flood
from support.until import until

pytestmark = pytest.mark.cluster


@pytest.fixture
async def stage(cluster, prefix, start_edge):
    """Two edges on two nodes, and a Bus on the third."""
    edge_urls, bus_url = spread(cluster.urls)
    async with arena(edge_urls, bus_url, prefix, start_edge, kv_replicas=3, outbox_limit=256 * 1024) as made:
        yield made


# -- 1: an awaited change is seen by the next cast, on every edge ------------------------------------------------------


async def test_after_an_awaited_join_the_next_cast_arrives(stage: Arena):
    clients = await stage.clients(4)
    for number in range(500):
        client = clients[number % 4]
        room = f"fresh.{number}"  # nobody hears it yet: the edge must have subscribed before it answers
        await stage.bus.join(client.id, room)
        await stage.bus.broadcast(room, "news", number)
    for turn, heard in enumerate(await stage.heard(*clients)):
        assert [data for _, data in heard] == list(range(turn, 500, 4)), f"client {turn} missed a cast after its join"


async def test_after_an_awaited_join_of_a_resumed_socket_the_next_cast_arrives(stage: Arena):
    # Its id names the edge that it left, so the change goes by way of a coordinator to the owner.
    guest = await stage.client(0)
    guest.drop()
    client = await stage.client(1, session=guest.session)
    assert (client.id, client.resumed) == (guest.id, True), "it came back to the other edge"
    for number in range(100):
        await stage.bus.join(client.id, f"fresh.{number}")
        await stage.bus.broadcast(f"fresh.{number}", "news", number)
    [heard] = await stage.heard(client)
    assert [data for _, data in heard] == list(range(100)), "the owner's answer came before its interest"


async def test_after_an_awaited_leave_no_later_cast_arrives(stage: Arena):
    clients = await stage.clients(2)
    for number in range(200):
        client = clients[number % 2]
        await stage.bus.join([client.id for client in clients], "room")
        await stage.bus.leave(client.id, "room")
        await stage.bus.broadcast("room", "news", number)
    for turn, heard in enumerate(await stage.heard(*clients)):
        assert [data for _, data in heard] == list(range(1 - turn, 200, 2)), f"client {turn} heard a room it had left"


async def test_after_an_awaited_bulk_change_the_next_cast_arrives_at_all(stage: Arena):
    clients = await stage.clients(6)
    await stage.bus.join([client.id for client in clients], "source")
    for number in range(200):
        result = await stage.bus.add_room_members_to_rooms("source", f"target.{number}")
        await stage.bus.broadcast(f"target.{number}", "news", number)
        assert (result.matched, result.changed) == (6, 6), result
    for turn, heard in enumerate(await stage.heard(*clients)):
        assert [data for _, data in heard] == list(range(200)), f"client {turn} missed a cast after a bulk change"


async def test_a_bulk_change_is_confirmed_by_each_edge_itself(stage: Arena, cluster, prefix):
    # While the route from an edge's node to ours is busy, a coordinator elsewhere may answer before that edge's new
    # interest reaches our node; the edge's own word, behind its interest on the same route, cannot.
    clients = await stage.clients(2)
    await stage.bus.join([client.id for client in clients], "source")
    missed = []
    for side in (0, 1):
        with Flood(cluster.urls[side], cluster.urls[2], f"{prefix}-flood") as flood:
            await until(lambda flood=flood: flood.received > 10, what="the route is busy")
            for number in range(25):
                room = f"target.{side}.{number}"
                await stage.bus.add_room_members_to_rooms("source", room, timeout=10)
                await stage.bus.broadcast(room, room, None)
        for heard in await stage.heard(*clients):
            events = {event for event, _ in heard}
            missed += [number for number in range(25) if f"target.{side}.{number}" not in events]
    assert not missed, f"{len(missed)} of 100 casts after a confirmed bulk change were not heard"


async def test_after_an_awaited_leave_all_no_later_cast_arrives(stage: Arena):
    clients = await stage.clients(4)
    ids = [client.id for client in clients]
    for number in range(60):
        await stage.bus.join(ids, "room")
        await stage.bus.leave_all("room")
        await stage.bus.broadcast("room", "news", number)
    assert await stage.heard(*clients) == [[], [], [], []]


# -- 2: casts of one publisher keep their order, across all rooms ------------------------------------------------------


async def test_the_casts_of_one_publisher_arrive_in_order_across_rooms(stage: Arena):
    clients = await stage.clients(4)
    rooms = [f"room.{number}" for number in range(50)]
    for client in clients:
        await stage.bus.join(client.id, rooms)
    direct = {client.id: index for index, client in enumerate(clients)}
    source = random.Random(7)
    expected: list[list[int]] = [[] for _ in clients]
    for number in range(5000):
        if source.random() < 0.05:  # a word to one socket, between the others
            client = source.choice(clients)
            await stage.bus.broadcast(client.id, "news", number)
            expected[direct[client.id]].append(number)
            continue
        if source.random() < 0.05:
            await stage.bus.blast("news", number)
        else:
            await stage.bus.broadcast(source.choice(rooms), "news", number)
        for heard in expected:
            heard.append(number)
        if source.random() < 0.01:
            await stage.bus.flush()
    for turn, heard in enumerate(await stage.heard(*clients)):
        numbers = [data for _, data in heard]
        assert sorted(numbers) == expected[turn], f"client {turn} missed casts, or got some twice"
        assert numbers == expected[turn], f"client {turn} heard them in another order than they were published"


async def test_casts_and_changes_of_one_publisher_keep_their_order(stage: Arena):
    # The room has a resident on each edge, so every cast arrives there; the visitor's stay is exactly as long as what
    # was published between its join and its leave, though all reach the edge at once.
    for side in (0, 1):
        resident, visitor = await stage.client(side), await stage.client(side)
        await stage.bus.join(resident.id, "room")
        for number in range(100):
            await asyncio.gather(
                stage.bus.broadcast("room", "before", number),
                stage.bus.join(visitor.id, "room"),
                stage.bus.broadcast("room", "during", number),
                stage.bus.leave(visitor.id, "room"),
                stage.bus.broadcast("room", "after", number),
            )
        all_of, some_of = await stage.heard(resident, visitor)
        rows = [(event, number) for number in range(100) for event in ("before", "during", "after")]
        assert all_of == rows
        assert some_of == [("during", number) for number in range(100)]
        await stage.bus.leave_all("room")


async def test_a_cast_before_a_disconnect_arrives(stage: Arena):
    for side in (0, 1):
        for number in range(30):
            client = await stage.client(side)
            await asyncio.gather(stage.bus.blast("last", number), stage.bus.disconnect(client.id, reason="enough"))
            assert await client.is_closed() == 4502
            assert client.events == [("last", number)], "what was cast before the disconnect was lost"


# -- 3: at most one copy, and none for who is left out -----------------------------------------------------------------


async def test_several_rooms_at_once_bring_one_copy_each(stage: Arena):
    clients = await stage.clients(8)
    rooms = ["a", "b", "c", "d.e", "with space", "ü"]
    source = random.Random(11)
    member: dict[str, set[int]] = {room: set() for room in rooms}
    for index, client in enumerate(clients):
        mine = source.sample(rooms, source.randint(0, len(rooms)))
        for room in mine:
            member[room].add(index)
        if mine:
            await stage.bus.join(client.id, mine)
    own = {client.id: {index} for index, client in enumerate(clients)}
    everyone = {**member, **own}
    expected: list[list[int]] = [[] for _ in clients]
    for number in range(400):
        named = source.sample(sorted(everyone), source.randint(1, 5))
        excepted = source.sample(sorted(everyone), source.choice([0, 0, 1, 2]))
        omitted = source.choice([None, None, *range(len(clients))])
        omit = None if omitted is None else clients[omitted].id
        await stage.bus.broadcast(named, "news", number, omit, except_rooms=excepted)
        gets = set().union(*[everyone[room] for room in named]) - set().union(*[everyone[room] for room in excepted])
        for index in gets - {omitted}:
            expected[index].append(number)
        if number % 10 == 0:
            await stage.bus.blast("news", -number, omit, except_rooms=excepted)
            left_out = set().union(*[everyone[room] for room in excepted]) | {omitted}
            for index in set(range(len(clients))) - left_out:
                expected[index].append(-number)
    heard = [[data for _, data in events] for events in await stage.heard(*clients)]
    assert heard == expected


# -- 6: a slow client costs a bounded amount, and delays nobody --------------------------------------------------------


async def test_a_client_that_does_not_read_is_ended_and_the_others_lose_nothing(stage: Arena, cluster, prefix):
    edge = stage.edges[0]
    slow = await stage.client(0, max_queue=1)
    good = await stage.clients(2)
    await stage.bus.join([slow.id, *[client.id for client in good]], "room")
    slow.ws.transport.pause_reading()
    text = "x" * 60_000
    count = 0
    async with Bus.connect(cluster.urls[1], prefix=prefix) as other:

        async def cast_until_ended() -> bool:
            nonlocal count
            for _ in range(20):
                await other.broadcast("room", "news", {"number": count, "text": text})
                count += 1
            await other.flush()
            await good[0].hears(count)
            waits = await edge.metric("roomcast_outbox_bytes")
            assert waits <= 256 * 1024 + 100_000, f"{waits} bytes wait for a client whose limit is 256 KiB"
            return await edge.metric("roomcast_slow_sockets_closed_total") == 1

        await until(cast_until_ended, 20, "the slow client is ended")
        for client in good:
            events = await client.hears(count)
            assert [data["number"] for _, data in events] == list(range(count))
            client.events.clear()
    assert await stage.bus.count("room") == 2
    slow.ws.transport.abort()
