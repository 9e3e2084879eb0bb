"""What an edge tells of its sockets' lives on ``bus.event.connect`` and ``bus.event.disconnect``. Pure code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """A session that has begun, or is over."""

    id: str
    """Of the socket."""
    user: str | None = None
    edge: str = ""
    """Which has told it: the one that holds the socket, or held it last."""
    reason: str = ""
    """Of a disconnect: ``left`` (the client closed), ``lost`` (and not back within the resume window), ``kicked`` (a
    service disconnected it) or ``ended`` (the edge closed it: misbehaviour, or an expired token)."""
    rooms: frozenset[str] = frozenset()
    """In which it is, or was at its end."""
    data: Any = None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Lifecycle:
        """The event in a message's body. ``KeyError``, ``TypeError``: it is none."""
        return cls(
            id=str(body["id"]),
            user=body.get("user"),
            edge=str(body.get("edge", "")),
            reason=str(body.get("reason", "")),
            rooms=frozenset(body.get("rooms") or ()),
            data=body.get("data"),
        )

    def to_json(self) -> dict[str, Any]:
        """The message's body."""
        body = {"id": self.id, "user": self.user, "edge": self.edge, "rooms": sorted(self.rooms), "data": self.data}
        return {**body, "reason": self.reason} if self.reason else body
