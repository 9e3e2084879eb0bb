"""A log-linear histogram of latencies: 32 steps an octave, so any figure is right to 3 %. Pure code."""

from __future__ import annotations

STEPS = 32
BUCKETS = 1024
"""Enough for 35 minutes in microseconds."""


class Histogram:
    """Counts of whole microseconds. ``highest`` is exact."""

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.highest = 0

    def add(self, us: int, times: int = 1) -> None:
        """Count a latency in microseconds; what lies in the future counts as 0."""
        us = max(us, 0)
        self.highest = max(self.highest, us)
        self.counts[bucket(us)] += times

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.highest = max(self.highest, other.highest)

    @property
    def total(self) -> int:
        """How many latencies were counted."""
        return sum(self.counts)

    def percentile(self, part: float) -> int:
        """Microseconds that ``part`` (0 to 1) of all stay under, to 3 %; 0 where nothing was counted."""
        wanted = part * self.total
        so_far = 0
        for index, count in enumerate(self.counts):
            so_far += count
            if so_far >= wanted and count:
                return min(upper(index), self.highest)
        return 0


def bucket(us: int) -> int:
    """The index of a latency of at least 0 µs."""
    shift = us.bit_length() - 6
    return us if shift <= 0 else min((shift << 5) + (us >> shift), BUCKETS - 1)


def upper(index: int) -> int:
    """The greatest latency, in microseconds, that is counted in a bucket."""
    if index < 2 * STEPS:
        return index
    shift = (index >> 5) - 1
    return (((index & 31) + 33) << shift) - 1
