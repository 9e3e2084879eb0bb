"""The progress of a run, on one line of a terminal; nothing where there is none."""

from __future__ import annotations

import sys
import time
from typing import Self

WIDTH = 24
EVERY = 0.1
"""Seconds between two drawings."""


class Progress:
    """Draws how far the scenarios are. Use it as a context: the line is gone at its end."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._number = 0
        self._drawn_at = 0.0
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def begin(self, number: int) -> None:
        """The scenario of this number begins."""
        self._number, self._drawn_at = number, 0.0
        self.tick(0.0)

    def tick(self, part: float) -> None:
        """The scenario is done to this part, from 0 to 1."""
        now = time.monotonic()
        if not self._shown or now - self._drawn_at < EVERY:
            return
        self._drawn_at = now
        count = len(self._names)
        done = (self._number + min(max(part, 0.0), 1.0)) / count
        bar = "█" * round(done * WIDTH)
        sys.stderr.write(
            f"\r\x1b[K{bar:░<{WIDTH}} {done:4.0%}  {self._number + 1} of {count}  {self._names[self._number]}"
        )
        sys.stderr.flush()
