"""What the load tells of its sockets: how many could be opened, and what has arrived."""

from __future__ import annotations

from dataclasses import dataclass, field

from roomcast.bench.frames import Chunk
from roomcast.bench.histogram import Histogram


@dataclass(slots=True)
class Opened:
    """What became of connections that were to be opened."""

    ready: int = 0
    """Sockets that were greeted and whose every hello was answered well."""
    lost: int = 0
    """Refused, closed, or not ready in time."""
    forbidden: int = 0
    why: str = ""
    """The first reason."""
    seconds: float = 0.0
    resumed: int = 0
    """Of those that are ready: sockets whose session was taken up again."""
    again: int = 0
    """Attempts to come back that were turned away, and made again."""


@dataclass(slots=True)
class Counts:
    """What has arrived since the counting began."""

    deliveries: int = 0
    gaps: int = 0
    """Numbers that were skipped."""
    duplicates: int = 0
    """Numbers that came twice or too late."""
    closed: int = 0
    """Sockets that ended meanwhile."""
    latency: Histogram = field(default_factory=Histogram)
    busy: float = 0.0
    """The part of the time for which the busiest process of the load used a processor, 0 to 1."""
    last_at: dict[int, int] = field(default_factory=dict)
    """For each moment of sending (ns), when the last socket had it (ns)."""

    def note(self, chunk: Chunk, now: int, last_wanted: bool) -> None:
        """Count the casts of a chunk that was read just now (ns), and their latency."""
        self.deliveries += chunk.casts
        latency = self.latency
        for sent, times in chunk.stamps:
            us = (now - sent) // 1000
            shift = us.bit_length() - 6  # as Histogram.add, without the calls: this is where the load spends its time
            if us < 0 or shift > 25:
                latency.add(us, times)
            else:
                latency.counts[us if shift <= 0 else (shift << 5) + (us >> shift)] += times
                if us > latency.highest:
                    latency.highest = us
            if last_wanted:
                self.last_at[sent] = now
