"""The log of moves as this edge has read it: recent moves by source, so that a record is brought up to date at once.

Pure bookkeeping; :mod:`roomcast_edge.follower` fills it. A record replays only moves whose source is one of its rooms,
and these are found by source, however long the log is.
"""

from __future__ import annotations

import heapq
from collections import deque

from roomcast_edge.records import Move, Record

KEPT_MOVES = 200_000


class MoveLog:
    """Moves by source, in stream order, from ``since`` (exclusive) on."""

    def __init__(self, since: int, kept: int = KEPT_MOVES) -> None:
        self.since = since
        self._kept = kept
        self._order: deque[Move] = deque()
        self._by_source: dict[str, deque[Move]] = {}

    def append(self, move: Move) -> None:
        """Add the newest move; the oldest one goes when there are too many."""
        self._order.append(move)
        self._by_source.setdefault(move.source, deque()).append(move)
        if len(self._order) > self._kept:
            oldest = self._order.popleft()
            self.since = oldest.sequence
            moves = self._by_source[oldest.source]
            moves.popleft()
            if not moves:
                del self._by_source[oldest.source]

    def prepend(self, moves: list[Move], since: int) -> None:
        """Add older moves, those between ``since`` (exclusive) and where the log began so far."""
        for move in reversed(moves):
            self._order.appendleft(move)
            self._by_source.setdefault(move.source, deque()).appendleft(move)
        self.since = since

    def __len__(self) -> int:
        return len(self._order)

    def replay(self, own: str, record: Record, head: int) -> None:
        """Bring a record up to ``head``. The log must reach back to ``record.applied``."""
        assert record.applied >= self.since, "the log reaches back to what the record includes"
        heap: list[tuple[int, Move]] = []
        seen: set[str] = set()

        def watch(room: str, after: int) -> None:
            seen.add(room)
            for move in self._by_source.get(room, ()):
                if after < move.sequence <= head:
                    heapq.heappush(heap, (move.sequence, move))

        watch(own, record.applied)
        for room in list(record.rooms):
            watch(room, record.applied)
        while heap:
            sequence, move = heapq.heappop(heap)
            record.replay(own, (move,))
            for room in record.rooms - seen:
                watch(room, sequence)
        record.applied = max(record.applied, head)
