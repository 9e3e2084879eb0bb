"""The service in Node: real Node, real edges, real clients."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from roomcast import Bus
from support.npm import installed, need_node
from support.websocket_client import Client

HOME = Path(__file__).parents[2] / "examples" / "node-service"


@pytest.fixture(scope="module")
def node_service() -> Path:
    """The service's file, its packages beside it."""
    need_node()
    installed(HOME)
    return HOME / "service.mjs"


@asynccontextmanager
async def running(service: Path, url: str, prefix: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *("node", str(service)),
        env={**os.environ, "NATS_URL": url, "ROOMCAST_PREFIX": prefix},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"the orders service answers\n"
        yield process
        process.terminate()
        _, log = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, log.decode()) == (0, "")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_answers_clients_joins_them_and_broadcasts(nats, prefix, start_edge, node_service):
    first, second = await asyncio.gather(start_edge(nats.urls), start_edge(nats.urls))
    async with running(node_service, nats.url, prefix), Bus.connect(nats.url, prefix=prefix) as bus:
        page, moved = await Client.open(first.url), await Client.open(first.url)
        session, socket_id = moved.session, moved.id
        moved.drop()
        moved = await Client.open(second.url, session=session)
        assert (moved.id, moved.resumed) == (socket_id, True), "on another edge than its id says"
        for client in (page, moved):
            answer = await client.emit("orders.subscribe", {"orderId": "42"})
            assert answer["data"] == {"id": "42", "status": "placed"}
            assert await bus.rooms(client.id) == {"order-42"}

        answer = await page.emit("orders.update-status", {"orderId": "42", "status": "shipped"})
        assert answer["data"] == {"id": "42", "status": "shipped"}
        assert await moved.hears_event("orderUpdated") == {"id": "42", "status": "shipped"}
        await bus.broadcast("order-42", "end", None)
        await page.hears_event("end")
        assert [event for event, _ in page.events] == ["end"], "the page that asked was omitted"

        refused = (await page.emit("orders.subscribe", {"orderId": "43"}))["error"]
        assert refused == {"code": "not_found", "message": "no such order"}
        for data in (None, {"orderId": 42}, {"orderId": "a.b"}):
            assert (await page.emit("orders.subscribe", data))["error"]["code"] == "bad_request"
        reply = await bus.nats.request(f"{prefix}.action.orders.subscribe", b'{"data":{"orderId":"43"}}', timeout=5)
        assert reply.headers == {"Nats-Service-Error-Code": "404", "Nats-Service-Error": "no such order"}
        assert json.loads(reply.data)["error"]["code"] == "not_found"
        await asyncio.gather(page.close(), moved.close())


async def test_a_socket_whose_edge_is_dead_is_found_by_another(nats, prefix, start_edge, node_service):
    first, second = await asyncio.gather(start_edge(nats.urls), start_edge(nats.urls))
    async with running(node_service, nats.url, prefix), Bus.connect(nats.url, prefix=prefix) as bus:
        client = await Client.open(first.url)
        await first.kill()
        back = await Client.open(second.url, session=client.session)
        assert back.id == client.id, "no edge answers for the prefix of this id"
        assert (await back.emit("orders.subscribe", {"orderId": "42"}))["data"]["id"] == "42"
        assert await bus.rooms(back.id) == {"order-42"}
        await back.close()
