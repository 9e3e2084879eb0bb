"""Edges on different nodes and a Bus on another: what most tests of the whole bus stand on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from roomcast import Bus
from support.edges import EdgeProcess
from support.websocket_client import Client

END = "test-end"
"""The event of the blast behind which a test looks at what was heard."""

Heard = list[tuple[str, Any]]


class Arena:
    """Edges, a Bus, and clients that are closed at the end."""

    def __init__(self, edges: list[EdgeProcess], bus: Bus) -> None:
        self.edges = edges
        self.bus = bus
        self._opened: list[Client] = []
        self._marks = itertools.count(1)

    async def client(self, edge: int = 0, **options: Any) -> Client:
        """A client of one of the edges."""
        client = await Client.open(self.edges[edge].url, **options)
        self._opened.append(client)
        return client

    async def clients(self, count: int) -> list[Client]:
        """Clients, by turns over the edges."""
        return list(await asyncio.gather(*[self.client(number % len(self.edges)) for number in range(count)]))

    async def heard(self, *clients: Client, within: float = 10.0) -> list[Heard]:
        """What each client has heard since it was asked last, of all that this Bus has sent until now.

        A blast that is sent last marks the end: casts keep their order, so nothing is waited for in vain.
        """
        mark = (END, next(self._marks))
        await self.bus.blast(*mark)
        return list(await asyncio.gather(*[self._until(client, mark, within) for client in clients]))

    async def _until(self, client: Client, mark: tuple[str, int], within: float) -> Heard:
        await client.hears_that(lambda: mark in client.events, within, f"the end {mark[1]}")
        end = client.events.index(mark)
        events = [event for event in client.events[:end] if event[0] != END]
        del client.events[: end + 1]
        return events

    async def close(self) -> None:
        """Close all clients."""
        await asyncio.gather(*[client.close() for client in self._opened])


@asynccontextmanager
async def arena(
    edge_urls: list[list[str]],
    bus_url: str,
    prefix: str,
    start_edge: Callable[..., Awaitable[EdgeProcess]],
    **settings: Any,
) -> AsyncIterator[Arena]:
    """An edge for each list of NATS servers, the first of which it connects to, and a Bus at ``bus_url``."""
    first = await start_edge(edge_urls[0], **settings)  # it makes the bucket
    rest = await asyncio.gather(*[start_edge(urls, **settings) for urls in edge_urls[1:]])
    async with Bus.connect(bus_url, prefix=prefix) as bus:
        made = Arena([first, *rest], bus)
        try:
            yield made
        finally:
            await made.close()


def spread(cluster_urls: list[str]) -> tuple[list[list[str]], str]:
    """Servers for two edges, each on a node of its own, and the third node for a Bus."""
    return [[cluster_urls[0], *cluster_urls[1:]], [cluster_urls[1], cluster_urls[0], cluster_urls[2]]], cluster_urls[2]
