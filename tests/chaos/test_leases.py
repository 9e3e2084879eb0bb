"""Leases: who counts as a live edge, when one is killed, stalled, or the stream elects a leader."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from nats.aio.msg import Msg

from roomcast import Bus, BusTimeout, BusUnavailable, Incomplete, MoveIncomplete
from support.bucket import BucketView, bucket_view
from support.edges import EdgeProcess
from support.nats_servers import NatsServer
from support.until import until
from support.websocket_client import Client

T = TypeVar("T")

OUT_WITHIN = 35.0
"""Seconds within which an edge that is silent has left ``edge.*``."""
AT_ONCE = 2.0


async def leases(bucket: BucketView) -> set[str]:
    """The edges that have a lease."""
    return {key.removeprefix("edge.") for key in await bucket.keys("edge.>")}


async def listed(bus: Bus, room: str) -> set[str]:
    """The members of a room, all of them."""
    return {socket.id async for socket in bus.members(room)}


async def test_a_killed_edge_is_known_at_once_and_its_lease_runs_out(nats, prefix, start_edge):
    killed, live = await start_edge(nats.urls), await start_edge(nats.urls)
    clients = [await Client.open(edge.url) for edge in (killed, live)]
    async with Bus.connect(nats.url, prefix=prefix) as bus, bucket_view(nats.url, prefix) as bucket:
        await bus.join([client.id for client in clients], "room")
        assert await leases(bucket) == {killed.id, live.id}
        await until(lambda: both_heard(bus, prefix, 2), 5, "the edges have heard each other")
        await killed.kill()
        began = time.monotonic()
        await until(
            lambda: _answers(bus, "room", 1), 2, "its death is known"
        )  # what was asked in its last moment hangs
        for verb, answer in {
            "count": bus.count("room"),
            "members": listed(bus, "room"),
            "move": bus.add_room_members_to_rooms("room", "more"),
            "join": bus.join(clients[0].id, "by-id"),
        }.items():
            asked = time.monotonic()
            print(verb, await answer, f"{time.monotonic() - asked:.2f} s")
            assert time.monotonic() - asked < AT_ONCE, f"{verb} waits for no edge that is dead"
        assert await bus.count("room") == 1
        for moment in (1, 2, 3, 4, 5, 7, 10):
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            asked = time.monotonic()
            assert await bus.count("room") == 1
            assert await listed(bus, "room") == {clients[1].id}
            assert (await bus.move("room", join="again")).matched == 1
            assert time.monotonic() - asked < AT_ONCE, f"complete {moment} s after its death"

        async def out() -> bool:
            return await leases(bucket) == {live.id}

        await until(out, OUT_WITHIN - (time.monotonic() - began), "the killed edge's lease runs out")
        print(f"out of edge.* after {time.monotonic() - began:.1f} s")
        back = await Client.open(live.url, session=clients[0].session)
        assert await bus.rooms(back.id) == {"room", "more", "by-id", "again"}
        await asyncio.gather(back.close(), clients[1].close())


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Ask again when nobody has answered: NATS may choose the stalled edge to answer for all, time after time."""
    for _ in range(4):
        with contextlib.suppress(BusTimeout):
            return await call()
    raise AssertionError("the stalled edge was chosen twenty times in a row")


async def is_named(bus: Bus, room: str, stalled: EdgeProcess, here: Client) -> None:
    """A bulk change, a count and a list name the stalled edge, and tell what the others know."""
    with pytest.raises(MoveIncomplete) as move:
        await insist(lambda: bus.add_room_members_to_rooms(room, "more", timeout=1))
    assert move.value.result.missing == [stalled.id]
    assert (move.value.result.matched, stalled.id in move.value.result.edges) == (1, False)
    with pytest.raises(Incomplete) as count:
        await insist(lambda: bus.count(room, timeout=0.7))
    assert (count.value.missing, count.value.known) == ([stalled.id], 1)
    assert await insist(lambda: bus.count(room, timeout=0.7, partial=True)) == 1
    seen: list[str] = []

    async def list_members() -> None:
        del seen[:]
        async for socket in bus.members(room, timeout=0.7):
            seen.append(socket.id)

    with pytest.raises(Incomplete) as members:
        await insist(list_members)
    assert (seen, members.value.missing) == ([here.id], [stalled.id]), "what is known comes first"


async def casts_flow(bus: Bus, client: Client, number: int) -> None:
    """A cast reaches a client of another edge within a moment."""
    await bus.broadcast("room", "cast", number)
    await client.hears_that(lambda: ("cast", number) in client.events, 1, f"cast {number}")


async def is_exact(bus: Bus, clients: list[Client]) -> bool:
    """Bulk changes, counts and lists know all of these; until they do, a count names who is missing."""
    try:
        assert await bus.count("room", timeout=0.7) == len(clients), "what does not say that it is incomplete is exact"
    except (Incomplete, BusUnavailable, BusTimeout):
        return False
    assert await listed(bus, "room") == {client.id for client in clients}
    return (await bus.add_room_members_to_rooms("room", "exact")).matched == len(clients)


async def test_a_stalled_edge_is_named_until_its_lease_is_gone(nats, prefix, start_edge):
    """NATS closes its connection long before that, and says what it says of a dead one."""
    stalled, live = await start_edge(nats.urls), await start_edge(nats.urls)
    here, there = await Client.open(live.url), await Client.open(stalled.url)
    async with Bus.connect(nats.url, prefix=prefix) as bus, bucket_view(nats.url, prefix) as bucket:
        await bus.join([here.id, there.id], "room")
        await until(lambda: both_heard(bus, prefix, 2), 5, "the edges have heard each other")
        stalled.signal(signal.SIGSTOP)
        began = time.monotonic()
        cut_at = 0.0
        for moment in (*range(0, 9, 2), 12, 16, 20, 24):
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            await is_named(bus, "room", stalled, here)
            await casts_flow(bus, here, moment)
            if not cut_at and not any(name_of(stalled) == name for name in connections(nats)):
                cut_at = time.monotonic()
        assert cut_at, "NATS has given the connection of the stalled edge up"
        print(f"NATS gave it up {cut_at - began:.1f} s after the stall, or a little before")
        asked = time.monotonic()
        assert (await bus.join(there.id, "by-id")).changed, "nobody holds it: the log of moves takes the change"
        assert time.monotonic() - asked < AT_ONCE

        async def out() -> bool:
            return await leases(bucket) == {live.id}

        await until(out, OUT_WITHIN - (time.monotonic() - began), "the stalled edge's lease runs out")
        assert await is_exact(bus, [here]), "at once"
        print(f"out of edge.*, and answers are exact, after {time.monotonic() - began:.1f} s")
        stalled.signal(signal.SIGCONT)
        await until(lambda: _answers(bus, "room", 2), 15, "the edge is back, and has its lease again")
        assert await is_exact(bus, [here, there])
        assert await bus.rooms(there.id) == {"room", "more", "by-id", "exact"}, "it has missed no change"
        assert await leases(bucket) == {live.id, stalled.id}
        await bus.broadcast("exact", "last", 1)
        assert await there.hears_event("last") == await here.hears_event("last") == 1
        await asyncio.gather(here.close(), there.close())


@pytest.mark.parametrize(("pings", "stalled_for"), [("2s", 2.5), ("2s", 8), ("2m", 8)])
async def test_a_stalled_edge_that_goes_on_is_named_no_longer(prefix, start_edge, pings, stalled_for):
    """Before and after NATS has closed its connection, and where NATS waits for minutes."""
    with NatsServer(f"ping_interval: {pings}") as nats:
        stalled, live = await start_edge(nats.urls), await start_edge(nats.urls)
        here, there = await Client.open(live.url), await Client.open(stalled.url)
        async with Bus.connect(nats.url, prefix=prefix) as bus:
            await bus.join([here.id, there.id], "room")
            await until(lambda: both_heard(bus, prefix, 2), 5, "the edges have heard each other")
            for _ in range(2):
                stalled.signal(signal.SIGSTOP)
                began = time.monotonic()
                while time.monotonic() < began + stalled_for:
                    await is_named(bus, "room", stalled, here)
                stalled.signal(signal.SIGCONT)
                resumed = time.monotonic()
                await until(lambda: is_exact(bus, [here, there]), 10, "all is exact again")
                print(f"exact {time.monotonic() - resumed:.1f} s after the stall of {stalled_for} s")
            await asyncio.gather(here.close(), there.close())


async def test_an_edge_that_was_stalled_itself_suspects_nobody(nats, prefix, start_edge):
    """It has heard nobody for seconds; an edge that is killed in that moment is dead for it at once."""
    stalled, killed = await start_edge(nats.urls), await start_edge(nats.urls)
    client = await Client.open(stalled.url)
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.join(client.id, "room")
        await until(lambda: both_heard(bus, prefix, 2), 5, "the edges have heard each other")
        stalled.signal(signal.SIGSTOP)
        await asyncio.sleep(3.0)
        await killed.kill()
        stalled.signal(signal.SIGCONT)
        await until(lambda: _answers(bus, "room", 1), 2, "nobody is missing")
        for _ in range(20):
            assert await bus.count("room") == 1
            await asyncio.sleep(0.2)
        await client.close()


async def both_heard(bus: Bus, prefix: str, count: int) -> bool:
    """Whether so many edges were heard to say that they live."""
    heard: set[bytes] = set()

    async def hear(message: Msg) -> None:
        heard.add(message.data)

    alive = await bus.nats.subscribe(f"{prefix}.alive", cb=hear)
    try:
        await until(lambda: len(heard) == count, 3, "heartbeats")
    finally:
        await alive.unsubscribe()
    return True


def connections(nats: NatsServer) -> list[str]:
    """The names of the clients of a server."""
    return [connection.get("name", "") for connection in nats.monitor("connz").get("connections") or ()]


def name_of(edge: EdgeProcess) -> str:
    """The name under which an edge connects."""
    return f"roomcast-edge-{edge.id}"


async def _answers(bus: Bus, room: str, count: int) -> bool:
    try:
        return await bus.count(room, timeout=0.7) == count
    except (Incomplete, BusUnavailable, BusTimeout):  # the edge that is back may be asked before it has its lease again
        return False


@pytest.mark.cluster
async def test_an_election_of_the_stream_s_leader_expires_nobody(cluster, prefix, start_edge):
    urls = cluster.urls
    edges = [await start_edge(urls[n:] + urls[:n], kv_replicas=3) for n in range(2)]
    expected = {edge.id for edge in edges}
    async with bucket_view(urls, prefix) as bucket:
        for round_ in range(2):
            leader = await until(lambda: cluster.leader_of(bucket.stream), 15, "the stream has a leader")
            killed = time.monotonic()
            await asyncio.to_thread(leader.kill)

            async def answers() -> bool:
                try:
                    assert await leases(bucket) == expected, "nobody's lease has expired"
                except AssertionError:
                    raise
                except Exception:  # no leader yet
                    return False
                return True

            await until(answers, 20, "a new leader answers")
            print(f"round {round_}: a new leader after {time.monotonic() - killed:.1f} s")
            await asyncio.to_thread(cluster.heal)
        for edge in edges:
            assert "the lease had expired" not in edge.log
            assert (await edge.get("/readyz"))[0] == 200
