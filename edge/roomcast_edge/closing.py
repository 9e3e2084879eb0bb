"""Why an edge ends a connection: one table of close codes for all dialects. Pure code."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """The codes that an edge chooses."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    BINARY = 1003
    NOT_UTF8 = 1007
    POLICY = 1008
    NO_ANSWER = 1006  # never sent: the connection is aborted
    TOO_LARGE = 1009
    DRAINING = 1012
    TRY_LATER = 1013
    LOST_PLACE = 4000
    REFUSED = 4500
    TOKEN_EXPIRED = 4501
    KICKED = 4502
    REPLACED = 4503

    @property
    def come_back(self) -> bool:
        """Whether the client should connect again: its session is kept for the resume window."""
        return self in _COME_BACK

    @property
    def ends_session(self) -> bool:
        """Whether the session ends with the connection: nothing is left to resume."""
        return self not in _COME_BACK and self not in _GOES_ON


_COME_BACK = frozenset({CloseCode.DRAINING, CloseCode.TRY_LATER, CloseCode.LOST_PLACE})
# The client itself closed the connection and may be back; or the session was taken up elsewhere and goes on there.
_GOES_ON = frozenset({CloseCode.GOING_AWAY, CloseCode.NO_ANSWER, CloseCode.REPLACED})
