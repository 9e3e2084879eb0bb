"""Services call one client and get its reply: over both edges, and whatever becomes of client, edge and reply."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from roomcast import Bus, BusTimeout, RemoteError, SocketNotFound
from roomcast_edge.calls import CALLS_AT_ONCE, NUMBERS
from support.nats_servers import NatsServer
from support.until import until
from support.websocket_client import Client


@pytest.fixture
async def bus(nats: NatsServer, prefix: str) -> AsyncIterator[Bus]:
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        yield bus


async def called(client: Client, count: int) -> list[tuple[str, Any, int]]:
    """The calls that a client has heard, once they are so many."""
    await until(lambda: len(client.calls) >= count, what=f"{count} calls are heard")
    return client.calls


async def test_a_client_replies(nats: NatsServer, start_edge, bus: Bus):
    edge = await start_edge(nats.urls)
    client, other = [await Client.open(edge.url) for _ in range(2)]
    client.replies = {"confirm": {"data": {"yes": True, "ä": [1, None]}}, "nothing": {"data": None}}
    assert await bus.call(client.id, "confirm", {"text": "Sure?"}) == {"yes": True, "ä": [1, None]}
    assert await bus.call(client.id, "nothing") is None
    assert [(event, data) for event, data, _ in client.calls] == [("confirm", {"text": "Sure?"}), ("nothing", None)]
    assert other.calls == other.events == [], "a call is for one client"
    assert client.events == [], "and no cast"
    many = await asyncio.gather(*[bus.call(client.id, "confirm", number) for number in range(50)])
    assert many == [{"yes": True, "ä": [1, None]}] * 50
    for one in (client, other):
        await one.close()


async def test_replies_find_their_calls_in_any_order(nats: NatsServer, start_edge, bus: Bus):
    client = await Client.open((await start_edge(nats.urls)).url)
    asked = [asyncio.ensure_future(bus.call(client.id, "ask", number)) for number in range(5)]
    calls = await called(client, 5)
    for _, data, number in reversed(calls):
        await client.ws.send(json.dumps({"id": number, "data": data * 10}))
    assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40]
    await client.close()


@pytest.mark.parametrize("code", ["busy", "not_found", "unavailable", "timeout", "internal"])
async def test_an_error_is_the_clients_own_whatever_its_code(nats: NatsServer, start_edge, bus: Bus, code: str):
    client = await Client.open((await start_edge(nats.urls)).url)
    client.replies["ask"] = {"error": {"code": code, "message": "no\r\nInjected: header"}}
    with pytest.raises(RemoteError) as refused:
        await bus.call(client.id, "ask")
    assert (refused.value.code, refused.value.message) == (code, "no\r\nInjected: header")
    client.replies["ask"] = {"error": "just a text"}
    with pytest.raises(RemoteError, match="just a text"):
        await bus.call(client.id, "ask")
    assert (await client.emit("bus:ping"))["data"] == {}
    await client.close()


async def test_a_client_that_does_not_reply_in_time(nats: NatsServer, start_edge, bus: Bus):
    client = await Client.open((await start_edge(nats.urls)).url)
    began = time.monotonic()
    with pytest.raises(BusTimeout):
        await bus.call(client.id, "ask", 1, timeout=0.5)
    assert 0.3 < time.monotonic() - began < 2
    [(_, _, late)] = await called(client, 1)
    await client.ws.send(json.dumps({"id": late, "data": "late"}))
    client.replies["ask"] = {"data": "in time"}
    assert await bus.call(client.id, "ask", 2) == "in time", "what comes late is nobody's"
    await client.ws.send(json.dumps({"id": client.calls[-1][2], "data": "twice"}))
    assert (await client.emit("bus:ping"))["data"] == {}, "and hurts nobody"
    await client.close()


async def test_a_client_that_goes_meanwhile(nats: NatsServer, start_edge, bus: Bus):
    edge = await start_edge(nats.urls)
    for go in (Client.drop, Client.close, None):
        client = await Client.open(edge.url)
        asked = asyncio.ensure_future(bus.call(client.id, "ask", timeout=30))
        await called(client, 1)
        if go is None:
            await bus.disconnect(client.id)
        elif asyncio.iscoroutine(gone := go(client)):
            await gone
        with pytest.raises(RemoteError) as lost:
            await asyncio.wait_for(asked, 8)
        assert lost.value.code == "disconnected"
    assert "Traceback" not in edge.log


async def test_who_is_not_there_cannot_be_called(nats: NatsServer, start_edge, bus: Bus):
    edge = await start_edge(nats.urls)
    client = await Client.open(edge.url)
    client.drop()
    await until(lambda: is_away(bus, client.id), what="the connection's end is known")
    for name in (client.id, f"{edge.id}.{'x' * 16}", "a1b2c3d4." + "x" * 16):
        with pytest.raises(SocketNotFound):
            await bus.call(name, "ask", timeout=3)
    back = await Client.open(edge.url, client.session)
    assert back.calls == [], "a call is never kept"
    await back.close()


async def is_away(bus: Bus, name: str) -> bool:
    """Whether nobody holds a socket."""
    return await bus.get(name) is None


async def test_a_socket_is_called_where_it_is_now(nats: NatsServer, start_edge, bus: Bus):
    first, second, third = [await start_edge(nats.urls) for _ in range(3)]
    client = await Client.open(first.url)
    pending = asyncio.ensure_future(bus.call(client.id, "ask", "before", timeout=30))
    [(_, _, old)] = await called(client, 1)
    client.drop()
    with pytest.raises(RemoteError):
        await pending
    back = await Client.open(second.url, client.session)
    assert back.resumed
    again = asyncio.ensure_future(bus.call(client.id, "ask", "after"))
    [(_, data, new)] = await called(back, 1)
    assert data == "after"
    await back.ws.send(json.dumps({"id": old, "data": "the answer to before"}))
    await back.ws.send(json.dumps({"id": new, "data": "the answer to after"}))
    assert await again == "the answer to after", "a reply from before the break is for no later call"
    back.replies = {"ask": {"data": 1}, "no": {"error": {"code": "busy", "message": "m"}}}
    await first.kill()
    assert await bus.call(client.id, "ask") == 1, "also when the edge that gave the id is dead"
    with pytest.raises(RemoteError, match="busy"):
        await bus.call(client.id, "no")
    with pytest.raises(BusTimeout):
        await bus.call(client.id, "silence", timeout=0.5)
    assert "Traceback" not in second.log + third.log
    await back.close()


async def test_replies_to_nothing(nats: NatsServer, start_edge):
    edge = await start_edge(nats.urls)
    client = await Client.open(edge.url)
    for number in (1, 0, -1, 1.5, "1", NUMBERS[0] - 1, NUMBERS[-1] + 1):
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        client._answers[number] = future  # type: ignore[index]
        await client.ws.send(json.dumps({"id": number, "data": "x"}))
        assert (await asyncio.wait_for(future, 5))["error"]["code"] == "bad_request", number
    for number in (NUMBERS[0], NUMBERS[-1]):
        await client.ws.send(json.dumps({"id": number, "data": "x"}))
    assert (await client.emit("bus:ping"))["data"] == {}
    await client.close()


async def test_calls_have_limits(nats: NatsServer, prefix: str, start_edge, bus: Bus):
    client = await Client.open((await start_edge(nats.urls, cast_limit=100)).url)
    with pytest.raises(RemoteError) as refused:
        await bus.call(client.id, "ask", "x" * 100)
    assert refused.value.code == "too_large"
    asked = [asyncio.ensure_future(bus.call(client.id, "ask")) for _ in range(CALLS_AT_ONCE)]
    await called(client, CALLS_AT_ONCE)
    with pytest.raises(RemoteError) as refused:
        await bus.call(client.id, "ask")
    assert refused.value.code == "too_many"
    for _, _, number in list(client.calls):
        await client.ws.send(json.dumps({"id": number, "data": "ok"}))
    assert await asyncio.gather(*asked) == ["ok"] * CALLS_AT_ONCE
    client.replies["ask"] = {"data": "again"}
    assert await bus.call(client.id, "ask") == "again"
    for wrong in ("", "bus:ping", "connect", "x" * 256):
        with pytest.raises(ValueError):
            await bus.call(client.id, wrong)
    for body in (
        {"call": 7},
        {"call": {}},
        {"call": {"event": 1}},
        {"call": {"event": ""}},
        {"call": {"event": "bus:x"}},
    ):
        for subject in (f"{prefix}.socket.{client.id}", f"{prefix}.api.call"):
            reply = await bus.nats.request(subject, json.dumps({"id": client.id, **body}).encode(), timeout=5)
            assert json.loads(reply.data)["error"]["code"] == "bad_request", (subject, body)
    await client.close()
