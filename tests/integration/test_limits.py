"""What clients may not do too much of: connect, say, and ask of services. Over it a clear error, never a long queue."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from roomcast import Bus, Request
from support.edges import EdgeProcess
from support.nats_servers import NatsServer
from support.raw_client import RawClient
from support.until import until
from support.websocket_client import Client


async def status_of(url: str, **headers: str) -> int:
    """The HTTP status that a real client gets; 101 when it is let in."""
    try:
        async with connect(url, proxy=None, additional_headers=headers):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def metric_is(edge: EdgeProcess, name: str, value: float) -> None:
    """Wait until a metric has a value."""

    async def holds() -> bool:
        return await edge.metric(name) == value

    await until(holds, what=f"{name} is {value}")


# -- connecting --------------------------------------------------------------------------------------------------------


async def test_pages_of_other_origins_are_refused(nats: NatsServer, start_edge):
    edge = await start_edge(nats.urls, origins="https://*.example.com,http://localhost:3000")
    for origin, status in (
        ("https://app.example.com", 101),
        ("http://localhost:3000", 101),
        ("https://example.com", 403),
        ("http://app.example.com", 403),
        ("https://app.example.com.evil.org", 403),
        ("https://evil.org", 403),
        ("null", 403),
    ):
        assert await status_of(edge.url, Origin=origin) == status, origin
    assert await status_of(edge.url) == 101, "who is no browser says no origin"
    socketio = f"ws://127.0.0.1:{edge.port}/socket.io/?EIO=4&transport=websocket"
    assert await status_of(socketio, Origin="https://evil.org") == 403
    await metric_is(edge, 'roomcast_handshakes_total{outcome="origin"}', 6)


async def test_connections_of_one_address_are_limited(nats: NatsServer, start_edge):
    edge = await start_edge(nats.urls, connections_per_address=2, proxies=1)
    mine, yours = {"X-Forwarded-For": "9.9.9.9, 1.1.1.1"}, {"X-Forwarded-For": "9.9.9.9, 2.2.2.2"}
    clients = [await Client.open(edge.url, headers=mine) for _ in range(2)]
    with pytest.raises(InvalidStatus) as refused:
        await Client.open(edge.url, headers=mine)
    assert refused.value.response.status_code == 429
    assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 5
    clients.append(await Client.open(edge.url, headers=yours))
    clients[0].drop()

    async def let_in() -> Client | None:
        try:
            return await Client.open(edge.url, headers=mine)
        except InvalidStatus:
            return None

    again = await until(let_in, what="a place is free again")
    assert again is not None
    assert await status_of(edge.url, **mine) == 429
    for client in (*clients[1:], again):
        await client.close()


@pytest.mark.parametrize("cut", [0, 1000, 16384], ids=["at once", "in pieces", "in large pieces"])
async def test_a_request_that_is_too_large_is_refused(nats: NatsServer, start_edge, cut: int):
    edge = await start_edge(nats.urls, handshake_limit=4096)
    fields = "".join(f"X-{number}: {'x' * 100}\r\n" for number in range(60))
    start = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    request = f"{start}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n".encode()
    client = await RawClient.dial(edge.port)
    for place in range(0, len(request), cut or len(request)):
        client.send(request[place : place + (cut or len(request))])
        await asyncio.sleep(0)
    assert (await client.response())[0] == 431
    assert await client.is_cut()
    await metric_is(edge, 'roomcast_handshakes_total{outcome="too_large"}', 1)
    assert await status_of(edge.url, **{"X-Large": "x" * 3000}) == 101, "what comes after the request is not counted"
    endless = await RawClient.dial(edge.port)
    endless.send(b"GET /ws HTTP/1.1\r\n" + b"x" * 5000)
    assert (await endless.response())[0] in (0, 400, 431)
    assert await endless.is_cut()
    assert await edge.metric("roomcast_sockets") == 0
    assert "Traceback" not in edge.log


async def test_a_request_that_takes_too_long_is_cut_off(nats: NatsServer, start_edge):
    edge = await start_edge(nats.urls, handshake_timeout=0.5)
    silent, slow = [await RawClient.dial(edge.port) for _ in range(2)]
    slow.send(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
    began = time.monotonic()
    assert await silent.is_cut()
    assert await slow.is_cut()
    assert 0.3 < time.monotonic() - began < 3
    await metric_is(edge, 'roomcast_handshakes_total{outcome="timeout"}', 2)


# -- asking ------------------------------------------------------------------------------------------------------------


class Slow:
    """A service that answers when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = asyncio.Event()


@asynccontextmanager
async def slow_service(nats: NatsServer, prefix: str) -> AsyncIterator[Slow]:
    slow = Slow()
    async with Bus.connect(nats.url, prefix=prefix, name="slow") as bus:

        @bus.action("wait")
        async def wait(req: Request) -> Any:
            slow.begun += 1
            await slow.go_on.wait()
            return req.data

        @bus.action("now")
        async def now(req: Request) -> Any:
            return req.data

        async with bus.serving():
            yield slow


def outcomes(answers: list[dict[str, Any]]) -> tuple[list[Any], list[str]]:
    """The data of those that were answered, and the codes of the others."""
    return [a["data"] for a in answers if "data" in a], [a["error"]["code"] for a in answers if "error" in a]


async def are_done(tasks: list[asyncio.Future[Any]], count: int) -> None:
    """Wait until so many of these are."""
    await until(lambda: sum(task.done() for task in tasks) == count, what=f"{count} are answered")


async def test_requests_under_way_of_one_client_are_limited(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, requests_per_socket=3)
    async with slow_service(nats, prefix) as slow:
        client, other = [await Client.open(edge.url) for _ in range(2)]
        for _ in range(2):  # and again, once all were answered
            slow.begun, slow.go_on = 0, asyncio.Event()
            asked = [asyncio.ensure_future(client.emit("wait", number)) for number in range(5)]
            await are_done(asked, 2)
            await until(lambda: slow.begun == 3, what="three are under way")
            assert (await other.emit("now", 1))["data"] == 1, "others are not held up"
            assert (await client.emit("bus:ping"))["data"] == {}
            slow.go_on.set()
            assert outcomes(await asyncio.gather(*asked)) == ([0, 1, 2], ["too_many"] * 2), "none is lost"
        assert await edge.metric('roomcast_actions_total{outcome="too_many"}') == 4
        for one in (client, other):
            await one.close()


async def test_requests_under_way_of_all_clients_are_limited(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, requests_per_edge=4)
    async with slow_service(nats, prefix) as slow:
        clients = [await Client.open(edge.url) for _ in range(3)]
        asked = [asyncio.ensure_future(client.emit("wait", number)) for client in clients for number in range(2)]
        await are_done(asked, 2)
        refused = [task.result()["error"] for task in asked if task.done()]
        assert all("try again" in error["message"] for error in refused)
        clients[0].drop()  # its requests are under way still, and free their places when they are answered
        slow.go_on.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert len(outcomes([answer for answer in answers if isinstance(answer, dict)])[1]) == 2
        again = await asyncio.gather(*[client.emit("wait", n) for client in clients[1:] for n in range(2)])
        assert outcomes(again) == ([0, 1, 0, 1], [])
        for client in clients[1:]:
            await client.close()


async def test_the_rate_of_one_client_is_limited(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, request_rate=10, client_rooms="*")
    async with slow_service(nats, prefix):
        fast, other = [await Client.open(edge.url) for _ in range(2)]
        answers = await asyncio.gather(*[fast.emit("now", number) for number in range(30)])
        data, codes = outcomes(answers)
        assert data[:10] == list(range(10))
        assert len(data) <= 15
        assert set(codes) == {"too_many"}
        assert (await fast.emit("bus:join", {"room": "a"}))["error"]["code"] == "too_many", "these count too"
        assert (await fast.emit("bus:ping"))["data"] == {}, "these do not"
        assert (await other.emit("now", 1))["data"] == 1

        async def answered() -> bool:
            return "data" in await fast.emit("now", 2)

        await until(answered, 5, "the rate recovers")
        for client in (fast, other):
            await client.close()


SERVICE = """
import asyncio, sys
from roomcast import Bus

async def main():
    bus = await Bus.connect(sys.argv[1], prefix=sys.argv[2], name="slow")

    @bus.action("wait")
    async def wait(req):
        await bus.broadcast("begun", "begun", 1)
        await asyncio.sleep(600)

    async with bus.serving():
        await bus.blast("serving", 1)
        await bus.flush()
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_service_that_is_killed_in_mid_request(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, action_timeout=1.5, client_rooms="begun")
    client = await Client.open(edge.url)
    await client.emit("bus:join", {"room": "begun"})
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, nats.url, prefix)
    try:
        await client.hears_event("serving", 30)
        began = time.monotonic()
        asked = asyncio.ensure_future(client.emit("wait"))
        await client.hears_event("begun")
        service.send_signal(signal.SIGKILL)
        await service.wait()
        assert (await asked)["error"]["code"] == "timeout"
        assert time.monotonic() - began < 3
        assert (await client.emit("wait"))["error"]["code"] == "no_service", "and then at once"
    finally:
        if service.returncode is None:
            service.kill()
            await service.wait()
    await client.close()
