"""The KV bucket missing at start, without room, and without a quorum: clear errors, casts go on, no hand is needed."""

from __future__ import annotations

import asyncio
import time

import pytest

from roomcast import Bus, BusTimeout, BusUnavailable, Incomplete, OutcomeUnknown
from support.bucket import bucket_view
from support.edges import EdgeProcess
from support.nats_servers import NatsServer, Port
from support.until import until
from support.websocket_client import Client

READY_GRACE = 3.0
OUT_WITHIN = 35.0
"""Seconds after which a lease is gone. A full bucket still takes what is no larger than what it replaces."""


async def hears(bus: Bus, client: Client, room: str, number: int, within: float = 10.0) -> None:
    """A cast sent now reaches the client."""
    await bus.broadcast(room, "cast", number)
    await client.hears_that(lambda: ("cast", number) in client.events, within, f"cast {number}")


async def test_an_edge_waits_for_jetstream_and_starts_by_itself_when_it_is_there(prefix):
    port = Port()
    with NatsServer("jetstream: false") as server:
        edge = EdgeProcess(server.urls, prefix)
        edge.admin_port = port.number
        await edge.start(ready=False)
        try:
            await until(lambda: "waiting for the bucket" in edge.log, 15, "it tells what it waits for")
            status, why = await edge.get("/readyz")
            assert (status, "JetStream" in why) == (503, True), why
            assert (await edge.get("/healthz"))[0] == 200, "it is not to be restarted for that"
            async with Bus.connect(server.url, prefix=prefix) as bus:
                with pytest.raises(BusUnavailable):
                    await bus.count("room", timeout=1)
                await asyncio.to_thread(server.stop)
                server._config = ""
                await asyncio.to_thread(server.start)
                await edge.is_ready()
                assert (await edge.get("/readyz"))[0] == 200
                client = await Client.open(edge.url)
                await until(lambda: bus.nats.is_connected, 5, "the Bus is back too")
                await bus.join(client.id, "room")
                await hears(bus, client, "room", 1)
                await client.close()
        finally:
            await edge.close()
            port.release()


async def test_a_full_bucket_refuses_changes_clearly_and_casts_go_on(fresh_nats, prefix, start_edge):
    edges = [await start_edge(fresh_nats.urls, ready_grace=READY_GRACE) for _ in range(2)]
    client, witness = await Client.open(edges[0].url), await Client.open(edges[1].url)
    async with Bus.connect(fresh_nats.url, prefix=prefix) as bus, bucket_view(fresh_nats.url, prefix) as bucket:
        await bus.join([client.id, witness.id], "room")
        await bucket.configure(max_bytes=1)
        full_at = time.monotonic()
        calls = {
            "join": bus.join(client.id, ["refused-join", "refused-too"]),
            "join of the other": bus.join(witness.id, "refused-join"),
            "move": bus.add_room_members_to_rooms("room", "refused-move"),
            "join of one away": bus.join(f"{edges[0].id}.AAAAAAAAAAAAAAAA", "x", timeout=8),
        }
        errors = await asyncio.gather(*calls.values(), return_exceptions=True)
        for verb, error in zip(calls, errors, strict=True):
            print(f"{verb}: {type(error).__name__}: {error}")
        for verb, error in list(zip(calls, errors, strict=True))[:3]:
            assert isinstance(error, BusUnavailable), f"{verb}: {error!r}"
            assert "maximum bytes" in str(error), "it says why"
            assert not isinstance(error, OutcomeUnknown), "the bucket has refused: that is known"
        await hears(bus, client, "room", 1)
        await hears(bus, witness, "room", 2)
        assert await bus.rooms(client.id) == {"room"}, "what was refused is undone"
        assert await bus.rooms(witness.id) == {"room"}
        for room in ("refused-join", "refused-too", "refused-move"):
            await bus.broadcast(room, "forbidden", room)
        assert [(await edge.get("/readyz"))[0] for edge in edges] == [200, 200], "within the grace all is well"

        async def told() -> bool:
            return all([(await edge.get("/readyz"))[0] == 503 for edge in edges])

        await until(told, 60, "/readyz tells after its grace")
        print(f"/readyz tells after {time.monotonic() - full_at:.1f} s: {(await edges[0].get('/readyz'))[1].strip()}")
        assert [(await edge.get("/healthz"))[0] for edge in edges] == [200, 200]
        await until(lambda: _no_leases(bucket), OUT_WITHIN, "the leases have run out")
        with pytest.raises((BusUnavailable, Incomplete)):
            print("a count without leases:", await bus.count("room", timeout=1))
        await hears(bus, client, "room", 3)

        await bucket.configure(max_bytes=-1)
        await until(lambda: _all_ready(edges), 15, "recovery needs no hand")
        assert await bus.count("room") == 2
        await bus.join(client.id, "accepted")
        client.drop()
        back = await Client.open(edges[1].url, session=client.session)
        assert (back.resumed, await bus.rooms(back.id)) == (True, {"room", "accepted"})
        assert not [data for event, data in client.events + witness.events if event == "forbidden"]
        await asyncio.gather(back.close(), witness.close())


async def test_changes_that_share_a_refused_write_are_all_refused(fresh_nats, prefix, start_edge):
    """A change that comes while an earlier one of its socket is being refused is not acknowledged with nothing done."""
    edge = await start_edge(fresh_nats.urls)
    client = await Client.open(edge.url)
    async with Bus.connect(fresh_nats.url, prefix=prefix) as bus, bucket_view(fresh_nats.url, prefix) as bucket:
        await bucket.configure(max_bytes=1)
        joins: list[asyncio.Task] = []
        for number in range(30):  # over longer than the patience of the first
            joins.append(asyncio.create_task(bus.join(client.id, f"r{number}", timeout=12)))
            await asyncio.wait(joins[-1:], timeout=0.2)
        await bucket.configure(max_bytes=-1)
        results = await asyncio.gather(*joins, return_exceptions=True)
        rooms = await bus.rooms(client.id)
        acknowledged = {f"r{n}" for n, result in enumerate(results) if not isinstance(result, BaseException)}
        unknown = {f"r{n}" for n, result in enumerate(results) if isinstance(result, OutcomeUnknown)}
        print(f"{len(acknowledged)} acknowledged, {len(unknown)} unknown, {len(rooms)} there")
        assert acknowledged - rooms == set(), "acknowledged means kept"
        assert rooms - acknowledged - unknown == set(), "refused means undone"
        await client.close()


@pytest.mark.cluster
async def test_without_a_quorum_changes_fail_in_time_and_casts_go_on(cluster, prefix, start_edge):
    """Two of three nodes are stalled: JetStream is slow without end; the third one serves the edge and the service."""
    node = cluster.nodes[0]
    edge = await start_edge([node.url], kv_replicas=3)
    client = await Client.open(edge.url)
    async with Bus.connect(node.url, prefix=prefix) as bus:
        await bus.join(client.id, "room")
        for other in cluster.nodes[1:]:
            other.stall()
        for verb, call in {
            "join": lambda: bus.join(client.id, "maybe"),
            "move": lambda: bus.add_room_members_to_rooms("room", "moved"),
        }.items():
            began = time.monotonic()
            with pytest.raises((BusTimeout, BusUnavailable)) as error:
                await call()
            print(f"{verb}: {error.type.__name__} after {time.monotonic() - began:.1f} s: {error.value}")
            assert time.monotonic() - began < 5.5, f"{verb} keeps its timeout"
        await hears(bus, client, "room", 1)
        await asyncio.to_thread(cluster.heal)

        async def changes() -> bool:
            try:
                await bus.join(client.id, "after", timeout=2)
            except (BusTimeout, BusUnavailable):
                return False
            return True

        await until(changes, 20, "changes are taken again")
        assert await bus.rooms(client.id) - {"maybe", "moved"} == {"room", "after"}
        await hears(bus, client, "after", 2)
        assert client.close_code is None
        await client.close()


async def _no_leases(bucket) -> bool:
    return await bucket.keys("edge.>") == []


async def _all_ready(edges: list[EdgeProcess]) -> bool:
    return all([(await edge.get("/readyz"))[0] == 200 for edge in edges])
