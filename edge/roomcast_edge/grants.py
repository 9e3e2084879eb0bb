"""What a connection is granted: who it is, which rooms it joins, which it may join, until when. Pure code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roomcast.membership import room_list
from roomcast.names import encode_room
from roomcast_edge.closing import CloseCode

USER_PREFIX = "user."
"""A user's sockets are all in the room of this prefix and the user's name."""


class Denied(Exception):
    """A connection that is refused; the message may be shown to the client."""

    def __init__(self, message: str, code: CloseCode = CloseCode.REFUSED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Grant:
    """Who a connection is, and what it may do."""

    user: str | None = None
    rooms: tuple[str, ...] = ()
    """Joined when it connects; the room of the user is among them."""
    client_rooms: tuple[str, ...] | None = None
    """Patterns of rooms that the client may join by itself; None: those of the settings."""
    data: Any = None
    expires: float = 0.0
    """Seconds since the epoch; 0: never."""

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Grant:
        """The grant in the claims of a token or in a service's answer; ``ValueError`` names the field that is wrong."""
        user = body.get("user")
        if user is not None and (not isinstance(user, str) or not user):
            raise ValueError("user must be a text that is not empty")
        rooms = _texts(body, "rooms")
        patterns = _texts(body, "client_rooms")
        expires = body.get("expires", 0)
        if isinstance(expires, bool) or not isinstance(expires, int | float) or expires < 0:
            raise ValueError("expires must be seconds since the epoch")
        try:
            own = (USER_PREFIX + user,) if user is not None else ()
            joined = room_list((*own, *(rooms or ())), "rooms")
        except TypeError as error:
            raise ValueError(str(error)) from None
        for name in own:
            encode_room(name, "the room of a user")
        return cls(user, joined, patterns, body.get("data"), float(expires))


def _texts(body: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{name} must be a list of texts that are not empty")
    return tuple(value)
