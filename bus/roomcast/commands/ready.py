"""Whether what ``roomcast up`` started is ready: NATS with its JetStream, and the edges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from nats import errors as nats_errors

from roomcast.commands.ports import HOST
from roomcast.errors import BusUnavailable
from roomcast.nats_client import MendedClient, connect

READY_WITHIN = 60.0
"""Seconds."""
POLL = 0.1
"""Seconds."""
PROBE = "roomcast-up-probe"
"""A stream that is made and deleted to see whether the cluster can hold one with replicas on all its nodes."""


async def wait_nats(urls: list[str]) -> None:
    """Wait until JetStream answers; of a cluster, until it can hold a stream on all nodes. ``TimeoutError``."""
    await _until(lambda: _nats_is_ready(urls), "NATS")


async def wait_edge(port: int, admin: int) -> None:
    """Wait until the edge says on its admin port that it takes sockets. ``TimeoutError``."""
    await _until(lambda: _edge_is_ready(admin), f"edge {port}")


async def _until(is_ready: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN):
            while True:
                if await is_ready():
                    return
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise TimeoutError(f"{what} was not ready within {READY_WITHIN:g} s") from None


async def _nats_is_ready(urls: list[str]) -> bool:
    for url in urls:
        if not await _accepts(int(url.rpartition(":")[2])):
            return False
    try:
        client = await connect(urls[:1], name="roomcast up", on_error=_ignore)
    except BusUnavailable:
        return False
    try:
        if len(urls) == 1:
            return await _succeeds(client, "INFO")
        stream = {"name": PROBE, "subjects": [PROBE], "num_replicas": len(urls), "storage": "memory"}
        return await _succeeds(client, f"STREAM.CREATE.{PROBE}", stream) and await _succeeds(
            client, f"STREAM.DELETE.{PROBE}"
        )
    except (nats_errors.Error, TimeoutError):
        return False
    finally:
        await client.close()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


async def _succeeds(client: MendedClient, verb: str, body: dict[str, Any] | None = None) -> bool:
    payload = json.dumps(body).encode() if body else b""
    reply = await client.request(f"$JS.API.{verb}", payload, timeout=2.0)
    return "error" not in json.loads(reply.data)


async def _edge_is_ready(admin: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, admin)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
    return status.split()[1:2] == [b"200"]


async def _ignore(_: Exception) -> None:
    """What goes wrong while NATS starts is seen by the next attempt."""
