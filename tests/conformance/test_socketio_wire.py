"""The socketio dialect on the wire, as the specifications of Engine.IO 4 and Socket.IO 5 say it: no client library."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from roomcast import Bus
from support.edges import EdgeProcess
from support.raw_client import BINARY, CLOSE, CONTINUATION, TEXT, RawClient, frame
from support.until import until

TARGET = "/socket.io/?EIO=4&transport=websocket"
SETTINGS: dict[str, Any] = {"message_limit": 4096, "close_timeout": 1, "client_rooms": "open-*"}
HASTY = {"handshake_timeout": 0.6}
PINGING = {"ping_interval": 0.3, "ping_timeout": 0.7}


class Wire:
    """A websocket, and the text messages on it."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.opened: dict[str, Any] = {}
        self.id = ""
        self.pid = ""

    async def say(self, message: str | bytes) -> None:
        """Send a message."""
        await self.ws.send(message)

    async def hear(self, within: float = 5.0, *, pings: bool = False) -> str:
        """The next text message; pings are answered on the way, unless they are what is listened for."""
        async with asyncio.timeout(within):
            while True:
                message = await self.ws.recv(decode=True)
                assert isinstance(message, str)
                if message != "2" or pings:
                    return message
                await self.ws.send("3")

    async def asks(self, packet: str, answer: str) -> None:
        """Say one thing and hear another."""
        await self.say(packet)
        heard = await self.hear()
        assert heard == answer, f"{packet} is answered with {heard}, not {answer}"

    async def open(self) -> Wire:
        """Hear the open packet."""
        text = await self.hear()
        assert text[0] == "0", text
        self.opened = json.loads(text[1:])
        return self

    async def join(self, auth: Any = None) -> Wire:
        """CONNECT to the default namespace, and hear the answer."""
        await self.say("40" + (json.dumps(auth) if auth is not None else ""))
        text = await self.hear()
        assert text[:2] == "40", text
        greeting = json.loads(text[2:])
        assert set(greeting) == {"sid", "pid"}
        self.id, self.pid = greeting["sid"], greeting["pid"]
        return self

    async def closed(self, within: float = 5.0) -> tuple[int | None, str]:
        """Wait for the end: the close code and its reason; 1006 where the server just hung up."""
        async with asyncio.timeout(within):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.ws.recv()
            await self.ws.wait_closed()
        return self.ws.close_code, self.ws.close_reason or ""


@pytest.fixture
async def edge(nats, start_edge) -> EdgeProcess:
    return await start_edge(nats.urls, **SETTINGS)


@pytest.fixture
async def pinging_edge(nats, start_edge) -> EdgeProcess:
    return await start_edge(nats.urls, **SETTINGS, **PINGING)


@pytest.fixture
async def hasty_edge(nats, start_edge) -> EdgeProcess:
    return await start_edge(nats.urls, **SETTINGS, **HASTY)


@asynccontextmanager
async def dialled(edge: EdgeProcess, target: str = TARGET) -> AsyncIterator[Wire]:
    """A websocket that has heard the open packet."""
    url = f"ws://127.0.0.1:{edge.port}{target}"
    async with connect(url, proxy=None, ping_interval=None, close_timeout=2) as ws:
        yield await Wire(ws).open()


# -- the transport -----------------------------------------------------------------------------------------------------


async def test_the_open_packet_has_what_the_specification_asks(edge):
    async with dialled(edge) as wire, dialled(edge) as other:
        sid = wire.opened.pop("sid")
        assert wire.opened == {"upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 4096}
        assert isinstance(sid, str)
        assert sid != other.opened["sid"]
        await wire.join()
        assert wire.id != sid, "a transport's id is not the socket's"


async def test_the_parameters_may_stand_in_any_order(edge):
    async with dialled(edge, "/socket.io/?transport=websocket&t=abc&EIO=4") as wire:
        await wire.join({})


async def test_the_server_pings_however_much_the_client_says(pinging_edge):
    async with dialled(pinging_edge) as wire:
        assert (wire.opened["pingInterval"], wire.opened["pingTimeout"]) == (300, 700)
        await wire.join()
        await wire.say('420["bus:ping"]')
        pings = 0
        while pings < 3:
            heard = await wire.hear(pings=True)
            pings += heard == "2"
            assert heard in ("2", "430[{}]")
            await wire.say("3" if heard == "2" else '420["bus:ping"]')


async def test_a_client_may_ping_too(edge):
    async with dialled(edge) as wire:
        await wire.asks("2", "3")
        await wire.asks("2probe", "3probe")


async def test_a_client_that_does_not_pong_is_ended(nats, prefix, pinging_edge):
    async with dialled(pinging_edge) as wire, Bus.connect(nats.url, prefix=prefix) as bus:
        await wire.join()
        await bus.join(wire.id, "team")
        assert await wire.hear(pings=True) == "2"
        code, _ = await wire.closed()
        assert code == 1006, "the connection is aborted: nobody listens"
        assert await pinging_edge.metric('roomcast_closes_total{code="1006"}') == 1
        async with dialled(pinging_edge) as back:
            await back.join({"pid": wire.pid})
            assert back.id == wire.id, "it may be back"
            assert await bus.rooms(back.id) == {"team"}


async def test_a_transport_that_closes_may_come_back(edge):
    async with dialled(edge) as wire:
        await wire.join()
        await wire.say("1")
        assert (await wire.closed())[0] == 1001
    async with dialled(edge) as back:
        await back.join({"pid": wire.pid})
        assert back.id == wire.id
        assert back.pid != wire.pid, "a fresh one each time, or the client believes that nothing was missed"


# -- the session -------------------------------------------------------------------------------------------------------


async def test_a_client_that_never_connects_is_closed_at_the_deadline(hasty_edge):
    async with dialled(hasty_edge) as wire:
        began = asyncio.get_running_loop().time()
        assert (await wire.closed())[0] == 1006
        assert asyncio.get_running_loop().time() - began < HASTY["handshake_timeout"] + 2
        assert await hasty_edge.metric('roomcast_handshakes_total{outcome="timeout"}') == 1


async def test_another_namespace_is_an_error_and_the_default_one_still_opens(edge):
    async with dialled(edge) as wire:
        await wire.asks("40/admin,", '44/admin,{"message":"Invalid namespace"}')
        await wire.asks('40/admin,{"token":"x"}', '44/admin,{"message":"Invalid namespace"}')
        await wire.join()
        await wire.asks("40/late,{}", '44/late,{"message":"Invalid namespace"}')
        await wire.asks('421["bus:ping"]', "431[{}]")


async def test_a_client_that_disconnects_is_gone(nats, prefix, edge):
    async with dialled(edge) as wire, Bus.connect(nats.url, prefix=prefix) as bus:
        await wire.join()
        await wire.say("41")
        assert (await wire.closed())[0] == 1000
        assert await bus.get(wire.id) is None
        async with dialled(edge) as back:
            await back.join({"pid": wire.pid})
            assert back.id != wire.id


async def test_who_is_disconnected_by_a_service_is_told_so_before_the_close(nats, prefix, edge):
    async with dialled(edge) as wire, Bus.connect(nats.url, prefix=prefix) as bus:
        await wire.join()
        await bus.disconnect(wire.id, reason="bye")
        assert await wire.hear() == "41"
        assert await wire.closed() == (4502, "bye")


async def test_packets_that_come_with_connect_are_taken_behind_it(edge):
    client = await RawClient.dial(edge.port)
    assert (await client.upgrade(TARGET))[0] == 101
    client.send(frame(TEXT, b"40") + frame(TEXT, b'420["bus:ping"]') + frame(TEXT, b'421["bus:ping"]'))
    heard = [(await client.frame())[1] for _ in range(4)]
    assert [text[:2] for text in heard] == [b"0{", b"40", b"43", b"43"]
    client.drop()


# -- events ------------------------------------------------------------------------------------------------------------


async def test_events_acknowledgements_and_casts(nats, prefix, edge):
    async with dialled(edge) as wire, Bus.connect(nats.url, prefix=prefix) as bus:
        await wire.join()
        await wire.asks('420["bus:join",{"room":"open-1"}]', '430[{"room":"open-1"}]')
        await wire.asks('42/,17["bus:join","open-2"]', '4317[{"room":"open-2"}]')
        await wire.say('421["bus:join",{"room":"closed"}]')
        answer = await wire.hear()
        assert answer.startswith('431[{"error":{"code":"forbidden","message":')
        await wire.say('42["bus:leave","open-1"]')
        await wire.asks('429["bus:ping"]', "439[{}]")
        assert await bus.rooms(wire.id) == {"open-2"}
        await bus.broadcast("open-2", "news", {"a": [1, "ä"]})
        assert await wire.hear() == '42["news",{"a":[1,"ä"]}]'


async def test_binary_that_wants_an_answer_is_refused_and_its_attachments_are_swallowed(edge):
    for count in (0, 1, 3):
        async with dialled(edge) as wire:
            await wire.join()
            await wire.say(f'45{count}-7["up",{{"_placeholder":true,"num":0}}]')
            assert (await wire.hear()).startswith('437[{"error":{"code":"bad_request","message":"binary')
            for _ in range(count):
                await wire.say(b"\x00" * 4000)
            await wire.asks('428["bus:ping"]', "438[{}]")
            await wire.say(b"one more than was announced")
            code, reason = await wire.closed()
            assert code == 1003
            assert "binary" in reason


async def test_binary_that_wants_no_answer_closes_the_transport(edge):
    for packet in ('451-["up",{"_placeholder":true,"num":0}]', '450-["up"]', '461-7["x"]'):
        async with dialled(edge) as wire:
            await wire.join()
            await wire.say(packet)
            code, reason = await wire.closed()
            assert (code, "binary" in reason) == (1003, True), packet


async def test_attachments_in_fragments_are_swallowed_too(edge):
    client = await RawClient.dial(edge.port)
    assert (await client.upgrade(TARGET))[0] == 101
    client.send(frame(TEXT, b"40"))
    assert [(await client.frame())[1][:1] for _ in range(2)] == [b"0", b"4"]
    client.send(frame(TEXT, b'452-0["up",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'))
    assert (await client.frame())[1].startswith(b'430[{"error":')
    client.send(frame(BINARY, b"\xff", fin=False) + frame(CONTINUATION, b"\xfe", fin=False))
    client.send(frame(CONTINUATION, b"\xfd") + frame(BINARY, b"\xfc"))
    client.send(frame(TEXT, b'421["bus:', fin=False) + frame(CONTINUATION, b'ping"]'))
    assert await client.frame() == (TEXT, b"431[{}]")
    client.send(frame(BINARY, b"not announced", fin=False))
    assert (await client.closing())[0] == 1003
    client.drop()


# -- what is malformed -------------------------------------------------------------------------------------------------


MALFORMED = [
    *["", "4", "x", "0", "5", "6", "47", "42", "42[]", "42{}", "42[1]", '42["a"', '42/admin,["a"]', '43["a"]', "431[]"],
    *['44{"message":"no"}', '45["a"]', '451001-["a"]', '421-["a"]', "40", '40{"a":1}', '42["bus:ping"]]'],
]
TOO_EARLY = ['42["a"]', '420["bus:ping"]', '451-0["a"]', "40[]", '40"text"']


async def test_malformed_packets_close_the_transport(edge):
    for packet in MALFORMED:
        async with dialled(edge) as wire:
            await wire.join()
            await wire.say(packet)
            code, reason = await wire.closed()
            assert (code, bool(reason)) == (1002, True), packet
    assert "Traceback" not in edge.log


async def test_nothing_is_taken_before_connect(edge):
    for packet in TOO_EARLY:
        async with dialled(edge) as wire:
            await wire.say(packet)
            assert (await wire.closed())[0] == 1002, packet


async def test_the_limits_of_messages(edge):
    async with dialled(edge) as wire:
        await wire.join()
        await wire.say(f'42["a","{"x" * 4096}"]')
        assert (await wire.closed())[0] == 1009
    for target in (frame(TEXT, b'42["\xff"]'), frame(TEXT, b"2\xff"), frame(TEXT, b"40/\xff")):
        client = await RawClient.dial(edge.port)
        assert (await client.upgrade(TARGET))[0] == 101
        client.send(frame(TEXT, b"40") + target)
        assert (await client.closing())[0] == 1007
        client.drop()
    assert "Traceback" not in edge.log


async def test_a_reserved_event_is_refused_by_its_acknowledgement_or_ends_the_session(edge):
    async with dialled(edge) as wire:
        await wire.join()
        await wire.say('423["disconnect"]')
        assert (await wire.hear()).startswith('433[{"error":{"code":"bad_request"')
        await wire.say('42["disconnect"]')
        assert await wire.hear() == "41", "the protocol's DISCONNECT: it does not come back to say it again"
        assert (await wire.closed())[0] == 1008


# -- requests that are no websocket of Engine.IO ----------------------------------------------------------------------


def fetched(port: int, target: str, origin: str = "") -> tuple[int, dict[str, Any], dict[str, str]]:
    """The status, the JSON body and the headers of a plain request."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{target}", headers={"Origin": origin} if origin else {})
    try:
        urllib.request.urlopen(request, timeout=5)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), dict(error.headers)
    raise AssertionError("such a request is refused")


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("EIO=4&transport=polling&t=abc", 0, "Transport unknown"),
        ("EIO=4", 0, "Transport unknown"),
        ("EIO=3&transport=polling", 0, "Transport unknown"),
        ("EIO=3&transport=websocket&sid=abc", 1, "Session ID unknown"),
        ("EIO=2&transport=websocket", 5, "Unsupported protocol version"),
        ("EIO=4&transport=websocket&sid=abc", 1, "Session ID unknown"),
        ("", 5, "Unsupported protocol version"),
    ],
)
async def test_the_error_is_engine_ios_and_a_browser_may_read_it(edge, query, code, message):
    status, body, headers = await asyncio.to_thread(fetched, edge.port, f"/socket.io/?{query}", "https://example.org")
    assert (status, body) == (400, {"code": code, "message": message})
    assert headers["Content-Type"] == "application/json"
    assert headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert headers["Access-Control-Allow-Credentials"] == "true"
    _, _, headers = await asyncio.to_thread(fetched, edge.port, f"/socket.io/?{query}")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in headers


async def test_a_websocket_of_another_engine_io_is_refused(edge):
    client = await RawClient.dial(edge.port)
    status, headers = await client.upgrade("/socket.io/?EIO=5&transport=websocket")
    assert (status, headers["content-type"]) == (400, "application/json")
    client.drop()


async def test_what_an_edge_counts(edge):
    async with dialled(edge) as wire:
        await wire.join()

        async def one() -> bool:
            return await edge.metric('roomcast_sockets{dialect="socketio"}') == 1

        await until(one)
    client = await RawClient.dial(edge.port)
    await client.upgrade("/socket.io/?EIO=4&transport=polling")
    assert await edge.metric('roomcast_handshakes_total{outcome="transport"}') == 1
    client.drop()


async def test_a_drain_closes_the_transport_and_says_no_disconnect(edge):
    client = await RawClient.dial(edge.port)
    assert (await client.upgrade(TARGET))[0] == 101
    client.send(frame(TEXT, b"40"))
    assert [(await client.frame())[1][:1] for _ in range(2)] == [b"0", b"4"]
    stopping = asyncio.create_task(edge.stop())
    heard = []
    while not heard or heard[-1][0] != CLOSE:
        heard.append(await client.frame())
    assert (TEXT, b"41") not in heard
    assert int.from_bytes(heard[-1][1][:2], "big") == 1012
    client.drop()
    assert await stopping == 0
