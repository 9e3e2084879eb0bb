"""Where to go when a NATS node says that it is about to end (lame duck mode)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Iterable
from urllib.parse import ParseResult

LAME_DUCK_SPREAD = 4.0
"""Seconds over which the clients of a lame duck leave it. It closes nobody in its first 10 (its grace period)."""
PROBE_WITHIN = 2.0


async def another_node(servers: Iterable[ParseResult], but: str) -> ParseResult | None:
    """One of these servers that takes clients now, is no lame duck itself, and has another id than ``but``."""
    for server in random.sample(found := list(servers), len(found)):
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(PROBE_WITHIN):
                info = await _info(server)
            if info.get("server_id") != but and not info.get("ldm"):
                return server
    return None


async def _info(server: ParseResult) -> dict[str, object]:
    reader, writer = await asyncio.open_connection(server.hostname, server.port)
    try:
        line = await reader.readline()
        return dict(json.loads(line.removeprefix(b"INFO ")))
    finally:
        writer.close()
