"""NATS clients of either kind, stock or mended, under the same conditions, and what became of their connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from nats.aio.client import Client

from support.nats_servers import NatsServer
from support.proxy import StallProxy
from support.until import until

C = TypeVar("C", bound=Client)


class Recorder:
    """The callbacks of a client: what went wrong, and how often it lost and found its connection."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.lost = 0
        self.back = 0

    async def on_error(self, error: Exception) -> None:
        self.errors.append(error)

    async def on_disconnect(self) -> None:
        self.lost += 1

    async def on_reconnect(self) -> None:
        self.back += 1


@asynccontextmanager
async def connected(
    kind: Callable[[], C], url: str | list[str], recorder: Recorder | None = None, **options: Any
) -> AsyncIterator[C]:
    """A client of either kind with the same options: it never gives up, and comes back fast."""
    recorder = recorder or Recorder()
    client = kind()
    settings: dict[str, Any] = {
        "error_cb": recorder.on_error,
        "disconnected_cb": recorder.on_disconnect,
        "reconnected_cb": recorder.on_reconnect,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.05,
        "connect_timeout": 2,
    }
    await client.connect(url, **{**settings, **options})
    try:
        yield client
    finally:
        await end(client)


async def end(client: Client) -> None:
    """Close a client, whatever state it is in: also the stock one that hangs."""
    transport = client._transport and client._transport._io_writer and client._transport._io_writer.transport
    if transport:
        transport.abort()
    with contextlib.suppress(Exception):
        await client.close()
    if client._reconnection_task is not None:
        client._reconnection_task.cancel()


@asynccontextmanager
async def disconnected(kind: Callable[[], C], server: NatsServer) -> AsyncIterator[tuple[C, StallProxy, Recorder]]:
    """A client whose connection is cut and refused; ``proxy.accept()`` lets it come back."""
    recorder = Recorder()
    async with StallProxy(server.url) as proxy, connected(kind, proxy.url, recorder) as client:
        proxy.refuse()
        proxy.cut()
        await until(lambda: recorder.lost, what="the cut is noticed")
        yield client, proxy, recorder


@asynccontextmanager
async def raw_publisher(server: NatsServer) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """A publisher that writes bytes as they are, and returns when the server has taken them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')

    async def publish(wire: bytes) -> None:
        writer.write(wire + b"PING\r\n")
        assert await reader.readline() == b"PONG\r\n", "the server takes what is published"

    try:
        yield publish
    finally:
        writer.close()
        await writer.wait_closed()
