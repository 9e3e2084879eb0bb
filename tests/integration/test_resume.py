"""Resume: a client that comes back with its session has its id and rooms again, whatever became of its edge."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from roomcast import Bus, BusTimeout, SocketNotFound
from roomcast_edge.records import secret_hash
from support.bucket import bucket_view
from support.until import until
from support.websocket_client import Client

REPLACED, KICKED, DRAINING = 4503, 4502, 1012
RACES = 25


@pytest.fixture
async def bus(nats, prefix):
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        yield bus


@pytest.fixture
async def edges(nats, prefix, start_edge):
    """Two edges, of which the first is the one that a test breaks."""
    return [await start_edge(nats.urls, resume_window=60), await start_edge(nats.urls, resume_window=60)]


async def resumes(client: Client, url: str) -> Client:
    """Come back as this client, which has lost its connection, and find id and session unchanged."""
    back = await Client.open(url, session=client.session)
    assert (back.id, back.resumed) == (client.id, True), "the socket is the same"
    assert back.session == client.session, "the secret stays: a lost greeting must not lose the session"
    return back


async def hears_casts_of(bus: Bus, client: Client, rooms: list[str], others: list[str]) -> None:
    """Judge membership by what the client hears: casts to these rooms, and none to the others."""
    del client.events[:]
    for room in [*others, *rooms]:
        await bus.broadcast(room, "cast", room)
    await bus.blast("end", None)
    await client.hears_event("end")
    assert [data for event, data in client.events if event == "cast"] == rooms


async def is_away(bus: Bus, client: Client) -> None:
    """Wait until no edge holds the client's socket."""

    async def away() -> bool:
        try:
            return await bus.get(client.id, timeout=0.5) is None
        except BusTimeout:  # what was asked in the moment in which the edge died hangs
            return False

    await until(away, 10, "the edge notices that the connection is gone")


# -- the ways in which a connection ends ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1], ids=["same edge", "other edge"])
async def test_a_dropped_connection_is_resumed(bus, edges, where):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, ["a", "b"])
    client.drop()
    back = await resumes(client, edges[where].url)
    assert await bus.rooms(back.id) == {"a", "b"}
    await hears_casts_of(bus, back, ["a", "b", back.id], ["c"])
    await back.close()


async def test_a_socket_is_resumed_again_and_again(bus, edges):
    client = await Client.open(edges[0].url)
    rooms = []
    for number in range(6):
        rooms.append(f"room-{number}")
        await bus.join(client.id, rooms[-1])
        client.drop()
        client = await resumes(client, edges[(number + 1) % 2].url)
        await hears_casts_of(bus, client, rooms, [])
    await client.close()


async def test_a_cast_that_is_sent_at_once_after_the_greeting_is_heard(bus, edges):
    """Its rooms are heard before the session is taken up: NATS knows of them when the client is greeted."""
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    for number in range(60):
        client.drop()
        client = await resumes(client, edges[(number + 1) % 2].url)
        await bus.broadcast("room", "cast", number)
        await bus.blast("end", number)
        await client.hears_that(lambda c=client, n=number: ("end", n) in c.events, what="the end")
        assert ("cast", number) in client.events, f"round {number}"
    await client.close()


async def test_a_graceful_stop_sends_clients_to_another_edge(bus, edges):
    clients = [await Client.open(edges[0].url) for _ in range(20)]
    for client in clients:
        await bus.join(client.id, "all")
    assert await edges[0].stop() == 0
    assert {await client.is_closed() for client in clients} == {DRAINING}
    clients = await asyncio.gather(*[resumes(client, edges[1].url) for client in clients])
    assert await bus.count("all") == 20
    for client in clients:
        await hears_casts_of(bus, client, ["all"], ["other"])
        await client.close()


async def test_kill_minus_nine_of_the_edge_loses_nothing(bus, edges):
    clients = [await Client.open(edges[0].url) for _ in range(20)]
    for number, client in enumerate(clients):
        await bus.join(client.id, ["all", f"own-{number}"])
    await bus.leave(clients[0].id, "all")
    await bus.add_room_members_to_rooms("all", "moved")
    await edges[0].kill()
    assert {await client.is_closed() for client in clients} == {1006}
    clients = await asyncio.gather(*[resumes(client, edges[1].url) for client in clients])
    await hears_casts_of(bus, clients[0], ["own-0"], ["all", "moved", "own-1"])
    await hears_casts_of(bus, clients[1], ["own-1", "all", "moved"], ["own-0"])
    assert await bus.count("moved") == 19
    await asyncio.gather(*[client.close() for client in clients])


@pytest.mark.parametrize("where", [0, 1], ids=["same edge", "other edge"])
async def test_the_stale_connection_is_closed_when_its_edge_still_believes_in_it(bus, edges, where):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    back = await resumes(client, edges[where].url)
    assert await client.is_closed() == REPLACED
    await hears_casts_of(bus, back, ["room", back.id], [])
    assert client.events == [], "what is cast after the takeover reaches the new connection alone"
    assert await bus.count("room") == 1
    await bus.join(back.id, "later")
    assert await bus.rooms(back.id) == {"room", "later"}, "the stale connection's end leaves the record alone"
    await back.close()


async def test_the_session_of_a_stalled_edge_is_taken_up_and_the_edge_lets_go_later(bus, edges):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    edges[0].signal(signal.SIGSTOP)
    back = await resumes(client, edges[1].url)
    await hears_casts_of(bus, back, ["room"], [])
    edges[0].signal(signal.SIGCONT)
    assert await client.is_closed(15) == REPLACED
    await bus.join(back.id, "later")
    await hears_casts_of(bus, back, ["room", "later"], [])
    await back.close()


# -- who may not resume --------------------------------------------------------------------------------------------


async def greets_a_stranger(edges: list, session: str, victim: Client) -> None:
    """A session that is not one gets a new socket, which has nothing of the victim's."""
    for edge in edges:
        stranger = await Client.open(edge.url, session=session)
        assert stranger.resumed is False
        assert stranger.id != victim.id
        assert stranger.session != session
        await stranger.close()


async def test_a_forged_session_greets_a_new_socket_and_learns_nothing(bus, edges):
    victim = await Client.open(edges[0].url)
    await bus.join(victim.id, "secret-room")
    name, secret = victim.session.rsplit(".", 1)
    forged = f"{name}.{'A' * len(secret)}"
    stranger = await Client.open(edges[1].url, session=forged)
    assert (stranger.resumed, stranger.id == victim.id) == (False, False)
    assert await bus.rooms(stranger.id) == frozenset()
    await hears_casts_of(bus, stranger, [], ["secret-room", victim.id])
    await stranger.close()
    never = await Client.open(edges[1].url, session=f"{name}x.{secret}")
    assert set(vars(never)) == set(vars(stranger)), "a wrong secret and an unknown id look the same"
    await never.close()
    await greets_a_stranger(edges, forged, victim)
    await hears_casts_of(bus, victim, ["secret-room"], [])  # nobody has disturbed it
    await victim.close()


@pytest.mark.parametrize(
    "session",
    ["x", "..", "a.b", "a.b.c.d", "....", "é.ü.ö", "*.>.x", "edge.>.secret", "a" * 2000, "\x7f.b.c", "a b.c d.e f"],
)
async def test_a_malformed_session_greets_a_new_socket(edges, session):
    quoted = "".join(f"%{byte:02X}" for byte in session.encode())
    client = await Client.open(f"{edges[0].url}?session={quoted}")
    assert client.resumed is False
    assert client.id.startswith(edges[0].id + ".")
    await client.close()


async def test_the_session_of_a_client_that_left_is_stale(bus, edges):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    await client.close(1000)

    async def gone() -> bool:
        try:
            await bus.join(client.id, "room")
        except SocketNotFound:
            return True
        return False

    await until(gone, 5, "a deliberate close ends the session at once")
    await greets_a_stranger(edges, client.session, client)


async def test_the_old_connection_is_replaced_but_its_session_is_the_client_s(bus, edges):
    """Two tabs with one session: the later one has it; the earlier one may come back and has it again."""
    first = await Client.open(edges[0].url)
    second = await resumes(first, edges[1].url)
    assert await first.is_closed() == REPLACED
    again = await resumes(first, edges[0].url)
    assert await second.is_closed() == REPLACED
    await again.close()


async def test_a_kicked_socket_cannot_resume(bus, edges):
    by_id, by_room, away_by_id, away_by_room = [await Client.open(edges[0].url) for _ in range(4)]
    await bus.join([by_room.id, away_by_room.id], "kicked")
    for client in (away_by_id, away_by_room):
        client.drop()
        await is_away(bus, client)
    await bus.disconnect(by_id.id, reason="you")
    await bus.disconnect("kicked", reason="all")
    await bus.disconnect(away_by_id.id)
    assert (await by_id.is_closed(), by_id.close_reason) == (KICKED, "you")
    assert (await by_room.is_closed(), by_room.close_reason) == (KICKED, "all")
    for client in (by_id, by_room, away_by_id, away_by_room):
        await greets_a_stranger(edges, client.session, client)
        with pytest.raises(SocketNotFound):
            await bus.join(client.id, "room")


async def test_the_secret_is_kept_only_as_a_hash(nats, prefix, bus, edges):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    await bus.add_room_members_to_rooms("room", "more")
    client.drop()
    client = await resumes(client, edges[1].url)
    secret = client.session.rsplit(".", 1)[1]
    async with bucket_view(nats.url, prefix) as bucket:
        messages = {key: await bucket.get(key) for key in await bucket.keys()}
    assert len(messages) >= 4, "a record, a move, two leases"
    for key, message in messages.items():
        assert secret.encode() not in (message.data or b""), f"{key} has the secret"
        assert secret not in key
    assert secret_hash(secret).encode() in messages[f"socket.{client.id}"].data
    assert all(secret not in edge.log for edge in edges), "nor does a log have it"
    await client.close()


# -- races ---------------------------------------------------------------------------------------------------------


async def test_two_edges_race_for_one_session_and_never_both_have_it(bus, edges):
    """Many rounds; in each the session is with one connection at the end, and the other was told so."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    new_sockets = replaced = 0
    for number in range(RACES):
        client.drop()
        if rng.random() < 0.5:
            await is_away(bus, client)
        session, name = client.session, client.id
        racers = await asyncio.gather(*[Client.open(edge.url, session=session) for edge in edges])
        holders = [racer for racer in racers if racer.resumed]
        assert holders, f"round {number}: somebody has the session"
        for racer in racers:
            assert racer.resumed == (racer.id == name), "resumed is told of the old id alone"
        if len(holders) == 2:  # one came after the other, which then was closed
            replaced += 1
            loser_is_told = [asyncio.ensure_future(holder.is_closed(10)) for holder in holders]
            closed, open_ = await asyncio.wait(loser_is_told, return_when=asyncio.FIRST_COMPLETED)
            assert len(closed) == 1, f"round {number}: one of them stands"
            assert closed.pop().result() == REPLACED
            still = open_.pop()
            client = holders[loser_is_told.index(still)]
            still.cancel()
            await asyncio.gather(still, return_exceptions=True)
        else:
            new_sockets += 1
            client = holders[0]
            stranger = next(racer for racer in racers if racer is not client)
            assert await bus.rooms(stranger.id) == frozenset(), "the other has nothing of it"
            await stranger.close()
        assert await bus.count("room") == 1, f"round {number}: one edge has it"
        await hears_casts_of(bus, client, ["room", name], [])
    print(f"{new_sockets} rounds in which the other was greeted as new, {replaced} in which it was replaced at once")
    await client.close()


async def test_a_storm_of_resumes_with_one_session_ends_with_one_socket(bus, edges):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    client.drop()
    racers = await asyncio.gather(*[Client.open(edges[n % 2].url, session=client.session) for n in range(12)])

    async def one_stands() -> bool:
        holding = [racer for racer in racers if racer.resumed and racer.close_code is None]
        return len(holding) == 1 and await bus.count("room") == 1

    await until(one_stands, 10, "one connection has the session")
    await bus.join(client.id, "later")
    assert await bus.rooms(client.id) == {"room", "later"}
    await asyncio.gather(*[racer.close() for racer in racers])


# -- while away ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True], ids=["dropped", "edge killed"])
async def test_changes_made_while_it_is_away_hold_when_it_is_back(bus, edges, killed):
    client, witness = await Client.open(edges[0].url), await Client.open(edges[1].url)
    await bus.join([client.id, witness.id], ["left-by-move", "emptied", "source"])
    await bus.join(client.id, ["left-by-id", "stays"])
    if killed:
        await edges[0].kill()
    else:
        client.drop()
    await is_away(bus, client)
    assert (await bus.join(client.id, ["joined-by-id", "both"])).changed is True
    assert (await bus.join(client.id, "joined-by-id")).changed is False, "it is in there already"
    assert (await bus.leave(client.id, ["left-by-id", "both"])).changed is True
    await bus.move("source", join="joined-by-move", leave="left-by-move")
    await bus.add_room_members_to_rooms("joined-by-id", "follows")  # a move of a room that it joined while away
    await bus.leave_all("emptied")
    expected = {"joined-by-id", "source", "stays", "joined-by-move", "follows"}
    assert await bus.rooms(client.id) == expected, "what is told of it while it is away"
    back = await resumes(client, edges[1].url)
    assert await bus.rooms(client.id) == expected
    await hears_casts_of(bus, back, sorted(expected), ["left-by-id", "both", "left-by-move", "emptied"])
    await asyncio.gather(back.close(), witness.close())


async def test_leave_all_everywhere_while_away_takes_it_out_of_every_room(bus, edges):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, ["a", "b", "c"])
    client.drop()
    await is_away(bus, client)
    await bus.leave_all("b", everywhere=True)
    await bus.join(client.id, "d")
    back = await resumes(client, edges[1].url)
    await hears_casts_of(bus, back, ["d"], ["a", "b", "c"])
    await back.close()


async def test_a_thousand_changes_while_away_are_replayed_in_order(bus, edges):
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    client = await Client.open(edges[0].url)
    rooms = [f"r{n}" for n in range(8)]
    await bus.join(client.id, "r0")
    expected = {"r0"}
    client.drop()
    await is_away(bus, client)
    for _ in range(150):
        source, target = rng.choice(rooms), rng.choice(rooms)
        verb = rng.choice(["join", "leave", "move", "remove"])
        if verb == "join":
            await bus.join(client.id, target)
            expected.add(target)
        elif verb == "leave":
            await bus.leave(client.id, target)
            expected.discard(target)
        elif verb == "move":
            await bus.add_room_members_to_rooms(source, target)
            expected |= {target} if source in expected else set()
        else:
            await bus.remove_room_members_from_rooms(source, target)
            expected -= {target} if source in expected else set()
    back = await resumes(client, edges[1].url)
    assert await bus.rooms(back.id) == expected, f"seed {seed}"
    await hears_casts_of(bus, back, sorted(expected), sorted(set(rooms) - expected))
    await back.close()


async def test_after_the_resume_window_it_is_gone(nats, prefix, bus, start_edge):
    edges = [await start_edge(nats.urls, resume_window=1), await start_edge(nats.urls, resume_window=1)]
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    client.drop()

    async def gone() -> bool:
        try:
            await bus.rooms(client.id)
        except SocketNotFound:
            return True
        return False

    await until(gone, 8, "the resume window is over")
    with pytest.raises(SocketNotFound):
        await bus.join(client.id, "room")
    assert (await bus.leave(client.id, "room")).changed is False, "leaving is no error"
    await greets_a_stranger(edges, client.session, client)
    async with bucket_view(nats.url, prefix) as bucket:

        async def purged() -> bool:
            return f"socket.{client.id}" not in await bucket.keys("socket.>")

        await until(purged, 8, "nothing is left of it")


async def test_a_socket_that_came_back_lives_longer_than_the_resume_window(nats, prefix, bus, start_edge):
    edge = await start_edge(nats.urls, resume_window=1)
    client = await Client.open(edge.url)
    await bus.join(client.id, "room")
    client.drop()
    await is_away(bus, client)
    back = await resumes(client, edge.url)
    other = await Client.open(edge.url)
    other.drop()

    async def other_is_gone() -> bool:
        try:
            await bus.rooms(other.id)
        except SocketNotFound:
            return True
        return False

    await until(other_is_gone, 8, "a window that began later is over")
    assert await bus.rooms(back.id) == {"room"}
    back.drop()
    await (await resumes(back, edge.url)).close()
