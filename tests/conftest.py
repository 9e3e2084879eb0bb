"""Fixtures that all tests share: NATS, a prefix of one's own, and the gate on leaked tasks."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from support.edges import EdgeProcess, StartEdge
from support.nats_servers import NatsCluster, NatsServer

# How long one example takes says more of the machine, and of the tests beside it, than of the code.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """One NATS server for all tests of a worker: use ``prefix``, and leave the server as it is."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def fresh_nats() -> Iterator[NatsServer]:
    """A NATS server of the test's own, to kill, stall and restart."""
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session")
def _cluster() -> Iterator[NatsCluster]:
    with NatsCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: NatsCluster) -> NatsCluster:
    """Three NATS nodes, shared by a worker's tests and healed before each: kill and stall at will, use ``prefix``."""
    _cluster.heal()
    return _cluster


@pytest.fixture
def prefix() -> str:
    """A tenant of the test's own."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def start_edge(prefix: str) -> AsyncIterator[StartEdge]:
    """Starts edges of the test's own tenant: ``await start_edge(nats.urls, client_rooms="chat-*")``."""
    started: list[EdgeProcess] = []

    async def start(urls: list[str], **settings: object) -> EdgeProcess:
        edge = EdgeProcess(urls, prefix, **settings)
        started.append(edge)
        return await edge.start()

    yield start
    await asyncio.gather(*[edge.close() for edge in started])


@pytest.fixture(autouse=True)
def _leak_gate(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_no_leaked_tasks")


@pytest.fixture
async def _no_leaked_tasks() -> AsyncIterator[None]:
    """After a test and its fixtures, no task that they started may still be pending."""
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leaked:  # what was cancelled last gets its chance to end
        _, leaked = await asyncio.wait(leaked, timeout=5.0)
    for task in leaked:
        task.cancel()
    assert not leaked, "tasks are still pending after the test: " + "; ".join(str(task.get_coro()) for task in leaked)
