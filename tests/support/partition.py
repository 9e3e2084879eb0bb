"""A NATS cluster of which one node can be partitioned: its routes, or its clients too, say nothing any more.

Between each two nodes, and before each node's clients, stands a proxy. Stalled proxies are a partition as the network
makes it: connections stand, new ones are taken, nothing moves, nobody is told.
"""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Self

from support.nats_servers import ROUTES, NatsCluster, NatsServer, Port
from support.proxy import StallProxy

HEALED_WITHIN = 60.0
"""Seconds that NATS may take to be one cluster again: it makes and drops routes, and elects, until all agree."""


class PartitionedCluster:
    """Three nodes; ``urls`` lead clients through the proxies. Enter it to start."""

    def __init__(self, config: str = "") -> None:
        self.cluster = NatsCluster(config=config, advertise=False)
        self._clients = {node.name: StallProxy(node.url) for node in self.nodes}
        ports = {node.name: port for node, port in zip(self.nodes, self.cluster._routes, strict=True)}
        self._routes = {
            (one.name, other.name): StallProxy(f"nats://127.0.0.1:{ports[other.name].number}")
            for one in self.nodes
            for other in self.nodes
            if one is not other
        }
        # What nodes tell each other of a third one leads nowhere: they keep to the routes that they are given.
        self._nowhere = Port()

    @property
    def nodes(self) -> list[NatsServer]:
        """The nodes, in the order of their names."""
        return self.cluster.nodes

    @property
    def urls(self) -> list[str]:
        """Where clients connect, in the order of the nodes."""
        return [self._clients[node.name].url for node in self.nodes]

    async def __aenter__(self) -> Self:
        for proxy in (*self._clients.values(), *self._routes.values()):
            await proxy.accept()
        for node, port in zip(self.nodes, self.cluster._routes, strict=True):
            routes = [proxy.url for (one, _), proxy in self._routes.items() if one == node.name]
            node._cluster = (
                f"cluster {{ name: tests, host: 127.0.0.1, port: {port.number}, pool_size: {ROUTES - 1}, "
                f"advertise: '127.0.0.1:{self._nowhere.number}', no_advertise: true, routes: {json.dumps(routes)} }}"
            )
        await asyncio.to_thread(self.cluster.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.cluster.close)
        self._nowhere.release()
        for proxy in (*self._clients.values(), *self._routes.values()):
            await proxy.__aexit__(kind, error, trace)

    def cut_off(self, node: NatsServer, *, clients: bool) -> None:
        """Partition a node from the others, and from its clients if told so."""
        for pair, proxy in self._routes.items():
            if node.name in pair:
                proxy.stall()
        if clients:
            self._clients[node.name].stall()

    async def heal(self) -> None:
        """Let everything move again, and wait until all is one cluster."""
        for proxy in (*self._clients.values(), *self._routes.values()):
            proxy.resume()
        await asyncio.to_thread(self.cluster.wait_ready, HEALED_WITHIN)
