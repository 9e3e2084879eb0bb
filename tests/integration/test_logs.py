"""What an edge logs: one line an event in either form, few where a client could flood, and never a secret."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from contextlib import suppress

import pytest
from websockets.exceptions import WebSocketException

from roomcast import Bus
from roomcast_edge.logs import JsonLines, Lines
from support.raw_client import RawClient
from support.until import until
from support.websocket_client import Client

SECRET = "s3cretS3CRETs3cret"


async def say_secrets_in_every_way(port: int) -> list[str]:
    """Handshakes, good and bad, whose URL, headers and frames hold tokens and sessions; returns real sessions."""
    url = f"ws://127.0.0.1:{port}/ws"
    first = await Client.open(url)
    ways: list[dict[str, object]] = [
        {"session": f"abcdefg1.AAAAAAAAAAAAAAAA.{SECRET}"},
        {"session": first.session},
        {"session": first.session + "x"},
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
        {"headers": {"Cookie": f"sid={SECRET}"}},
        {"subprotocols": ["roomcast.v1", f"roomcast.token.{SECRET}", f"roomcast.session.{SECRET}"]},
    ]
    for way in ways:
        with suppress(WebSocketException, OSError, AssertionError):
            await (await Client.open(url, **way)).close(1001)  # type: ignore[arg-type]
    for query in (f"?token={SECRET}&session={SECRET}", f"?session={SECRET}%0a"):
        with suppress(WebSocketException, OSError, AssertionError):
            await (await Client.open(url + query)).close()
    key = base64.b64encode(bytes(16)).decode()
    for request in (
        f"GET /ws?token={SECRET} HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: {key}\r\n\r\n",
        f"GET /{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{SECRET}\r\n\r\n",
        f"GET //[{SECRET} HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\n\r\n",
        f"GET /ws?token={SECRET} HTTP/1.0\r\n\r\n",
    ):
        raw = await RawClient.dial(port)
        raw._writer.write(request.encode())
        await raw._reader.read()
        raw._writer.close()
    last = await Client.open(url)
    for event in ("bus:token", "bus:join", "nobody.answers"):
        with suppress(TimeoutError, ConnectionError):
            await last.emit(event, {"token": SECRET, "room": SECRET, "session": SECRET}, within=3)
    await last.ws.send(f'{{"event": "{SECRET}')  # no JSON: closed for it
    await last.is_closed()
    return [first.session, last.session]


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_is_in_the_log_even_at_debug_level(nats, prefix, start_edge, form):
    edge = await start_edge(nats.urls, log_level="debug", log_format=form, action_timeout=1, connect_rate=200)
    sessions = await say_secrets_in_every_way(edge.port)
    async with Bus.connect(nats.url, prefix=prefix) as bus:  # what services do wrong is logged, without the data
        await bus.nats.publish(f"{prefix}.blast.news", f"no JSON {SECRET}".encode())
        await until(lambda: "cast dropped" in edge.log, 5, "a bad cast is logged")
    await edge.stop()
    log = edge.log
    assert SECRET not in log
    for session in sessions:
        assert session.rpartition(".")[2] not in log, "the secret half of a session"


async def test_json_logs_are_one_object_a_line(nats, prefix, start_edge):
    edge = await start_edge(nats.urls, log_format="json")
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.nats.publish(f"{prefix}.blast.news", b"no JSON\n")
        await until(lambda: "cast dropped" in edge.log, 5, "a bad cast is logged")
    await edge.stop()
    rows = [json.loads(line) for line in edge.log.splitlines()]
    assert {row["edge"] for row in rows} == {edge.id}
    assert {row["level"] for row in rows} == {"info", "warning"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", row["time"]) for row in rows)
    assert any("takes clients at" in row["message"] for row in rows)
    assert any("drains" in row["message"] for row in rows)


async def test_a_flood_of_bad_casts_is_a_few_lines(nats, prefix, start_edge):
    edge = await start_edge(nats.urls)
    before = len(edge.log.splitlines())
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        for _ in range(2000):
            await bus.nats.publish(f"{prefix}.blast.news", b"no JSON")
        await bus.flush()

        async def counted() -> bool:
            return await edge.metric("roomcast_invalid_total") == 2000

        await until(counted, 10, "all are counted")
    assert len(edge.log.splitlines()) - before < 10


async def test_a_flood_of_bad_clients_is_a_few_lines(nats, prefix, start_edge):
    edge = await start_edge(nats.urls, log_level="debug")
    before = len(edge.log.splitlines())
    for _ in range(10):
        clients = await asyncio.gather(*[Client.open(edge.url) for _ in range(20)])
        await asyncio.gather(*[client.ws.send("no JSON") for client in clients])
        await asyncio.gather(*[client.is_closed() for client in clients])
    assert len(edge.log.splitlines()) - before < 20


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    """A record as the logging module makes it."""
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("roomcast.edge", logging.ERROR, "here.py", 1, message, (), info)


def test_what_a_stranger_says_begins_no_line_of_its_own():
    line = Lines().format(record("bad room: 'x\n2026-01-01 00:00:00,000 INFO all is well\x1b[2J'"))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert "Zoë 🎉" in Lines().format(record("Zoë 🎉"))


def test_a_fault_of_our_own_has_its_traceback_in_the_same_object():
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError as error:
        row = json.loads(JsonLines("edge1").format(record("a task failed", error)))
    assert row["message"] == "a task failed"
    assert "RuntimeError: two\nlines" in row["exception"]
