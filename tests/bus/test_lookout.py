"""A service on a NATS node that is cut off goes to where it hears edges, and for no other reason."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import pytest

from roomcast import Bus
from roomcast.lookout import ENDS, LEAVES, SILENT_SECONDS
from roomcast.names import Subjects
from roomcast.nats_client import MendedClient, connect
from support.nats_servers import NatsServer
from support.partition import PartitionedCluster
from support.until import until

BEAT = 0.2
MOVES = "this NATS node is cut off from the edges"


async def ignore(_: Exception) -> None:
    """Errors of connections that a test breaks itself."""


class Edge:
    """What an edge says of itself, at one NATS node. Use it as a context."""

    def __init__(self, url: str, prefix: str, name: str) -> None:
        self._url = url
        self._subject = Subjects(prefix).alive
        self._name = name.encode()
        self._client: MendedClient | None = None
        self._beats: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Edge:
        self._client = await connect([self._url], name="edge", on_error=ignore)
        self._beats = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.falls_silent()
        assert self._client is not None, "it was entered"
        await self._client.close()

    async def _beat(self) -> None:
        while True:
            self.say()
            await asyncio.sleep(BEAT)

    def say(self, *words: bytes) -> None:
        """Its id, and a word."""
        assert self._client is not None, "it was entered"
        self._client.send(self._subject, b" ".join((self._name, *words)))

    async def falls_silent(self, *last_words: bytes) -> None:
        """Beat no more."""
        assert self._beats is not None, "it was entered"
        self._beats.cancel()
        await asyncio.gather(self._beats, return_exceptions=True)
        if last_words:
            self.say(*last_words)


async def test_a_service_goes_where_the_edges_are(prefix, caplog):
    caplog.set_level(logging.WARNING, logger="roomcast")
    async with PartitionedCluster() as network, contextlib.AsyncExitStack() as stack:
        urls = network.urls
        ids = [node.monitor("varz")["server_id"] for node in network.nodes]
        bus = await stack.enter_async_context(Bus.connect(urls, prefix=prefix, dont_randomize=True))
        others = [await stack.enter_async_context(Edge(urls[1], prefix, f"edge000{n}")) for n in range(2)]
        here = await stack.enter_async_context(Edge(urls[0], prefix, "edge0009"))
        await until(lambda: len(bus._lookout._edges) == 3, what="all edges are heard")

        for edge in others:
            await edge.falls_silent()
        await asyncio.sleep(SILENT_SECONDS + 1)  # nothing is to happen: there is no condition to wait for
        assert MOVES not in caplog.text, "one is heard here"

        network.cut_off(network.nodes[0], clients=False)
        async with Edge(urls[1], prefix, "edge0003"):
            await asyncio.sleep(SILENT_SECONDS + 1)  # as above
            assert MOVES not in caplog.text, "one is still heard here"
            await here.falls_silent(LEAVES)
            left = time.monotonic()
            await until(lambda: bus.nats.is_connected and bus.nats.server_id != ids[0], 5, "the service goes")
            assert time.monotonic() - left < SILENT_SECONDS, "an edge that leaves says so"
            assert caplog.text.count(MOVES) == 1
            await network.heal()
            await until(lambda: bus._lookout._hears_nobody(time.monotonic()) is False, 5, "the edge is heard")
        await asyncio.sleep(SILENT_SECONDS + 1)  # as above
        assert caplog.text.count(MOVES) == 1, "nobody is heard anywhere"


async def test_a_service_whose_node_has_no_edges_goes_by_their_silence(prefix):
    async with PartitionedCluster() as network:
        urls = network.urls
        cut_off = network.nodes[0].monitor("varz")["server_id"]
        async with Bus.connect(urls, prefix=prefix, dont_randomize=True) as bus, Edge(urls[2], prefix, "edge0001"):
            assert bus.nats.server_id == cut_off
            await until(lambda: bus._lookout._edges, what="the edge is heard")
            network.cut_off(network.nodes[0], clients=False)
            await until(lambda: bus.nats.is_connected and bus.nats.server_id != cut_off, 5, "the service goes")


async def test_edges_that_end_are_not_looked_for(nats, prefix, monkeypatch):
    async with Bus.connect(nats.url, prefix=prefix) as bus, Edge(nats.url, prefix, "edge0001") as edge:
        await until(lambda: bus._lookout._edges, what="the edge is heard")
        await edge.falls_silent(ENDS)
        await until(lambda: not bus._lookout._edges, what="its end is heard")
        assert not bus._lookout._hears_nobody(time.monotonic() + SILENT_SECONDS + 1)


async def test_a_user_who_may_not_hear_the_edges_is_told_nothing(prefix):
    errors: list[Exception] = []
    users = "authorization { users: [{ user: app, password: app, permissions: { subscribe: ['_INBOX.>'] } }] }"
    with NatsServer(users) as server:
        url = server.url.replace("//", "//app:app@")
        async with Bus.connect(url, prefix=prefix, on_error=errors.append) as bus:
            await bus.broadcast("room", "event", 1)
            await bus.flush()
            assert not errors
            denied = await bus.nats.subscribe(f"{prefix}.other")
            with pytest.raises(Exception, match="subscribe to"):
                await bus.flush()
            assert len(errors) == 1, "others are told"
            await denied.unsubscribe()
