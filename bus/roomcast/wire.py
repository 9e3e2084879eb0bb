"""NATS's wire protocol as the client reads it: a parser that hands whole chunks on, and light subscriptions.

nats-py's own parser matches seven regular expressions against the head of a buffer and shifts the buffer after every
message; its subscriptions have a queue and a task each. Here a chunk is walked once by offsets, and a light
subscription is six words that name a function: it is called with each message at once, in the order of the connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from nats.errors import ProtocolError

Sink = Callable[["LightSubscription", bytes, bytes, bytes, bytes], None]
"""Called with the subscription, subject, reply subject, payload and raw header block (each may be empty)."""

MAX_CONTROL_LINE = 64 * 1024


class LightSubscription:
    """Interest in a subject without a queue or a task. ``key`` is whatever the owner wants to find again."""

    __slots__ = ("_id", "_queue", "_subject", "key", "sink")

    # What nats-py reads from every subscription when it replays, drains or closes; nothing of it varies here.
    _max_msgs = 0
    _received = 0
    _closed = False
    _jsi = None
    _future = None
    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(self, sid: int, subject: str, queue: str, sink: Sink, key: Any) -> None:
        self._id = sid
        self._subject = subject
        self._queue = queue
        self.sink = sink
        self.key = key

    async def _drain(self) -> None:
        """Part of nats-py's drain of a connection; nothing is queued here."""


class Handler(Protocol):
    """What the parser calls: the client."""

    _subs: dict[int, Any]
    stats: dict[str, int]

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None: ...
    async def _process_err(self, err_msg: str) -> None: ...
    async def _process_ping(self) -> None: ...
    async def _process_pong(self) -> None: ...
    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None: ...
    async def report(self, error: Exception) -> None: ...


class ChunkParser:
    """Feeds a client's subscriptions from chunks of the connection. One bad message is reported and skipped."""

    def __init__(self, client: Handler) -> None:
        self._client = client
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 0

    def reset(self) -> None:
        """Forget what is half read: the connection is a new one."""
        self._chunks.clear()
        self._have = self._need = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take a chunk; every message that is whole now is delivered before this returns. ``ProtocolError``."""
        if self._have:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._chunks)
            self.reset()
        rest = await self._walk(data)
        if rest < len(data):
            self._chunks.append(data[rest:])
            self._have = len(data) - rest

    async def _walk(self, buf: bytes) -> int:
        """Deliver all whole operations of a buffer; returns where the first incomplete one begins."""
        client = self._client
        pos, size = 0, len(buf)
        find = buf.find
        while pos < size:
            end = find(b"\r\n", pos)
            if end < 0:
                if size - pos > MAX_CONTROL_LINE:
                    raise ProtocolError
                return pos
            first = buf[pos]
            if first == 77 or first == 72:  # MSG, HMSG
                try:
                    parts = buf[pos:end].split(b" ")  # a subject may hold what split() takes for white space
                    length = int(parts[-1])
                    head = int(parts[-2]) if first == 72 else 0
                    with_reply = len(parts) - (5 if first == 72 else 4)
                    if with_reply not in (0, 1) or not 0 <= head <= length:
                        raise ProtocolError
                    reply = parts[3] if with_reply else b""
                    sid = int(parts[2])
                except (ValueError, IndexError):
                    raise ProtocolError from None
                start = end + 2
                stop = start + length
                if stop + 2 > size:
                    self._need = stop + 2 - pos
                    return pos
                pos = stop + 2
                split = start + head
                try:
                    sub = client._subs.get(sid)
                    if type(sub) is LightSubscription:
                        stats = client.stats
                        stats["in_msgs"] += 1
                        stats["in_bytes"] += length
                        sub.sink(sub, parts[1], reply, buf[split:stop], buf[start:split])
                    elif sub is not None:
                        await client._process_msg(sid, parts[1], reply, buf[split:stop], buf[start:split])
                except Exception as error:
                    await client.report(error)
                continue
            await self._control(buf[pos:end])
            pos = end + 2
        return pos

    async def _control(self, line: bytes) -> None:
        client = self._client
        operation = line[:4].upper()
        if operation == b"PING":
            await client._process_ping()
        elif operation == b"PONG":
            await client._process_pong()
        elif operation == b"INFO":
            await client._process_info(json.loads(line[4:]))
        elif operation == b"-ERR":
            await client._process_err(line[4:].strip().strip(b"'").decode("utf-8", "replace"))
        elif operation[:3] != b"+OK":
            raise ProtocolError
