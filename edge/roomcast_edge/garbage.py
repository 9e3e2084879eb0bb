"""The garbage collector, told what an edge knows: sockets live long, and end without leaving cycles.

A full collection walks every object of every socket: a quarter of a second at 50,000. So what lives long is frozen,
out of the collector's sight, after every so many new sockets; automatic collections see only what is young.
"""

from __future__ import annotations

import gc

YOUNG_THRESHOLD = 20_000
"""Allocations between two collections of the youngest objects."""
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
        gc.set_threshold(YOUNG_THRESHOLD, 20, 1_000_000)

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
