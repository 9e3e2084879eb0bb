"""What a handshake says, and what a connection is granted for it: who it is, and what it may do. Pure code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from roomcast.membership import room_list
from roomcast.names import MAX_NAME_BYTES, encode_room

USER_PREFIX = "user."
"""A user's sockets are all in the room of this prefix and the user's name."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client says of itself when it connects. All of it may be made up."""

    token: str = ""
    auth: Mapping[str, Any] = field(default_factory=dict)
    """The ``auth`` object of a Socket.IO client."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the HTTP request, names in lower case."""
    query: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    """Where the connection comes from, as far as the edge can tell."""
    path: str = ""

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Handshake:
        """The handshake in a question on ``bus.auth``; what is missing or malformed there is empty."""
        return cls(
            token=_text(body.get("token")),
            auth=_object(body.get("auth")),
            headers={key.lower(): str(value) for key, value in _object(body.get("headers")).items()},
            query={key: str(value) for key, value in _object(body.get("query")).items()},
            address=_text(body.get("address")),
            path=_text(body.get("path")),
        )

    def to_json(self) -> dict[str, Any]:
        """The question's body."""
        return {
            "token": self.token,
            "auth": self.auth,
            "headers": self.headers,
            "query": self.query,
            "address": self.address,
            "path": self.path,
        }


@dataclass(frozen=True, slots=True)
class Grant:
    """Who a connection is, and what it may do. ``ValueError`` names the field that is wrong."""

    user: str | None = None
    """Its sockets are all in the room ``user.<user>``."""
    rooms: tuple[str, ...] = ()
    """Joined when it connects."""
    client_rooms: tuple[str, ...] | None = None
    """Patterns of rooms that the client may join by itself, ``*`` for any text; None: those of the edge's settings."""
    data: Any = None
    """On ``socket.data``, for services."""
    expires: float = 0.0
    """Seconds since the epoch, when the connection is closed unless it has sent a fresh token; 0: never."""

    def __post_init__(self) -> None:
        if self.user is not None and (not isinstance(self.user, str) or not self.user):
            raise ValueError("user must be a text that is not empty")
        for name in ("rooms", "client_rooms"):
            value = getattr(self, name)
            if value is None and name == "client_rooms":
                continue
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
                raise ValueError(f"{name} must be a list of texts that are not empty")
            object.__setattr__(self, name, tuple(value))
        room_list(self.rooms)
        if self.user is not None:
            encode_room(USER_PREFIX + self.user, f"a user of more than {MAX_NAME_BYTES - len(USER_PREFIX)} bytes")
        expires = self.expires
        if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 <= expires < 1e12:
            raise ValueError("expires must be seconds since the epoch")

    @property
    def all_rooms(self) -> tuple[str, ...]:
        """The rooms to join, that of the user among them."""
        return (USER_PREFIX + self.user, *self.rooms) if self.user is not None else self.rooms

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Grant:
        """The grant in an answer or in a token's claims; ``ValueError`` names the field that is wrong."""
        rooms, expires = body.get("rooms"), body.get("expires")
        try:
            orjson.dumps([body.get("data"), body.get("client_rooms")])
        except TypeError as error:  # lone surrogates, huge integers, too deep: what JSON may hold and no record can
            raise ValueError(f"data cannot be stored: {error}") from None
        return cls(
            user=body.get("user"),
            rooms=() if rooms is None else rooms,
            client_rooms=body.get("client_rooms"),
            data=body.get("data"),
            expires=0.0 if expires is None else expires,
        )

    def to_json(self) -> dict[str, Any]:
        """The answer's body."""
        body: dict[str, Any] = {"user": self.user, "rooms": self.rooms, "data": self.data, "expires": self.expires}
        if self.client_rooms is not None:
            body["client_rooms"] = self.client_rooms
        return body


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _object(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
