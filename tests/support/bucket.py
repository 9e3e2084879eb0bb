"""A look into the KV bucket with the stock client: what edges have written there, and what they left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError


class BucketView:
    """The bucket of a prefix."""

    def __init__(self, js: JetStreamContext, prefix: str) -> None:
        self.js = js
        self.stream = f"KV_{prefix}"
        self._subject = f"$KV.{prefix}."

    async def keys(self, pattern: str = ">") -> list[str]:
        """The keys under a pattern, markers of ended keys among them."""
        info = await self.js.stream_info(self.stream, subjects_filter=self._subject + pattern)
        return [subject.removeprefix(self._subject) for subject in info.state.subjects or {}]

    async def get(self, key: str) -> RawStreamMsg | None:
        """The last message of a key, whatever it is."""
        try:
            return await self.js.get_last_msg(self.stream, self._subject + key)
        except NotFoundError:
            return None

    async def put(self, key: str, value: bytes, ttl: float = 3600) -> int:
        """Write a key as an edge of another version might."""
        ack = await self.js.publish(self._subject + key, value, msg_ttl=ttl)
        return ack.seq

    async def consumers(self) -> int:
        """How many consumers the stream has."""
        return (await self.js.stream_info(self.stream)).state.consumer_count

    async def configure(self, **settings: Any) -> None:
        """Change the stream's configuration, as an operator does by hand."""
        config = (await self.js.stream_info(self.stream)).config
        await self.js.update_stream(config.evolve(**settings))


@asynccontextmanager
async def bucket_view(urls: str | list[str], prefix: str) -> AsyncIterator[BucketView]:
    """Look into the bucket of a prefix for as long as the block runs."""

    async def ignore(_: Exception) -> None:
        pass

    client = await nats.connect(urls, error_cb=ignore, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    try:
        yield BucketView(client.jetstream(timeout=2), prefix)
    finally:
        await client.close()
