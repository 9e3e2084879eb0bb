"""Clients that stop reading: ended in time, at a bounded price, and nobody beside them loses anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from support.arena import Arena, arena
from support.edges import EdgeProcess
from support.raw_client import CLOSE, NO_CODE, RawClient
from support.until import until
from support.websocket_client import Client

LIMIT = 512 * 1024
CLOSE_TIMEOUT = 0.5
TEXT = "x" * (64 * 1024 - 100)
SLOW = 20
MIB = 1 << 20


def rss(edge: EdgeProcess) -> int:
    """Bytes of memory that an edge holds."""
    pages = Path(f"/proc/{edge.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


class Flow:
    """Casts of 64 KiB to a room, as fast as its good members take them."""

    def __init__(self, stage: Arena, good: list[Client]) -> None:
        self._stage = stage
        self._good = good
        self.sent = 0

    async def burst(self, count: int = 8) -> None:
        """Cast, and wait until the good ones have heard it all, in order."""
        for number in range(self.sent, self.sent + count):
            await self._stage.bus.broadcast("room", "big", {"number": number, "text": TEXT})
        for client in self._good:
            events = await client.hears(count, 10)
            assert [data["number"] for _, data in events] == list(range(self.sent, self.sent + count))
            client.events.clear()
        self.sent += count


async def test_clients_that_stop_reading_are_ended(nats, prefix, start_edge):
    settings = {"outbox_limit": LIMIT, "close_timeout": CLOSE_TIMEOUT}
    async with arena([nats.urls], nats.url, prefix, start_edge, **settings) as stage:
        [edge] = stage.edges
        good = await stage.clients(3)
        slow = [await RawClient.greeted(edge.port) for _ in range(SLOW)]
        await stage.bus.join([*[client.id for client in good], *[client.id for client in slow]], "room")
        flow = Flow(stage, good)
        before = rss(edge)
        highest, waiting = before, 0.0

        async def all_are_closed() -> bool:
            nonlocal highest, waiting
            await flow.burst()
            highest = max(highest, rss(edge))
            waiting = max(waiting, await edge.metric("roomcast_outbox_bytes"))
            return await edge.metric("roomcast_slow_sockets_closed_total") == SLOW

        await until(all_are_closed, 30, "all slow clients are ended")
        ended = time.monotonic()
        assert waiting <= SLOW * (LIMIT + 8 * 64 * 1024), f"{waiting / MIB:.1f} MiB wait for {SLOW} clients"
        assert highest - before < SLOW * LIMIT * 2 + 32 * MIB, f"{(highest - before) / MIB:.0f} MiB more"
        assert await stage.bus.count("room") == 3, "they are no members any more"

        # They never read: the close waits in the kernel's buffers, and a deadline ends the connection.
        await until(lambda: standing(edge) == 3, CLOSE_TIMEOUT + 2, "their connections are cut")
        assert time.monotonic() - ended < CLOSE_TIMEOUT + 2
        for client in slow:
            code, _ = await client.closing(10)
            assert code in (1013, NO_CODE), code
        assert await edge.metric('roomcast_closes_total{code="1013"}') == SLOW
        assert await edge.metric("roomcast_outbox_bytes") == 0
        await flow.burst(50)
        assert "Traceback" not in edge.log


def standing(edge: EdgeProcess) -> int:
    """How many TCP connections to clients stand."""
    rows = Path(f"/proc/{edge.pid}/net/tcp").read_text().splitlines()[1:]
    port = f":{edge.port:04X}"
    return sum((fields := row.split())[1].endswith(port) and fields[3] == "01" for row in rows)


async def test_a_client_that_wakes_up_is_told_why_and_gets_whole_frames_until_then(nats, prefix, start_edge):
    settings = {"outbox_limit": LIMIT, "close_timeout": 10}
    async with arena([nats.urls], nats.url, prefix, start_edge, **settings) as stage:
        [edge] = stage.edges
        good = await stage.clients(1)
        slow = await RawClient.greeted(edge.port)
        await stage.bus.join([good[0].id, slow.id], "room")
        flow = Flow(stage, good)

        async def is_closed() -> bool:
            await flow.burst()
            return await edge.metric("roomcast_slow_sockets_closed_total") == 1

        await until(is_closed, 30, "the slow client is ended")
        heard: list[int] = []
        while True:
            opcode, payload = await slow.frame()
            if opcode == CLOSE:
                break
            heard.append(json.loads(payload)["data"]["number"])
        assert int.from_bytes(payload[:2], "big") == 1013
        assert heard == list(range(len(heard))), "what came before the close is whole and in order"
        slow.drop()


async def test_a_client_that_is_slow_for_a_moment_loses_nothing(nats, prefix, start_edge):
    async with arena([nats.urls], nats.url, prefix, start_edge, outbox_limit=64 * MIB) as stage:
        good, late = await stage.client(), await stage.client(max_queue=1)
        await stage.bus.join([good.id, late.id], "room")
        late.ws.transport.pause_reading()
        flow = Flow(stage, [good])

        async def backs_up() -> bool:
            await flow.burst()
            return await stage.edges[0].metric("roomcast_outbox_bytes") > MIB

        await until(backs_up, 20, "something waits for it")
        late.ws.transport.resume_reading()
        events = await late.hears(flow.sent, 20)
        assert [data["number"] for _, data in events] == list(range(flow.sent))
        await stage.bus.broadcast("room", "small", 1)
        assert await late.hears_event("small") == 1
        await until(lambda: _is_empty(stage.edges[0]), what="nothing waits any more")


async def _is_empty(edge: EdgeProcess) -> bool:
    return await edge.metric("roomcast_outbox_bytes") == 0


@pytest.mark.parametrize("full", [False, True], ids=["an empty buffer", "a full buffer"])
async def test_a_stalled_reader_is_found_by_the_ping_deadline(nats, prefix, start_edge, full: bool):
    settings = {"ping_interval": 0.5, "ping_timeout": 2, "outbox_limit": 64 * MIB, "close_timeout": 30}
    async with arena([nats.urls], nats.url, prefix, start_edge, **settings) as stage:
        [edge] = stage.edges
        good = await stage.client()
        stalled = await RawClient.greeted(edge.port)
        await stage.bus.join([good.id, stalled.id], "room")
        flow = Flow(stage, [good])
        began = time.monotonic()

        async def is_full() -> bool:
            await flow.burst(64)
            return await edge.metric("roomcast_outbox_bytes") > 0

        if full:
            await until(is_full, 10, "the buffers between are full")
        await until(lambda: _counts(stage, 1), 8, "the stalled reader is no member any more")
        assert time.monotonic() - began < 8
        assert await edge.metric('roomcast_closes_total{code="1006"}') == 1
        assert standing(edge) == 1, "its connection was aborted, not closed; who answers pings stays"
        assert good.close_code is None
        stalled.drop()


async def _counts(stage: Arena, count: int) -> bool:
    return await stage.bus.count("room") == count


async def test_a_client_that_talks_but_never_reads_is_bounded_too(nats, prefix, start_edge):
    # Its pongs and answers pile up at the edge, not casts.
    settings = {"outbox_limit": LIMIT, "close_timeout": CLOSE_TIMEOUT}
    async with arena([nats.urls], nats.url, prefix, start_edge, **settings) as stage:
        [edge] = stage.edges
        good, rude = await stage.client(), await stage.client(max_queue=1)
        rude.ws.transport.pause_reading()
        before = rss(edge)
        message = json.dumps({"event": "bus:join", "data": {"room": "y" * 200}, "id": "x" * 5000})
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(20):
                while await edge.metric("roomcast_slow_sockets_closed_total") == 0:
                    for _ in range(200):
                        await rude.ws.send(message)
        assert await edge.metric("roomcast_slow_sockets_closed_total") == 1
        assert rss(edge) - before < 48 * MIB
        assert await good.emit("bus:ping") == {"id": 1, "data": {}}
        rude.drop()
