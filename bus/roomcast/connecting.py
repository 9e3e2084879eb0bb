"""A Bus that is about to be: awaited, or entered as an async context; and which servers it is for."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from roomcast.access import check_url

if TYPE_CHECKING:
    from roomcast.bus import Bus


class Connecting:
    """A Bus that is about to be: await it, or enter it as an async context."""

    def __init__(self, start: Callable[[], Awaitable[Bus]]) -> None:
        self._start = start
        self._bus: Bus | None = None

    def __await__(self) -> Generator[Any, None, Bus]:
        return self._start().__await__()

    async def __aenter__(self) -> Bus:
        self._bus = await self._start()
        return self._bus

    async def __aexit__(self, *_: object) -> None:
        assert self._bus is not None, "entered before it is left"
        await self._bus.close()


def server_urls(servers: str | Iterable[str] | None) -> list[str]:
    """The URLs that are meant: those given, else ``NATS_URL``, else localhost. ``ValueError`` for a bad one."""
    if servers is None:
        servers = os.environ.get("NATS_URL", "nats://localhost:4222")
    urls = servers.split(",") if isinstance(servers, str) else list(servers)
    urls = [url.strip() for url in urls if url.strip()]
    if not urls:
        raise ValueError("no NATS server is named: give a URL such as nats://localhost:4222, or set NATS_URL")
    for url in urls:
        check_url(url)
    return urls
