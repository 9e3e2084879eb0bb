"""A websocket client of the ``json`` dialect that records what it hears and waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


class Client:
    """Connected by ``await Client.open(url)``; ``events`` has all that it heard, greeting excluded, in order."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.id = ""
        self.session = ""
        self.resumed = False
        self.events: list[tuple[str, Any]] = []
        self.calls: list[tuple[str, Any, int]] = []
        """The calls of services that it has heard: event, data and number."""
        self.replies: dict[str, dict[str, Any]] = {}
        """What it replies to calls, by event: ``{"data": …}`` or ``{"error": …}``."""
        self.close_code: int | None = None
        self.close_reason = ""
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, session: str = "", headers: dict[str, str] | None = None, **options: Any) -> Client:
        """Connect to ``ws://host:port/ws`` and wait for the greeting."""
        fields = dict(headers or {})
        if session:
            fields["Roomcast-Session"] = session
        options.setdefault("proxy", None)
        options.setdefault("ping_interval", None)
        client = cls(await connect(url, additional_headers=fields, max_size=None, **options))
        greeting = json.loads(await asyncio.wait_for(client.ws.recv(), 10))
        assert greeting["event"] == "connect", greeting
        client.id, client.session = greeting["data"]["id"], greeting["data"]["session"]
        client.resumed = greeting["data"]["resumed"]
        client._reader = asyncio.create_task(client._read())
        return client

    async def _read(self) -> None:
        try:
            async for text in self.ws:
                frame = json.loads(text)
                if "event" in frame and "id" in frame:
                    self.calls.append((frame["event"], frame["data"], frame["id"]))
                    if frame["event"] in self.replies:
                        await self.ws.send(json.dumps({"id": frame["id"], **self.replies[frame["event"]]}))
                    continue
                if "id" in frame:
                    future = self._answers.pop(frame["id"], None)
                    if future is not None and not future.done():
                        future.set_result(frame)
                    continue
                async with self._news:
                    self.events.append((frame["event"], frame["data"]))
                    self._news.notify_all()
        except ConnectionClosed:
            pass
        finally:
            self.close_code, self.close_reason = self.ws.close_code, self.ws.close_reason or ""
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(ConnectionError("closed"))
            async with self._news:
                self._news.notify_all()

    async def emit(self, event: str, data: Any = None, within: float = 10.0) -> dict[str, Any]:
        """Emit and wait for the answer: a frame with ``data`` or ``error``."""
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        await self.ws.send(json.dumps({"event": event, "data": data, "id": number}))
        return await asyncio.wait_for(future, within)

    async def hears(self, count: int, within: float = 5.0) -> list[tuple[str, Any]]:
        """Wait until so many events were heard in all; returns them all. Fails with what was heard."""
        try:
            async with asyncio.timeout(within), self._news:
                await self._news.wait_for(lambda: len(self.events) >= count or self.close_code is not None)
        except TimeoutError:
            pass
        assert len(self.events) >= count, f"heard {len(self.events)} of {count} events; the last: {self.events[-3:]}"
        return self.events

    async def hears_that(self, condition: Callable[[], bool], within: float = 5.0, what: str = "it") -> None:
        """Wait until what was heard fulfils a condition. Fails with what was heard."""
        try:
            async with asyncio.timeout(within), self._news:
                await self._news.wait_for(lambda: condition() or self.close_code is not None)
        except TimeoutError:
            pass
        assert condition(), f"never heard {what}; closed: {self.close_code}; the last: {self.events[-5:]}"

    async def hears_event(self, event: str, within: float = 5.0) -> Any:
        """Wait until an event of this name was heard (also before this call); returns the data of the last one."""
        try:
            async with asyncio.timeout(within), self._news:
                await self._news.wait_for(lambda: any(name == event for name, _ in self.events))
        except TimeoutError:
            raise AssertionError(f"never heard {event!r}; heard {self.events[-5:]}") from None
        return [data for name, data in self.events if name == event][-1]

    async def is_closed(self, within: float = 5.0) -> int:
        """Wait until the connection is closed; returns the close code that was received (1006: none)."""
        async with asyncio.timeout(within):
            await self.ws.wait_closed()
            if self._reader is not None:
                await self._reader
        return self.ws.close_code or 1006

    def stall(self) -> None:
        """Read nothing more, until :meth:`go_on`. Call it while nothing is on its way."""
        self.ws.transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        self.ws.transport.resume_reading()

    def drop(self) -> None:
        """Cut the TCP connection without a word."""
        self.ws.transport.abort()

    async def close(self, code: int = 1000) -> None:
        """Close as a client that leaves."""
        await self.ws.close(code)
        if self._reader is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._reader
