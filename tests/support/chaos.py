"""Seeds, lengths and progress of chaos runs: short in CI, long with ``CHAOS=long``, repeated by ``CHAOS_SEED``."""

from __future__ import annotations

import os
import random
import sys
import time

LONG = os.environ.get("CHAOS", "") == "long"


def length(short: int, long: int) -> int:
    """How much of something a run does."""
    return long if LONG else short


def seeded(number: int = 0) -> random.Random:
    """The randomness of a run. The seed is printed, so that a failure tells it."""
    given = os.environ.get("CHAOS_SEED", "")
    seed = int(given) + number if given else random.randrange(1 << 32)
    print(f"CHAOS_SEED={seed - number}")
    return random.Random(seed)


class Progress:
    """One line on the terminal that tells how far a long run is; silent in the short form."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._began = time.monotonic()
        self._told = 0.0

    def at(self, done: int, note: str = "") -> None:
        """So much is done."""
        took = time.monotonic() - self._began
        if LONG and (took > self._told + 1 or done >= self._total):
            self._told = took
            line = f"\r{self._what}: {done} of {self._total}, {took:.0f} s  {note}"
            print(f"{line:<110}", end="" if done < self._total else "\n", file=sys.__stderr__, flush=True)
