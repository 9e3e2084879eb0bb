"""Leases: who counts as a live edge, when one is killed, stalled, or the stream elects a leader."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from roomcast import Bus, BusTimeout, BusUnavailable, Incomplete, MoveIncomplete
from support.bucket import BucketView, bucket_view
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
        assert (await bus.move("room", join="again")).matched == 1

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


async def test_a_stalled_edge_is_named_and_answers_are_exact_again_afterwards(nats, prefix, start_edge):
    stalled, live = await start_edge(nats.urls), await start_edge(nats.urls)
    here, there = await Client.open(live.url), await Client.open(stalled.url)
    async with Bus.connect(nats.url, prefix=prefix) as bus, bucket_view(nats.url, prefix) as bucket:
        await bus.join([here.id, there.id], "room")
        stalled.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(MoveIncomplete) as move:
            await insist(lambda: bus.add_room_members_to_rooms("room", "more", timeout=1))
        assert move.value.result.missing == [stalled.id]
        assert move.value.result.edges[live.id].matched == 1
        with pytest.raises(Incomplete) as count:
            await insist(lambda: bus.count("room", timeout=0.7))
        assert (count.value.missing, count.value.known) == ([stalled.id], 1)
        assert await insist(lambda: bus.count("room", timeout=0.7, partial=True)) == 1
        seen: list[str] = []

        async def list_members() -> None:
            async for socket in bus.members("room", timeout=0.7):
                seen.append(socket.id)

        with pytest.raises(Incomplete) as members:
            await insist(list_members)
        assert (seen, members.value.missing) == ([here.id], [stalled.id]), "what is known comes first"

        await until(lambda: _answers(bus, "room", 1), 15, "NATS has closed the connection of the stalled edge")
        print(f"NATS gave it up after {time.monotonic() - began:.1f} s: from then on it counts as dead")
        result = await bus.add_room_members_to_rooms("room", "later")
        assert set(result.edges) == {live.id}

        async def out() -> bool:
            return await leases(bucket) == {live.id}

        await until(out, OUT_WITHIN - (time.monotonic() - began), "the stalled edge's lease runs out")
        print(f"out of edge.* after {time.monotonic() - began:.1f} s")
        stalled.signal(signal.SIGCONT)
        await until(lambda: _answers(bus, "room", 2), 15, "the edge is back")
        assert await listed(bus, "room") == {here.id, there.id}
        assert await listed(bus, "more") == await listed(bus, "later") == {here.id, there.id}, "it has missed no move"
        assert await leases(bucket) == {live.id, stalled.id}
        assert (await bus.add_room_members_to_rooms("room", "last")).matched == 2
        await bus.broadcast("last", "cast", 1)
        assert await there.hears_event("cast") == await here.hears_event("cast") == 1
        await asyncio.gather(here.close(), there.close())


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
