"""The states of a session on the edge that holds it, what each event makes of them, and who may take it up. Pure code.

a record ─resumed─▶ HERE ─lost─▶ AWAY ─kicked, expired─▶ GONE
                     │ │          └─taken up elsewhere─▶ RELEASED
                     │ └─taken up elsewhere─▶ RELEASED
                     └─left, ended, kicked─▶ GONE
"""

from __future__ import annotations

from enum import Enum

from roomcast_edge.closing import CloseCode
from roomcast_edge.records import Record, secret_matches


class Event(Enum):
    """What ends a session's stay on an edge."""

    LOST = "lost"
    """The connection is gone, or was closed with a code after which the client may be back."""
    LEFT = "left"
    """The client left for good, or nobody ever learned the session."""
    ENDED = "ended"
    """The edge closed it with a code after which nothing is left to resume."""
    KICKED = "kicked"
    """A change or a move disconnected it."""
    TAKEN = "taken"
    """Another edge has taken it up."""
    EXPIRED = "expired"
    """Its record is there no more."""


class Fate(Enum):
    """What a socket's record says when it is written next."""

    HERE = "here"
    AWAY = "away"
    """It may come back within the resume window."""
    GONE = "gone"
    RELEASED = "released"
    """Another edge writes it from now on."""

    def after(self, event: Event) -> Fate:
        """What it is after an event. What is gone or released here stays so, whatever comes later."""
        return _AFTER[self].get(event, self)


_AFTER = {
    Fate.HERE: {
        Event.LOST: Fate.AWAY,
        Event.LEFT: Fate.GONE,
        Event.ENDED: Fate.GONE,
        Event.KICKED: Fate.GONE,
        Event.TAKEN: Fate.RELEASED,
        Event.EXPIRED: Fate.AWAY,  # the client is still there, and told to come back
    },
    Fate.AWAY: {Event.KICKED: Fate.GONE, Event.TAKEN: Fate.RELEASED, Event.EXPIRED: Fate.GONE},
    Fate.GONE: {},
    Fate.RELEASED: {},
}


def closed_with(code: CloseCode) -> Event:
    """The event that an edge's closing of the connection with this code is."""
    if code is CloseCode.REPLACED:
        return Event.TAKEN
    if code is CloseCode.KICKED:
        return Event.KICKED
    return Event.ENDED if code.ends_session else Event.LOST


def overtaken(record: Record | None, kept_hash: str, edge: str) -> Event | None:
    """What a record that was written since says to the edge that has held the socket; None: it still may write."""
    if record is None:
        return Event.EXPIRED
    if record.hash != kept_hash or record.owner not in (edge, None):
        return Event.TAKEN
    return None


def obstacle(record: Record, secret: str, user: str | None) -> str:
    """Why whoever presents this secret, as this user, does not get the session; empty when it is theirs.

    A disconnect is known only once the log of moves is replayed over the record.
    """
    if not secret_matches(secret, record.hash) or record.user != user:
        return "forged"
    return "disconnected" if record.disconnect is not None else ""
