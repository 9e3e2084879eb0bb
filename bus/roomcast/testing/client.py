"""A websocket client for tests: it records what it hears, waits for it, and says what it heard instead."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from roomcast.background import Background
from roomcast.bus import Bus
from roomcast.errors import RemoteError
from roomcast.sync import SyncBus

P = ParamSpec("P")
R = TypeVar("R")

ANY: Any = object()
"""Any data at all."""
SHOWN = 10
"""Events that a failure shows."""
MARK = "roomcast.testing.mark"


class Heard(NamedTuple):
    """One event that a client heard."""

    event: str
    data: Any


class Client:
    """A connected client. ``events`` has all that it heard, in order, its greeting and :meth:`emit`'s answers excluded.

    Times are in seconds; whatever does not happen in time is an ``AssertionError`` that shows what was heard instead.
    """

    def __init__(self, urls: list[str], headers: Mapping[str, str]) -> None:
        self.id = ""
        self.session = ""
        self.resumed = False
        """Whether the last :meth:`connect` got the same id and rooms back."""
        self.events: list[Heard] = []
        self.replies: dict[str, Callable[[Any], Any]] = {}
        """By event: what a service's ``bus.call`` is answered, from the data of the call."""
        self.close_code: int | None = None
        """Once the connection is closed: why, 1006 for a connection that was lost."""
        self.close_reason = ""
        self._urls = urls
        self._headers = dict(headers)
        self._taken: set[int] = set()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._news = asyncio.Event()
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    # -- the connection ----------------------------------------------------------------------------------------------

    async def connect(self, *, edge: int = 0, timeout: float = 10.0) -> None:
        """Connect to an edge and wait for the greeting, as the same socket if it was one before."""
        headers = self._headers | ({"Roomcast-Session": self.session} if self.session else {})
        async with asyncio.timeout(timeout):
            self._connection = await connect(
                self._urls[edge], additional_headers=headers, max_size=None, ping_interval=None, proxy=None
            )
            self.close_code, self.close_reason = None, ""
            try:
                greeting = json.loads(await self._connection.recv())["data"]
            except ConnectionClosed:
                self._ended(self._connection)
                raise AssertionError(f"the edge closed instead of greeting: {self._end()}") from None
        self.id, self.session, self.resumed = greeting["id"], greeting["session"], greeting["resumed"]
        self._reader = asyncio.create_task(self._read(self._connection))

    async def reconnect(self, *, edge: int = 0, timeout: float = 10.0) -> None:
        """Lose the connection without a word, then come back, to the same edge or another, as the same socket."""
        await self.drop()
        await self.connect(edge=edge, timeout=timeout)

    async def drop(self) -> None:
        """Lose the connection without a word: the socket is away, and may come back."""
        if self._connection is not None:
            self._connection.transport.abort()
        await self._done()

    async def close(self) -> None:
        """Leave: the socket is gone at once."""
        if self._connection is not None:
            await self._connection.close()
        await self._done()

    async def closed(self, *, timeout: float = 5.0) -> int:
        """Wait until the connection is closed by the other side; returns the close code."""
        await self._until(lambda: self.close_code is not None, timeout, "was never closed")
        assert self.close_code is not None, "waited for"
        return self.close_code

    # -- what it hears and says --------------------------------------------------------------------------------------

    async def heard(self, event: str, data: Any = ANY, *, timeout: float = 5.0) -> Any:
        """Wait for the next event of this name (and with this data), which may have come before; returns its data.

        Each call takes one event: what one call returned is not returned again.
        """

        def find() -> int | None:
            for number, heard in enumerate(self.events):
                if number not in self._taken and heard.event == event and (data is ANY or heard.data == data):
                    return number
            return None

        what = repr(event) if data is ANY else f"{event!r} with {data!r}"
        await self._until(lambda: find() is not None, timeout, f"never heard {what}")
        number = find()
        assert number is not None, "waited for"
        self._taken.add(number)
        return self.events[number].data

    async def caught_up(self, bus: Bus, *, timeout: float = 5.0) -> list[Heard]:
        """Wait until all that this Bus has cast so far has come; returns the events that no call has returned yet.

        So ``assert await client.caught_up(bus) == []`` shows that it heard nothing more, without waiting for a time.
        """
        mark = Heard(MARK, secrets.token_hex(8))
        await bus.broadcast(self.id, mark.event, mark.data)
        return await self._reached(mark, timeout)

    async def _reached(self, mark: Heard, timeout: float) -> list[Heard]:
        await self._until(lambda: mark in self.events, timeout, "never heard the mark behind the casts")
        self._taken.update(number for number, heard in enumerate(self.events) if heard.event == MARK)
        return [heard for number, heard in enumerate(self.events) if number not in self._taken]

    async def emit(self, event: str, data: Any = None, *, timeout: float = 10.0) -> Any:
        """Emit an event to the service that answers it; returns the answer's data.

        ``RemoteError`` is a refusal; its ``code`` and ``message`` are the client's.
        """
        assert self._connection is not None, "connected"
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            await self._connection.send(json.dumps({"event": event, "data": data, "id": number}))
            frame = await asyncio.wait_for(answer, timeout)
        except ConnectionClosed:
            raise AssertionError(f"the connection is closed: {self._end()}") from None
        except TimeoutError:
            raise AssertionError(f"{event!r} was not answered within {timeout:g} s") from None
        finally:
            del self._answers[number]
        if "error" in frame:
            raise RemoteError(frame["error"]["code"], frame["error"]["message"])
        return frame["data"]

    # -- below -------------------------------------------------------------------------------------------------------

    async def _read(self, connection: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            async for text in connection:
                frame = json.loads(text)
                if "event" not in frame:
                    answer = self._answers.get(frame.get("id"))
                    if answer is not None and not answer.done():
                        answer.set_result(frame)
                    continue
                self.events.append(Heard(frame["event"], frame["data"]))
                if "id" in frame:
                    await connection.send(json.dumps({"id": frame["id"], **self._reply(*self.events[-1])}))
                self._news.set()
        self._ended(connection)

    def _reply(self, event: str, data: Any) -> dict[str, Any]:
        if event not in self.replies:
            return {"error": {"code": "bad_request", "message": f"the test's client has no reply to {event!r}"}}
        return {"data": self.replies[event](data)}

    def _ended(self, connection: ClientConnection) -> None:
        self.close_code = connection.close_code or 1006
        self.close_reason = connection.close_reason or ""
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AssertionError(f"closed before it was answered: {self._end()}"))
        self._news.set()

    async def _done(self) -> None:
        if self._reader is not None:
            await self._reader

    async def _until(self, condition: Callable[[], bool], timeout: float, failure: str) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    if self.close_code is not None:
                        break
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            failure += f" within {timeout:g} s"
        if not condition():
            raise AssertionError(f"{self.id} {failure}; {self._heard_instead()}")

    def _heard_instead(self) -> str:
        events = [heard for heard in self.events if heard.event != MARK]
        lines = [f"\n  {heard.event} {json.dumps(heard.data, ensure_ascii=False)[:200]}" for heard in events[-SHOWN:]]
        more = f"the last {SHOWN} of {len(events)} events" if len(events) > SHOWN else "this"
        told = f"it heard {more}:{''.join(lines)}" if lines else "it heard nothing"
        return told if self.close_code is None else f"{told}\n  and was closed: {self._end()}"

    def _end(self) -> str:
        return f"{self.close_code} {self.close_reason}".rstrip()


def _blocking(
    call: Callable[Concatenate[Client, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncClient, P], R]:
    @functools.wraps(call)
    def blocking(self: SyncClient, /, *args: P.args, **named: P.kwargs) -> R:
        return self._background.run(lambda: call(self._client, *args, **named))

    return blocking


class SyncClient:
    """The :class:`Client` for tests without an event loop: the same calls, which wait where those are awaited."""

    def __init__(self, background: Background, client: Client) -> None:
        self._background = background
        self._client = client

    connect = _blocking(Client.connect)
    reconnect = _blocking(Client.reconnect)
    drop = _blocking(Client.drop)
    close = _blocking(Client.close)
    closed = _blocking(Client.closed)
    heard = _blocking(Client.heard)
    emit = _blocking(Client.emit)

    def caught_up(self, bus: SyncBus, *, timeout: float = 5.0) -> list[Heard]:
        """As :meth:`Client.caught_up`, with a SyncBus."""
        mark = Heard(MARK, secrets.token_hex(8))
        bus.broadcast(self.id, mark.event, mark.data)
        return self._background.run(lambda: self._client._reached(mark, timeout))

    @property
    def id(self) -> str:
        """The socket's id."""
        return self._client.id

    @property
    def session(self) -> str:
        """The secret with which it comes back."""
        return self._client.session

    @property
    def resumed(self) -> bool:
        """Whether the last connect got the same id and rooms back."""
        return self._client.resumed

    @property
    def events(self) -> list[Heard]:
        """All that it heard so far."""
        return list(self._client.events)

    @property
    def replies(self) -> dict[str, Callable[[Any], Any]]:
        """As :attr:`Client.replies`."""
        return self._client.replies
