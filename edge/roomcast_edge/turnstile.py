"""A limit of things under way, in order.

``asyncio.Semaphore`` walks all who were let in and have not run yet for each who leaves: with thousands that wait, as
in a storm of connections, that is most of the work.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turnstile:
    """``async with`` it: so many at once, the others wait in order."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in and cancelled at once: the place is another's
                self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
