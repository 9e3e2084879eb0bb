"""The end of an edge that nobody notices: its sockets are closed at a pace at which other edges can take them up."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from roomcast_edge.closing import CloseCode

if TYPE_CHECKING:
    from roomcast_edge.listener import Listener

TICK = 0.05
"""Seconds between two batches."""
LEAST_RATE = 100.0
"""Sockets a second that are closed at least: few sockets need not take the whole time."""
HINT = (0.1, 1.0)
"""Seconds after which a client should come back. The pace spreads them already: this breaks up a batch."""
LATE_SECONDS = 5.0
"""How much longer than planned the closing may take on an edge that lags, before the rest goes at once."""


class Pace:
    """How many sockets a batch closes: never more than two batches' worth, however late the loop is. Pure."""

    def __init__(self, sockets: int, seconds: float, now: float) -> None:
        self.rate = max(LEAST_RATE, sockets / max(seconds, TICK))
        self._at = now
        self._credit = self.rate * TICK

    def due(self, now: float) -> int:
        """How many may be closed at this time (seconds, monotonic); they count as closed."""
        self._credit = min(self._credit + (now - self._at) * self.rate, 2 * self.rate * TICK)
        self._at = now
        whole = int(self._credit)
        self._credit -= whole
        return whole


class Drain:
    """From "no new clients" to "no clients". :meth:`hurry` shortens whatever it waits for."""

    def __init__(self) -> None:
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Close all that are left at once."""
        self._hurry.set()

    async def run(self, listener: Listener, delay: float, seconds: float) -> None:
        """Wait for load balancers, accept nobody any more, close the sockets within so many seconds."""
        await self._pause(delay)
        listener.refuse()
        loop = asyncio.get_running_loop()
        began = loop.time()
        pace = Pace(len(listener.open_connections()), seconds, began)
        while left := listener.open_connections():
            late = loop.time() > began + seconds + LATE_SECONDS
            if self._hurry.is_set() or late:
                spread = (HINT[0], max(HINT[1], len(left) / pace.rate))
                for connection in left:
                    connection.end(CloseCode.DRAINING, come_back(spread))
                break
            for connection in left[: pace.due(loop.time())]:
                connection.end(CloseCode.DRAINING, come_back(HINT))
            await self._pause(TICK)
        await listener.emptied()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass


def come_back(spread: tuple[float, float]) -> str:
    """The reason of a close: when to come back, jittered."""
    return f"the edge goes away; come back in {random.uniform(*spread):.1f} s"
