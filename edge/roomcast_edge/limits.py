"""What clients may ask of services at once, and how fast: past it they hear ``too_many``. Pure code."""

from __future__ import annotations

from roomcast_edge.pace import Pace


class Asker(Pace):
    """One client's share: its pace, and what it has under way."""

    __slots__ = ("under_way",)

    def __init__(self, rate: float, now: float) -> None:
        super().__init__(rate, now)
        self.under_way = 0


class Limits:
    """Requests under way, of each client and of all; and each client's pace."""

    def __init__(self, per_socket: int, per_edge: int, rate: float) -> None:
        """``rate`` is in requests a second of one client; 0 is no limit."""
        self._per_socket = per_socket
        self._per_edge = per_edge
        self._rate = rate
        self._under_way = 0

    def asker(self, now: float) -> Asker:
        """A new client's share. ``now`` is monotonic, in seconds."""
        return Asker(self._rate, now)

    def in_pace(self, asker: Asker, now: float) -> bool:
        """Whether this client may ask for anything now; if so it is counted."""
        return asker.allows(now)

    def begin(self, asker: Asker) -> str:
        """Count one more request as under way; else say whose limit is reached."""
        if asker.under_way >= self._per_socket:
            return f"{self._per_socket} requests of this client wait for their answers already"
        if self._under_way >= self._per_edge:
            return "too many requests of all clients wait for their answers; try again later"
        asker.under_way += 1
        self._under_way += 1
        return ""

    def done(self, asker: Asker) -> None:
        """A request was answered, or given up."""
        asker.under_way -= 1
        self._under_way -= 1
