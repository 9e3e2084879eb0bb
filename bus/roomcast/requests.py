"""Requests over NATS, thousands under way at once: one light subscription, a future and a deadline each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from nats import errors

from roomcast.errors import BusTimeout, BusUnavailable, ConnectionLost, PermissionDenied
from roomcast.nats_client import LightSubscription, MendedClient


class NoResponders(Exception):
    """NATS says that nobody listens on the subject of a request."""


@dataclass(slots=True)
class Reply:
    """An answer: its payload, and its raw header block (empty where it has none)."""

    data: bytes
    headers: bytes = b""

    @property
    def status(self) -> bytes:
        """The inline status of NATS's own answers (``b"404"``, ``b"503"``), else empty."""
        return self.headers[9:12] if self.headers[8:9] == b" " else b""


class Collector:
    """Many answers to one subject: the first token of each payload is who answered."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.heard: set[str] = set()
        self._news = asyncio.Event()

    def take(self, reply: Reply) -> None:
        """An answer has come."""
        self.heard.add(reply.data.decode("ascii", "replace"))
        self._news.set()

    async def wait_for(self, names: set[str], timeout: float) -> set[str]:
        """Wait, at most ``timeout`` seconds, until all of these have answered; returns those that have not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not names <= self.heard and loop.time() < deadline:
            self._news.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                break
        return names - self.heard


class ReplyStream:
    """Many answers to one request, in order."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._queue: asyncio.Queue[Reply] = asyncio.Queue()

    def take(self, reply: Reply) -> None:
        """An answer has come."""
        self._queue.put_nowait(reply)

    async def next(self, timeout: float) -> Reply:
        """The next answer; ``TimeoutError`` after ``timeout`` seconds without one."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        async with asyncio.timeout(timeout):
            return await self._queue.get()


L = TypeVar("L", Collector, ReplyStream)


_NOBODY: tuple[None, str] = (None, "")


class Requests:
    """Asks over one connection and hands each answer to whoever asked."""

    def __init__(self, client: MendedClient) -> None:
        self._client = client
        self.inbox = client.new_inbox()
        self._prefix = len(self.inbox) + 1
        self._count = 0
        # Who waits for an answer, by the last token of its subject, and what was asked.
        self._waiting: dict[bytes, tuple[asyncio.Future[Reply], str]] = {}
        self._collectors: dict[bytes, Collector | ReplyStream] = {}
        self._sub: LightSubscription | None = None

    def start(self) -> None:
        """Listen for answers. Subscriptions are replayed by a reconnect; call once."""
        self._client.on_denied = self._deny
        self._sub = self._client.subscribe_light(f"{self.inbox}.*", self._on_reply)

    def stop(self) -> None:
        """Stop listening; whoever still waits gets ``ConnectionLost``."""
        if self._sub is not None and not self._client.is_closed:  # closing forgets all subscriptions
            self._client.unsubscribe_light(self._sub)
        self._sub = None
        self.fail("the connection to NATS was closed before the answer; whether it was done is unknown")

    def fail(self, why: str) -> None:
        """Give up on all that is under way: the connection that would bring the answers is gone."""
        waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            if not future.done():
                future.set_exception(ConnectionLost(why))

    def _deny(self, denied: PermissionDenied) -> bool:
        """Tell all who wait for an answer on this subject; whether there were any."""
        asked = [future for future, subject in self._waiting.values() if subject == denied.subject]
        for future in asked:
            if not future.done():
                future.set_exception(denied)
        return bool(asked)

    @property
    def under_way(self) -> int:
        """Requests that wait for their answer now."""
        return len(self._waiting)

    def expect(self, timeout: float, what: str) -> tuple[str, asyncio.Future[Reply]]:
        """A reply subject and the future of what comes there: for an answer that somebody else was told to send."""
        loop = asyncio.get_running_loop()
        self._count += 1
        token = b"%x" % self._count
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting[token] = (future, what)
        timer = loop.call_later(timeout, self._expire, token, what, timeout)

        def settled(_: asyncio.Future[Reply]) -> None:
            timer.cancel()
            self._waiting.pop(token, None)

        future.add_done_callback(settled)
        return f"{self.inbox}.{token.decode()}", future

    @contextmanager
    def collect(self) -> Iterator[Collector]:
        """A subject on which many may say that they are done, for as long as the block runs."""
        with self._listening(Collector) as collector:
            yield collector

    @contextmanager
    def stream(self) -> Iterator[ReplyStream]:
        """A subject for a request that is answered by many messages, for as long as the block runs."""
        with self._listening(ReplyStream) as stream:
            yield stream

    @contextmanager
    def _listening(self, make: type[L]) -> Iterator[L]:
        self._count += 1
        token = b"%x" % self._count
        listener = make(f"{self.inbox}.{token.decode()}")
        self._collectors[token] = listener
        try:
            yield listener
        finally:
            del self._collectors[token]

    def ask(self, subject: str, payload: bytes, timeout: float, headers: bytes = b"") -> asyncio.Future[Reply]:
        """The answer to a request, as a future.

        Raises ``BusUnavailable`` when it cannot be sent. The future raises :class:`NoResponders`, ``PermissionDenied``,
        or ``BusTimeout`` or ``ConnectionLost`` when nobody knows whether it was done.
        """
        inbox, future = self.expect(timeout, subject)
        try:
            self._client.send(subject, payload, inbox, headers)
        except errors.MaxPayloadError:
            future.cancel()
            raise ValueError(f"the request has {len(payload)} bytes; NATS takes {self._client.max_payload}") from None
        except errors.Error as error:
            future.cancel()
            raise BusUnavailable(f"NATS is away ({type(error).__name__})") from error
        return future

    def _on_reply(self, _: LightSubscription, subject: bytes, __: bytes, data: bytes, headers: bytes) -> None:
        token = subject[self._prefix :]
        reply = Reply(data, headers)
        future = self._waiting.get(token, _NOBODY)[0]
        if future is None or future.done():
            collector = self._collectors.get(token)
            if collector is not None:
                collector.take(reply)
            return
        if reply.status == b"503" and not data:
            future.set_exception(NoResponders())
        else:
            future.set_result(reply)

    def _expire(self, token: bytes, what: str, timeout: float) -> None:
        future, _ = self._waiting.get(token, _NOBODY)
        if future is not None and not future.done():
            future.set_exception(
                BusTimeout(f"no answer on {what} within {timeout:g} s; whether it was done is unknown")
            )
