"""The main job, once through: two edges, two sockets, a room, a broadcast."""

from __future__ import annotations

from roomcast import Bus
from support.websocket_client import Client


async def test_a_broadcast_reaches_the_members_on_both_edges(nats, prefix, start_edge):
    edges = [await start_edge(nats.urls), await start_edge(nats.urls)]
    clients = [await Client.open(edge.url) for edge in edges]
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.join([client.id for client in clients], "chat")
        await bus.broadcast("chat", "hello", {"n": 1})
    for client in clients:
        assert await client.hears(1) == [("hello", {"n": 1})]
        await client.close()
