"""SIGTERM: an edge is unready, serves on while load balancers see that, closes at a pace, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import re
import signal
import time

import orjson

from roomcast import Bus
from support.bucket import BucketView, bucket_view
from support.edges import EdgeProcess
from support.until import until
from support.websocket_client import Client

SOCKETS = 300
SECONDS = 2.0


async def open_all(edge: EdgeProcess, count: int) -> list[Client]:
    """So many clients, fifty at a time."""
    clients: list[Client] = []
    while len(clients) < count:
        clients += await asyncio.gather(*[Client.open(edge.url) for _ in range(min(50, count - len(clients)))])
    return clients


async def status(edge: EdgeProcess, page: str = "/readyz") -> tuple[int, str]:
    """What the admin port says; 0 when it is gone."""
    try:
        return await edge.get(page)
    except OSError:
        return 0, ""


async def when_closed(client: Client) -> float:
    """When a client heard the end of its connection."""
    await client.is_closed(30)
    return time.monotonic()


def busiest(times: list[float], seconds: float) -> int:
    """The greatest number of these moments within so many seconds."""
    times = sorted(times)
    return max(sum(since <= at <= since + seconds for at in times) for since in times)


async def test_a_drain_is_seen_waits_and_keeps_its_pace(nats, prefix, start_edge):
    edge, refuge = await start_edge(nats.urls, drain_delay=1.5, drain_time=SECONDS), await start_edge(nats.urls)
    async with Bus.connect(nats.url, prefix=prefix) as bus, bucket_view(nats.url, prefix) as bucket:
        clients = await open_all(edge, SOCKETS)
        assert (await edge.get("/readyz"))[0] == 200
        began = time.monotonic()
        edge.signal(signal.SIGTERM)

        async def unready() -> str:
            code, text = await status(edge)
            return text if code == 503 else ""

        text = await until(unready, 2, "it is unready")
        assert "FAIL draining: yes" in text
        assert "ok   nats: connected" in text
        late = await Client.open(edge.url)
        assert (await bus.join(late.id, "room")).changed, "until load balancers have seen it, it serves on"
        assert time.monotonic() < began + 1.5, "all this was within the delay"
        closed = await asyncio.gather(*[when_closed(client) for client in [*clients, late]])
        assert min(closed) - began >= 1.5, "nobody is closed before the delay is over"
        assert busiest(closed, 0.5) <= (SOCKETS / SECONDS) * 0.8, (
            "no half a second closes more than its share, and a bit"
        )
        assert max(closed) - min(closed) > SECONDS * 0.7, "they are spread over the time"
        assert {client.close_code for client in clients} == {1012}
        hints = {re.sub(r".*come back in (\d\.\d) s", r"\1", client.close_reason) for client in clients}
        assert len(hints) > 5, hints
        assert all(0.1 <= float(hint) <= 1.0 for hint in hints)
        assert edge.process is not None
        assert await asyncio.wait_for(edge.process.wait(), 10) == 0
        assert time.monotonic() - began < 1.5 + SECONDS + 3
        assert await live_leases(bucket) == [refuge.id], "the lease is given back"
        for client in [*clients[::50], late]:
            record = await bucket.get(f"socket.{client.id}")
            assert record is not None
            assert orjson.loads(record.data or b"{}")["owner"] is None, "the record says that it is away"
        assert "WARNING" not in edge.log
        back = await asyncio.gather(*[Client.open(refuge.url, session=client.session) for client in clients[:20]])
        assert all(client.resumed for client in back)
        await asyncio.gather(*[client.close() for client in back])


async def live_leases(bucket: BucketView) -> list[str]:
    """The edges whose leases hold a value, not a marker of their end."""
    found = []
    for key in await bucket.keys("edge.>"):
        message = await bucket.get(key)
        if message is not None and message.data:
            found.append(key.removeprefix("edge."))
    return found


async def test_whoever_is_left_is_changed_during_a_drain_and_whoever_is_gone_is_too(nats, prefix, start_edge):
    edge, refuge = await start_edge(nats.urls, drain_time=3), await start_edge(nats.urls)
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        clients = await open_all(edge, SOCKETS)
        await asyncio.gather(*[bus.join(client.id, "all") for client in clients])
        edge.signal(signal.SIGTERM)
        await until(lambda: sum(client.close_code is not None for client in clients) > 30, 10, "it closes sockets")
        left = [client for client in clients if client.close_code is None]
        assert len(left) > 100, "most are still there"
        done = await asyncio.gather(*[bus.join(client.id, "late") for client in clients])
        assert all(result.changed for result in done), "nobody is refused, here or away"
        moved = await bus.add_room_members_to_rooms("late", "moved", timeout=10)
        assert moved.missing == []
        await asyncio.gather(*[client.is_closed(15) for client in clients])
        assert await edge.stop() == 0
        back = await asyncio.gather(*[Client.open(refuge.url, session=client.session) for client in clients])
        assert all(client.resumed for client in back)
        rooms = await asyncio.gather(*[bus.rooms(client.id) for client in back])
        assert {frozenset(each) for each in rooms} == {frozenset({"all", "late", "moved"})}
        await asyncio.gather(*[client.close() for client in back])


async def test_a_second_signal_hurries(nats, prefix, start_edge):
    edge = await start_edge(nats.urls, drain_delay=100, drain_time=100)
    clients = await open_all(edge, 40)
    edge.signal(signal.SIGTERM)
    await until(lambda: "drains" in edge.log, 5, "it drains")
    assert all(client.close_code is None for client in clients)
    began = time.monotonic()
    edge.signal(signal.SIGINT)
    assert edge.process is not None
    assert await asyncio.wait_for(edge.process.wait(), 10) == 0
    assert time.monotonic() - began < 5
    await asyncio.gather(*[client.is_closed() for client in clients])
    assert {client.close_code for client in clients} == {1012}


async def test_nats_may_blink_during_a_drain(fresh_nats, prefix, start_edge):
    edge, refuge = await start_edge(fresh_nats.urls, drain_delay=2), await start_edge(fresh_nats.urls)
    clients = await open_all(edge, 10)
    async with Bus.connect(fresh_nats.url, prefix=prefix) as bus:
        await asyncio.gather(*[bus.join(client.id, "room") for client in clients])
        edge.signal(signal.SIGTERM)
        await until(lambda: "drains" in edge.log, 5, "it drains")
        await asyncio.to_thread(fresh_nats.kill)
        await asyncio.to_thread(fresh_nats.start)
        await asyncio.gather(*[client.is_closed(10) for client in clients])
        assert await edge.stop() == 0
        await until(lambda: "in step with the log" in refuge.log, 15, "the other is back")
        back = await asyncio.gather(*[Client.open(refuge.url, session=client.session) for client in clients])
        assert all(client.resumed for client in back)
        assert "left without a word" not in edge.log
        assert "the connection to NATS is lost" in edge.log, "it held casts and answers until it was in step again"
        await asyncio.gather(*[client.close() for client in back])
