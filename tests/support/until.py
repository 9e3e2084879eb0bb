"""Waiting for a condition, with a deadline: what tests do instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL = 0.005
"""Seconds between two looks at a condition."""


async def until(condition: Callable[[], T | Awaitable[T]], within: float = 5.0, what: str = "the condition holds") -> T:
    """Look at ``condition`` (sync or async) until it is truthy, and return what it gave.

    ``AssertionError`` says ``what`` did not happen within that many seconds, and what was seen last.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        seen = condition()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen:
            return seen
        if loop.time() > deadline:
            raise AssertionError(f"not within {within:g} s: {what} (last seen: {seen!r})")
        await asyncio.sleep(POLL)
