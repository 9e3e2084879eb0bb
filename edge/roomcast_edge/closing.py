"""Why an edge ends a connection: one table of close codes for all dialects. Pure code."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """The codes that an edge chooses. ``come_back`` tells whether the client should connect again."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    BINARY = 1003
    NOT_UTF8 = 1007
    POLICY = 1008
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
        """Whether the same session may come back: its record is kept for the resume window."""
        return self in _COME_BACK


_COME_BACK = frozenset({CloseCode.DRAINING, CloseCode.TRY_LATER, CloseCode.LOST_PLACE})


def is_deliberate(code: int, by_client: bool) -> bool:
    """Whether this end of a connection ends the session too: the record goes at once, there is nothing to resume.

    A client that closes with 1000 has left. One that vanishes, navigates away (1001) or is sent back later has not.
    A session that was taken up elsewhere (4503) goes on there.
    """
    if by_client:
        return code == CloseCode.NORMAL
    try:
        known = CloseCode(code)
    except ValueError:
        return False
    return not known.come_back and known not in (CloseCode.REPLACED, CloseCode.GOING_AWAY)
