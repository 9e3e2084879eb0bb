"""What services hear of sessions: each begins once and ends once, whatever happens to connections and edges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from roomcast import Bus, Lifecycle
from support.nats_servers import NatsServer
from support.until import until
from support.websocket_client import Client

WINDOW = 2.0


class Heard:
    """The events of all copies of a service."""

    def __init__(self) -> None:
        self.connects: list[Lifecycle] = []
        self.disconnects: list[Lifecycle] = []

    def listen(self, bus: Bus) -> None:
        @bus.on_connect
        async def connected(event: Lifecycle) -> None:
            self.connects.append(event)

        @bus.on_disconnect
        async def disconnected(event: Lifecycle) -> None:
            self.disconnects.append(event)

    async def end_of(self, name: str, within: float = 10.0) -> Lifecycle:
        """The one event of a session's end."""
        await until(lambda: any(event.id == name for event in self.disconnects), within, f"the end of {name} is told")
        [event] = [event for event in self.disconnects if event.id == name]
        return event


@pytest.fixture
async def heard(nats: NatsServer, prefix: str) -> AsyncIterator[Heard]:
    heard = Heard()
    async with AsyncExitStack() as stack:
        for _ in range(2):  # copies share the events
            bus = await stack.enter_async_context(Bus.connect(nats.url, prefix=prefix, name="presence"))
            heard.listen(bus)
            await stack.enter_async_context(bus.serving())
        yield heard


async def test_ends_on_purpose_are_told_at_once(nats: NatsServer, prefix: str, start_edge, heard: Heard):
    edge = await start_edge(nats.urls, resume_window=60, client_rooms="*")
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        left, kicked, moved, rude = [await Client.open(edge.url) for _ in range(4)]
        await until(lambda: len(heard.connects) == 4, what="four sessions begin")
        assert {event.id for event in heard.connects} == {left.id, kicked.id, moved.id, rude.id}
        assert {event.edge for event in heard.connects} == {edge.id}
        await left.emit("bus:join", {"room": "lobby"})
        await bus.join(moved.id, "thrown out")
        await left.close()
        await bus.disconnect(kicked.id, reason="enough")
        await bus.disconnect("thrown out")
        await rude.ws.send(b"binary")
        ends = {client.id: await heard.end_of(client.id) for client in (left, kicked, moved, rude)}
        assert [event.reason for event in ends.values()] == ["left", "kicked", "kicked", "ended"]
        assert ends[left.id].rooms == {"lobby"}
        assert ends[moved.id].rooms == {"thrown out"}


async def test_a_session_that_comes_back_is_not_over(nats: NatsServer, prefix: str, start_edge, heard: Heard):
    edges = [await start_edge(nats.urls, resume_window=WINDOW) for _ in range(2)]
    back, lost = [await Client.open(edges[0].url) for _ in range(2)]
    back.drop()
    lost.drop()
    again = await Client.open(edges[1].url, back.session)
    assert again.resumed
    event = await heard.end_of(lost.id)
    assert (event.reason, event.edge) == ("lost", edges[0].id)
    again.drop()  # now it is the other edge that tells
    assert (await heard.end_of(back.id)).edge == edges[1].id
    assert len(heard.connects) == 2, "coming back is no new session"
    assert len(heard.disconnects) == 2
    late = await Client.open(edges[0].url, back.session)
    assert not late.resumed, "the window is over"
    await late.close()


async def test_the_sessions_of_dead_edges_are_told_by_those_that_live(
    nats: NatsServer, prefix: str, start_edge, heard: Heard
):
    killed, stopped, alive = [await start_edge(nats.urls, resume_window=WINDOW) for _ in range(3)]
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        clients = [await Client.open(edge.url) for edge in (killed, killed, stopped, stopped, alive)]
        await until(lambda: len(heard.connects) == 5, what="five sessions begin")
        await asyncio.gather(*[bus.join(client.id, "hall") for client in clients])
        await asyncio.gather(killed.kill(), stopped.stop())
        back = [await Client.open(alive.url, clients[number].session) for number in (0, 2)]
        assert all(client.resumed for client in back)
        for gone in (clients[1], clients[3]):
            event = await heard.end_of(gone.id, within=60)
            assert (event.reason, event.rooms) == ("lost", {"hall"})
        assert len(heard.disconnects) == 2
        assert {socket.id async for socket in bus.members("hall")} == {clients[n].id for n in (0, 2, 4)}
        for client in (*back, clients[4]):
            await client.close()


async def test_what_a_whole_outage_has_left_is_told_by_the_next_edge(
    nats: NatsServer, prefix: str, start_edge, heard: Heard
):
    edge = await start_edge(nats.urls, resume_window=WINDOW)
    client = await Client.open(edge.url)
    await until(lambda: bool(heard.connects), what="the session begins")
    await edge.kill()
    next_edge = await start_edge(nats.urls, resume_window=WINDOW)
    assert next_edge.id != edge.id
    assert (await heard.end_of(client.id, within=60)).edge == edge.id
