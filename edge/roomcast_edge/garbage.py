"""The garbage collector, told what an edge knows: sockets live long, and end without leaving cycles.

A full collection walks every object of every socket: a quarter of a second at 50,000. So what lives long is frozen,
out of the collector's sight, after every so many new sockets. By itself the collector would come first, and walk the
same objects twice: a tenth of the time of a storm. It is left as a last resort; what is young is looked after here.
"""

from __future__ import annotations

import asyncio
import gc

LOOK_SECONDS = 0.25
YOUNG_THRESHOLD = 20_000
"""Young objects above which they are collected at the next look: some 8 ms."""
LAST_RESORT = 5 * YOUNG_THRESHOLD
"""Young objects above which the collector comes by itself, between two looks."""
FREEZE_EVERY = 500
"""New sockets between two freezes: a collection walks the objects of so many sockets, a few milliseconds."""


class Freezer:
    """Counts new sockets and freezes what has come to stay."""

    def __init__(self) -> None:
        self._fresh = 0

    def start(self) -> None:
        """All that was imported and built so far stays."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(LAST_RESORT, 20, 1_000_000)

    def count(self) -> None:
        """One more socket has come to stay."""
        self._fresh += 1
        if self._fresh >= FREEZE_EVERY:
            self.freeze()

    def freeze(self) -> None:
        """Collect what is dead among the unfrozen, freeze the rest."""
        self._fresh = 0
        gc.collect()
        gc.freeze()

    async def run(self) -> None:
        """For ever: collect the young where there are many."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if gc.get_count()[0] > YOUNG_THRESHOLD:
                gc.collect(0)
