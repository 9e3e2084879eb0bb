"""A pace: so many events a second, and no more than a second's worth at once. Pure code."""

from __future__ import annotations


class Pace:
    """A token bucket. A rate of 0 is no limit."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = rate
        self._at = now

    def allows(self, now: float) -> bool:
        """Whether one more event fits at this time (seconds, monotonic); if so it is counted."""
        if self._rate <= 0:
            return True
        self._tokens = min(max(self._rate, 1.0), self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
