"""Two versions of edges on one bucket: unknown fields are kept, unknown versions refused with a clear error."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from roomcast import Bus, BusUnavailable
from support.bucket import BucketView, bucket_view
from support.until import until
from support.websocket_client import Client


@pytest.fixture
async def edges(nats, prefix, start_edge):
    return [await start_edge(nats.urls), await start_edge(nats.urls)]


@pytest.fixture
async def bus(nats, prefix, edges):
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        yield bus


@pytest.fixture
async def bucket(nats, prefix, edges):
    async with bucket_view(nats.url, prefix) as bucket:
        yield bucket


async def away_with(bus: Bus, bucket: BucketView, client: Client, **fields: object) -> None:
    """Let a client go away, and write these fields into its record as an edge of another version would."""
    client.drop()

    async def away() -> bool:
        return orjson.loads((await bucket.get(f"socket.{client.id}")).data)["owner"] is None

    await until(away, 5, "its record says away")
    key = f"socket.{client.id}"
    body = orjson.loads((await bucket.get(key)).data)
    await bucket.put(key, orjson.dumps({**body, **fields}), ttl=60)


async def test_an_unknown_field_of_a_record_outlives_resume_rewrite_and_another_edge(bus, bucket, edges):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    await away_with(bus, bucket, client, priority={"level": 7})
    for edge in (edges[0], edges[1]):
        client = await Client.open(edge.url, session=client.session)
        assert client.resumed
        await bus.join(client.id, f"room-of-{edge.id}")
        body = orjson.loads((await bucket.get(f"socket.{client.id}")).data)
        assert body["priority"] == {"level": 7}
        assert body["owner"] == edge.id
        client.drop()
    client = await Client.open(edges[0].url, session=client.session)
    assert len(await bus.rooms(client.id)) == 3
    await client.close()


async def test_a_record_of_an_unknown_version_is_refused_clearly_and_left_alone(bus, bucket, edges):
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    await away_with(bus, bucket, client, v=2, rooms={"in": "another form"})
    stranger = await Client.open(edges[1].url, session=client.session)
    assert (stranger.resumed, stranger.id == client.id) == (False, False)
    assert "a record of version 2; this edge knows 1" in edges[1].log
    with pytest.raises(BusUnavailable, match="version 2"):
        await bus.join(client.id, "other")
    body = orjson.loads((await bucket.get(f"socket.{client.id}")).data)
    assert (body["v"], body["rooms"]) == (2, {"in": "another form"})
    await stranger.close()


async def test_a_move_of_an_unknown_version_is_skipped_with_an_error_and_the_log_goes_on(bus, bucket, edges):
    clients = [await Client.open(edge.url) for edge in edges]
    await bus.join([client.id for client in clients], "room")
    await bucket.put("move.future", b'{"v":2,"source":"room","program":"..."}')
    assert (await bus.add_room_members_to_rooms("room", "more")).matched == 2
    for edge in edges:
        assert "a move of version 2; this edge knows 1: upgrade it first" in edge.log
        assert await edge.metric("roomcast_invalid_total") == 1
    assert [await bus.rooms(client.id) for client in clients] == [{"room", "more"}] * 2
    await asyncio.gather(*[client.close() for client in clients])


async def test_a_coordinator_of_the_next_version_is_told_who_cannot_read_its_move(nats, prefix, bus, bucket, edges):
    """It puts the move and asks this version's edges about it, as a coordinator does."""
    sequence = await bucket.put("move.future", b'{"v":2,"source":"room","program":"..."}')
    for edge in edges:
        asked = orjson.dumps({"op": "moved", "sequence": sequence})
        reply = await bus.nats.request(f"{prefix}.edge.{edge.id}", asked, timeout=3)
        error = orjson.loads(reply.data)["error"]
        assert "cannot read the move" in error["message"]


async def test_a_bulk_change_that_is_asked_again_with_its_id_is_the_same_one(bus, prefix, edges):
    """A retry applies nothing twice, whichever edge it comes to, and says what the first one did."""
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    body = {"id": "retried-1", "from": "room", "join": ["more"]}

    async def ask(**fields: object) -> dict:
        reply = await bus.nats.request(f"{prefix}.api.move", orjson.dumps({**body, **fields}), timeout=5)
        return orjson.loads(reply.data)

    answers = await asyncio.gather(*[ask() for _ in range(10)])
    assert {answer["sequence"] for answer in answers} == {answers[0]["sequence"]}
    assert {answer["changed"] for answer in answers} == {1}
    await bus.leave(client.id, "more")
    assert (await ask())["sequence"] == answers[0]["sequence"]
    assert await bus.rooms(client.id) == {"room"}, "it is not made again"
    assert (await ask(join=["other"]))["error"]["code"] == "conflict", "the id stands for one change"
    await client.close()


async def test_a_move_that_another_version_stored_is_the_same_move_when_it_is_asked_again(nats, prefix, bus, bucket):
    """Its bytes differ by a field that this version does not know; what it does is the same."""
    sequence = await bucket.put("move.shared-1", b'{"why":"a later field","v":1,"join":["more"],"from":"room"}')
    body = {"id": "shared-1", "from": "room", "join": ["more"]}
    reply = await bus.nats.request(f"{prefix}.api.move", orjson.dumps(body), timeout=5)
    assert orjson.loads(reply.data)["sequence"] == sequence
    reply = await bus.nats.request(f"{prefix}.api.move", orjson.dumps({**body, "join": ["else"]}), timeout=5)
    assert orjson.loads(reply.data)["error"]["code"] == "conflict"


async def test_a_lease_of_another_version_counts_as_an_edge_s(bus, bucket, edges):
    """What it says is nobody's business but its own; it does not answer, so it counts as dead."""
    await bucket.put("edge.strange1", b'{"v":9,"what":"ever"}', ttl=30)
    client = await Client.open(edges[0].url)
    await bus.join(client.id, "room")
    assert set((await bus.add_room_members_to_rooms("room", "more")).edges) == {edge.id for edge in edges}
    assert await bus.count("room") == 1
    await client.close()
