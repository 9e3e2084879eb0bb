"""The one verb of membership, a change, and what is told about sockets and results. Pure code.

A change says what happens to the members of a room S: they leave these rooms, join those, or are disconnected. S is
one socket's own room (a single change) or any room (a bulk change, a :class:`Move`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from roomcast.errors import RoomcastError
from roomcast.names import encode_room

MAX_ROOMS = 100
"""Rooms that one broadcast or one change may name."""

MAX_REASON_BYTES = 123
"""Bytes of UTF-8 that a websocket's close frame leaves for the reason."""


def room_list(rooms: str | Iterable[str], what: str = "rooms") -> tuple[str, ...]:
    """One room or several as a tuple of checked names, without repetition. ``TypeError``, ``ValueError``."""
    if isinstance(rooms, str):
        names: tuple[str, ...] = (rooms,)
    elif isinstance(rooms, Mapping | bytes) or not isinstance(rooms, Iterable):
        raise TypeError(f"{what} must be a str or a list of str, not {type(rooms).__name__}")
    else:
        names = tuple(rooms)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"{what} must be a str or a list of str; {name!r} is none")
        names = tuple(dict.fromkeys(names))
    if len(names) > MAX_ROOMS:
        raise ValueError(f"at most {MAX_ROOMS} rooms at once; {what} has {len(names)}")
    for name in names:
        encode_room(name)
    return names


def check_reason(reason: object) -> str:
    """A reason for a disconnect: at most 123 bytes of UTF-8, what a close frame holds."""
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str, not {type(reason).__name__}")
    try:
        size = len(reason.encode())
    except UnicodeEncodeError:
        raise ValueError("reason has a lone surrogate, which UTF-8 cannot hold") from None
    if size > MAX_REASON_BYTES:
        raise ValueError(f"a reason has at most {MAX_REASON_BYTES} bytes of UTF-8; this one has {size}")
    return reason


def _given(body: Mapping[str, Any], field_name: str) -> Any:
    value = body.get(field_name)
    return () if value is None else value


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to the members of a room. Leaving comes before joining; a socket never leaves its own room."""

    join: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()
    leave_all: bool = False
    """They leave every room but their own."""
    disconnect: str | None = None
    """They are disconnected for this reason."""

    def __bool__(self) -> bool:
        return bool(self.join or self.leave or self.leave_all or self.disconnect is not None)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Change:
        """The change in a request's body; ``ValueError`` names the field that is wrong."""
        try:
            join = room_list(_given(body, "join"), "join")
            leave = room_list(_given(body, "leave"), "leave")
            reason = body.get("disconnect")
            if isinstance(reason, Mapping):
                reason = reason.get("reason") or ""
            if reason is not None:
                check_reason(reason)
        except TypeError as error:
            raise ValueError(str(error)) from None
        leave_all = body.get("leave_all", False)
        if not isinstance(leave_all, bool):
            raise ValueError("leave_all must be true or false")
        both = set(join) & set(leave)
        if both:
            raise ValueError(f"join and leave both name {sorted(both)[0]!r}; which is meant?")
        return cls(join, leave, leave_all, reason)

    def to_json(self) -> dict[str, Any]:
        """The fields of a body that are not empty."""
        body: dict[str, Any] = {}
        if self.join:
            body["join"] = self.join
        if self.leave:
            body["leave"] = self.leave
        if self.leave_all:
            body["leave_all"] = True
        if self.disconnect is not None:
            body["disconnect"] = self.disconnect
        return body

    def delta(self, rooms: set[str], own: str) -> tuple[list[str], list[str]]:
        """What a socket that is in ``rooms`` joins and leaves by this change; its own room is not in ``rooms``."""
        if self.leave_all:
            left = [room for room in rooms if room not in self.join]
        else:
            left = [room for room in self.leave if room in rooms]
        return [room for room in self.join if room not in rooms and room != own], left


@dataclass(frozen=True, slots=True)
class Socket:
    """One websocket as services see it. ``rooms`` leaves out the socket's own room."""

    id: str
    edge: str = ""
    rooms: frozenset[str] = frozenset()
    user: str | None = None
    data: Any = None
    dialect: str = ""
    connected_at: float = 0.0
    """Seconds since the epoch."""

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Socket:
        """A socket from an edge's answer; fields that this version does not know are left out."""
        return cls(
            id=str(body["id"]),
            edge=str(body.get("edge", "")),
            rooms=frozenset(body.get("rooms") or ()),
            user=body.get("user"),
            data=body.get("data"),
            dialect=str(body.get("dialect", "")),
            connected_at=float(body.get("connected_at") or 0.0),
        )


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What became of one socket's change: whether it changed anything, or the error that kept it from being made."""

    id: str
    changed: bool = False
    error: RoomcastError | None = None


@dataclass(frozen=True, slots=True)
class EdgeResult:
    """What a bulk change did on one edge: sockets that were members, and sockets for which something changed."""

    matched: int
    changed: int


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What a bulk change did, per edge. ``missing`` names the edges that did not answer in time."""

    id: str
    edges: dict[str, EdgeResult] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def matched(self) -> int:
        """Connected members, over all edges that answered."""
        return sum(edge.matched for edge in self.edges.values())

    @property
    def changed(self) -> int:
        """Members for which something changed, over all edges that answered."""
        return sum(edge.changed for edge in self.edges.values())

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> MoveResult:
        """A result from a coordinator's answer."""
        edges = {edge: EdgeResult(int(row["matched"]), int(row["changed"])) for edge, row in body["edges"].items()}
        return cls(str(body.get("id", "")), edges, list(body.get("missing") or ()))


def parse_socket(request: object) -> Socket | None:
    """The socket that a request carries: a Socket itself, or what has a ``socket``; None for anything else."""
    found = request.get("socket") if isinstance(request, Mapping) else getattr(request, "socket", request)
    if isinstance(found, Socket):
        return found
    if isinstance(found, Mapping) and isinstance(found.get("id"), str):
        return Socket.from_json(found)
    return None


def request_headers(request: object) -> Any:
    """The headers of an HTTP request of any framework, an object with a ``get`` that ignores case; None: it is none."""
    headers = getattr(request, "headers", None)
    return headers if callable(getattr(headers, "get", None)) else None


def socket_id(target: object) -> str:
    """The id of a socket, of a request that carries one, or of an id itself; ``TypeError`` for anything else."""
    if isinstance(target, str):
        encode_room(target, "a socket id")
        return target
    socket = parse_socket(target)
    if socket is None:
        if request_headers(target) is not None:
            raise TypeError(
                "this request came over no socket; an X-Socket-Id can be forged, and is good for omit= and nothing else"
            )
        raise TypeError(f"expected a Socket, a request that carries one, or an id; {type(target).__name__} is none")
    return socket.id
