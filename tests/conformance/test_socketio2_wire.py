"""The socketio2 dialect on the wire, as the specifications of Engine.IO 3 and Socket.IO 4 say it: no client library."""

from __future__ import annotations

import asyncio
import json

import pytest

from roomcast import Bus
from support.edges import EdgeProcess
from support.raw_client import CLOSE, PING, TEXT, RawClient, frame

TARGET = "/socket.io/?EIO=3&transport=websocket"


class Wire(RawClient):
    """A TCP connection that speaks Engine.IO 3."""

    async def opened(self, more: str = "") -> tuple[str, str]:
        """The id and the session, once the three packets of the greeting have come."""
        status, _ = await self.upgrade(TARGET + more)
        assert status == 101, status
        opened, connected, session = [(await self.frame())[1].decode() for _ in range(3)]
        assert connected == "40"
        event, secret = json.loads(session.removeprefix("42"))
        assert event == "bus:session"
        greeting = json.loads(opened.removeprefix("0"))
        assert set(greeting) == {"sid", "upgrades", "pingInterval", "pingTimeout"}
        return greeting["sid"], secret

    def say(self, text: str) -> None:
        """One text message."""
        self.send(frame(TEXT, text.encode()))

    async def asks(self, packet: str, answer: str) -> None:
        """Say one thing and hear another."""
        self.say(packet)
        heard = (await self.frame())[1].decode()
        assert heard == answer, f"{packet} is answered with {heard}, not {answer}"


@pytest.fixture
async def edge(nats, start_edge) -> EdgeProcess:
    return await start_edge(nats.urls, client_rooms="open-*", ping_interval=0.4, ping_timeout=0.6)


async def test_a_session_from_the_greeting_to_the_leaving(nats, prefix, edge):
    wire = await Wire.dial(edge.port)
    socket_id, _ = await wire.opened("&__sails_io_sdk_version=1.2.1&t=abc&b64=1")
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await wire.asks("2", "3")
        await wire.asks("2probe", "3probe")
        await wire.asks('420["bus:join","open-1"]', '430[{"room":"open-1"}]')
        await wire.asks("40/admin?token=1,", '44/admin,"Invalid namespace"')
        await bus.broadcast("open-1", "news", {"n": 1})
        assert (await wire.frame())[1] == b'42["news",{"n":1}]'
        asking = asyncio.create_task(bus.call(socket_id, "confirm", {"n": 2}))
        call = (await wire.frame())[1].decode()
        number = call.removeprefix("42").partition("[")[0]
        assert call == f'42{number}["confirm",{{"n":2}}]'
        wire.say(f'43{number}["yes"]')
        assert await asking == "yes"
        await wire.asks(
            '451-1["upload",{"_placeholder":true,"num":0}]',
            '431[{"error":{"code":"bad_request",'
            '"message":"binary data is not understood; send text, base64 for example"}}]',
        )
        wire.say("b4AP8=")
        wire.say("40")
        await wire.asks('422["bus:ping"]', "432[{}]")
        wire.say("41")
        assert (await wire.closing())[0] == 1000
        assert await bus.get(socket_id) is None


async def test_the_session_of_the_query_brings_the_socket_back(nats, prefix, edge):
    first = await Wire.dial(edge.port)
    socket_id, session = await first.opened()
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.join(socket_id, "team")
        first.drop()
        again = await Wire.dial(edge.port)
        assert await again.opened(f"&session={session}") == (socket_id, session)
        assert await bus.rooms(socket_id) == {"team"}
        await bus.disconnect(socket_id, reason="bye")
        assert await again.frame() == (TEXT, b"41")
        assert await again.frame() == (CLOSE, b"\x11\x96bye"), "4502"


async def test_who_is_silent_is_pinged_by_websockets_own_ping_and_cut_off(edge):
    wire = await Wire.dial(edge.port)
    await wire.opened()
    assert await wire.frame() == (PING, b"")
    assert await wire.is_cut()
    assert await edge.metric('roomcast_closes_total{code="1006"}') == 1


async def test_what_is_malformed_closes_the_transport(edge):
    wire = await Wire.dial(edge.port)
    await wire.opened()
    wire.say("42{}")
    assert (await wire.closing())[0] == 1002


async def test_sails_io_js_may_load_what_it_asks_for_first(edge):
    client = await RawClient.dial(edge.port)
    client.send(b"GET /__getcookie HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status, headers = await client.response()
    assert (status, headers["content-type"]) == (200, "application/javascript")
    assert int(headers["content-length"]) == len("_sailsIoJSConnect();")
