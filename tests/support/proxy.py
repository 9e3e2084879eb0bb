"""A TCP proxy in front of a NATS server that can stall, cut and refuse while the server's other clients go on."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class StallProxy:
    """Listens on a free port and hands all on to ``url``; ``proxy.url`` stands for the server's. Enter it to start.

    ``sent`` holds what clients have sent so far, in order: the proof of what was on the wire.
    """

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        assert target.hostname, f"{url} names a host"
        assert target.port, f"{url} names a port"
        self._target = (target.hostname, target.port)
        self._scheme = target.scheme
        self._listener: asyncio.Server | None = None
        self._sides: set[_Side] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._port = 0
        self.stalled = False
        self.sent = bytearray()
        self.accepted = 0
        """Connections that clients have made."""

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{self._scheme}://127.0.0.1:{self._port}"

    async def accept(self) -> None:
        """Listen, again after :meth:`refuse`, on the same port."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(lambda: _Side(self), "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse new connections; those that stand go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def stall(self) -> None:
        """Stop reading in both directions. Connections stand, and new ones are taken, but nothing moves."""
        self.stalled = True
        for side in self._sides:
            side.transport.pause_reading()

    def resume(self) -> None:
        """Let all that waits move again."""
        self.stalled = False
        for side in self._sides:
            if not side.is_blocked:
                side.transport.resume_reading()

    def cut(self) -> None:
        """Abort all connections; new ones are taken unless they are refused."""
        for side in list(self._sides):
            side.transport.abort()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        for dial in self._dials:
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        self.cut()
        while self._sides:
            await asyncio.sleep(0)

    def _dial(self, client: _Side) -> None:
        self.accepted += 1
        dial = asyncio.get_running_loop().create_task(self._connect(client))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    async def _connect(self, client: _Side) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Side(self, client), *self._target)
        except OSError:
            client.transport.abort()


class _Side(asyncio.Protocol):
    """One of the two connections of a pair: the client's, or (with a ``peer``) ours to the server."""

    transport: asyncio.Transport

    def __init__(self, proxy: StallProxy, peer: _Side | None = None) -> None:
        self._proxy = proxy
        self._peer = peer
        self._is_client = peer is None
        self.is_blocked = True
        """The other side takes no more for now, or is not there yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP has both directions"
        self.transport = transport
        self._proxy._sides.add(self)
        transport.pause_reading()
        if self._peer is None:
            self._proxy._dial(self)
        elif self._peer.transport.is_closing():
            transport.abort()
        else:
            self._peer._peer = self
            self.resume_writing()
            self._peer.resume_writing()

    def data_received(self, data: bytes) -> None:
        assert self._peer is not None, "nothing is read before both sides stand"
        if self._is_client:
            self._proxy.sent += data
        self._peer.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy._sides.discard(self)
        if self._peer is not None:
            self._peer.transport.close()

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._peer.is_blocked = True
            self._peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None:
            self._peer.is_blocked = False
            if not self._proxy.stalled:
                self._peer.transport.resume_reading()
