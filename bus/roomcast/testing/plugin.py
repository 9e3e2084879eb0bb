"""The pytest plugin: fixtures of a real cluster, a bus, and clients. Every run of pytest imports it: it is light."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from roomcast import Bus, SyncBus
    from roomcast.testing import Client, Cluster, SyncClient

try:
    from pytest_asyncio import fixture as _asyncio_fixture
except ImportError:
    _asyncio_fixture = pytest.fixture  # type: ignore[assignment]


@pytest.fixture(scope="session")
def roomcast_cluster() -> Iterator[Cluster]:
    """NATS and one edge, once for all tests. To have others, define a fixture of this name over ``Cluster(…)``."""
    from roomcast.testing import Cluster

    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def _roomcast_environment(roomcast_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """During a test ``NATS_URL`` names its cluster: a program that reads it, as the SDK does, needs no change."""
    monkeypatch.setitem(os.environ, "NATS_URL", roomcast_cluster.nats_url)
    return roomcast_cluster


@_asyncio_fixture
async def roomcast_bus(_roomcast_environment: Cluster) -> AsyncIterator[Bus]:
    """A Bus in the test's event loop (of pytest-asyncio or anyio)."""
    async with _roomcast_environment.bus() as bus:
        yield bus


@_asyncio_fixture
async def roomcast_client(_roomcast_environment: Cluster) -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Connects clients, which are closed at the test's end: ``client = await roomcast_client(edge=0, headers={…})``."""
    from roomcast.testing import Client

    opened: list[Client] = []

    async def connect(*, edge: int = 0, headers: dict[str, str] | None = None) -> Client:
        client = Client(_roomcast_environment.edge_urls, headers or {})
        opened.append(client)
        await client.connect(edge=edge)
        return client

    yield connect
    await asyncio.gather(*[client.close() for client in opened])


@pytest.fixture
def roomcast_sync_bus(_roomcast_environment: Cluster) -> Iterator[SyncBus]:
    """A SyncBus, for tests without an event loop."""
    with _roomcast_environment.sync_bus() as bus:
        yield bus


@pytest.fixture
def roomcast_sync_client(_roomcast_environment: Cluster) -> Iterator[Callable[..., SyncClient]]:
    """Connects clients for tests without an event loop, which are closed at the test's end."""
    from roomcast.background import Background
    from roomcast.testing import Client, SyncClient

    background = Background("roomcast clients")
    opened: list[SyncClient] = []

    def connect(*, edge: int = 0, headers: dict[str, str] | None = None) -> SyncClient:
        client = SyncClient(background, Client(_roomcast_environment.edge_urls, headers or {}))
        opened.append(client)
        client.connect(edge=edge)
        return client

    yield connect
    for client in opened:
        client.close()
    background.end()
