"""What stands before several edges: a TCP proxy that takes each new connection to the first edge that answers."""

from __future__ import annotations

import asyncio

from support.edges import EdgeProcess
from support.proxy import StallProxy, _Side


class Front(StallProxy):
    """Enter it to start. ``prefer`` chooses the edge that new connections go to; the others are for when it is gone."""

    def __init__(self, edges: list[EdgeProcess]) -> None:
        super().__init__(f"http://127.0.0.1:{edges[0].port}")
        self._edges = edges

    def prefer(self, edge: EdgeProcess) -> None:
        """Take new connections to this edge."""
        self._edges = [edge, *[other for other in self._edges if other is not edge]]

    async def _connect(self, client: _Side) -> None:
        loop = asyncio.get_running_loop()
        for edge in self._edges:
            try:
                await loop.create_connection(lambda: _Side(self, client), "127.0.0.1", edge.port)
                return
            except OSError:
                continue
        client.transport.abort()
