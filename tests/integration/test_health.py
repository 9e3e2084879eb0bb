"""/healthz and /readyz: a stuck loop is dead after a while, load is not; what is away is named after a grace period."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from roomcast import Bus, BusUnavailable
from support.bucket import bucket_view
from support.edges import EdgeProcess
from support.nats_servers import Port
from support.until import until
from support.websocket_client import Client

STUCK_EDGE = Path(__file__).parent.parent / "support" / "stuck_edge.py"


@asynccontextmanager
async def stuck_edge(
    urls: list[str], prefix: str, monkeypatch: pytest.MonkeyPatch, *, after: float, for_: float
) -> AsyncIterator[EdgeProcess]:
    """An edge, not started, that counts as dead after so many seconds, and that SIGUSR1 blocks for so many."""
    monkeypatch.setenv("STUCK_AFTER", str(after))
    monkeypatch.setenv("STUCK_FOR", str(for_))
    edge, port = EdgeProcess(urls, prefix), Port()
    edge.command = [sys.executable, str(STUCK_EDGE)]
    edge.admin_port = port.number
    try:
        yield edge
    finally:
        await edge.close()
        port.release()


async def says(edge: EdgeProcess, page: str, status: int, text: str, within: float = 10.0) -> None:
    """Wait until a page of the admin port answers this."""

    async def told() -> bool:
        found, body = await edge.get(page)
        return found == status and text in body

    await until(told, within, f"{page} is {status} with {text!r}")


async def test_a_stuck_loop_is_told_by_the_admin_port_which_is_not(nats, prefix, monkeypatch):
    async with stuck_edge(nats.urls, prefix, monkeypatch, after=1.0, for_=4.0) as edge:
        await edge.start()
        client = await Client.open(edge.url)
        assert await edge.get("/healthz") == (200, "ok\n")
        began = time.monotonic()
        edge.signal(signal.SIGUSR1)
        await asyncio.sleep(0)
        assert (await edge.get("/healthz"))[0] == 200, "lag is no death"
        await says(edge, "/healthz", 503, "the loop is stuck for", 3.5)
        await says(edge, "/readyz", 503, "FAIL loop", 1)
        status, text = await edge.get("/metrics")
        assert (status, "roomcast_sockets" in text) == (200, True)
        assert time.monotonic() - began < 4.0, "the loop was stuck all the while"
        await says(edge, "/healthz", 200, "ok")
        assert "data" in await client.emit("bus:ping"), "and goes on"
        await client.close()


async def test_an_edge_that_waits_for_nats_is_alive(fresh_nats, prefix, monkeypatch):
    await asyncio.to_thread(fresh_nats.stop)
    async with stuck_edge(fresh_nats.urls, prefix, monkeypatch, after=1.0, for_=1.0) as edge:
        await edge.start(ready=False)
        await until(lambda: "WARNING" in edge.log, 15, "it says what it waits for")
        began = time.monotonic()
        while time.monotonic() < began + 2.5:
            assert (await edge.get("/healthz"))[0] == 200, "to wait is not to be stuck"
            await asyncio.sleep(0.1)
        status, text = await edge.get("/readyz")
        assert status == 503
        assert "FAIL starting: " in text
        assert "not connected yet" not in text, "it says what went wrong"


async def test_nats_is_away_for_longer_than_the_grace_period(fresh_nats, prefix, start_edge):
    edge = await start_edge(fresh_nats.urls, ready_grace=2)
    client = await Client.open(edge.url)
    await asyncio.to_thread(fresh_nats.kill)
    await until(lambda: "is lost" in edge.log, 10, "it notices")
    lost = time.monotonic()
    assert (await edge.get("/readyz"))[0] == 200, "NATS may blink"
    await says(edge, "/readyz", 503, "FAIL nats: away for")
    assert time.monotonic() - lost > 1.5
    assert (await edge.get("/healthz"))[0] == 200
    assert "data" in await client.emit("bus:ping"), "sockets stay"
    await asyncio.to_thread(fresh_nats.start)
    await says(edge, "/readyz", 200, "ok   nats: connected", 20)
    assert client.close_code is None
    await client.close()


async def test_the_bucket_takes_no_writes_for_longer_than_the_grace_period(fresh_nats, prefix, start_edge):
    edge = await start_edge(fresh_nats.urls, ready_grace=1)
    client = await Client.open(edge.url)
    async with Bus.connect(fresh_nats.url, prefix=prefix) as bus, bucket_view(fresh_nats.url, prefix) as bucket:
        await bus.join(client.id, "room")
        await bucket.configure(max_msg_size=1)
        await says(edge, "/readyz", 503, "FAIL kv: takes no writes for", 15)
        assert "ok   nats: connected" in (await edge.get("/readyz"))[1]
        with pytest.raises(BusUnavailable, match="message size exceeds"):
            await bus.join(client.id, "refused", timeout=8)
        await bus.broadcast("room", "news", 1)
        assert await client.hears(1) == [("news", 1)], "casts go on"
        await bucket.configure(max_msg_size=-1)
        await says(edge, "/readyz", 200, "ok   kv: takes writes", 15)
        assert (await bus.join(client.id, "taken")).changed
    await client.close()
