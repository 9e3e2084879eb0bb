"""Dialects: how bytes of a client become events, and a cast becomes one frame. Each module here is one. Pure code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from roomcast_edge.closing import CloseCode

Query = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What an emit asks of a route: the method in capitals, the path as the client wrote it, the headers."""

    method: str
    path: str
    headers: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(slots=True)
class Emit:
    """An event of a client: its name, its arguments, and what its answer must bear (None: no answer is wanted)."""

    event: str
    args: tuple[Any, ...]
    reply_id: Any = None
    route: RouteRequest | None = None
    """Where it is a request for a route instead of an action."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A client's reply to a call: its data, or the code and the message of its error."""

    id: Any
    data: Any = None
    error: tuple[str, str] | None = None
    reply_id: Any = None
    """What a refusal of it must bear; None: there is no answer to a reply."""


def error_in(body: Any) -> tuple[str, str] | None:
    """The code and the message of an error that a client replies with; None where it replies with none."""
    if body is None:
        return None
    if not isinstance(body, dict):
        return "internal", str(body)
    return str(body.get("code") or "internal"), str(body.get("message") or "the client refused")


@dataclass(frozen=True, slots=True)
class Connect:
    """The client asks for its session, in a dialect that has a message for that; with what it says of itself."""

    auth: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leave:
    """The client closes: for good, or only this connection."""

    for_good: bool


@dataclass(frozen=True, slots=True)
class Say:
    """The dialect itself answers, and nobody else needs to know."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Attachments:
    """So many binary messages follow that belong to a message which was refused."""

    count: int
    refusal: Refusal


Decoded = Emit | Reply | Connect | Leave | Say | Attachments | None
"""What one text message of a client means; None: nothing beyond that the client is alive."""


class Refusal(Exception):
    """A message that is malformed or not allowed. ``reply_id`` is None where the client can get no answer."""

    def __init__(self, code: str, message: str, reply_id: Any = None, close: CloseCode = CloseCode.POLICY) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reply_id = reply_id
        self.close = close


@dataclass(frozen=True, slots=True)
class HttpRefusal:
    """The answer to a request that this dialect cannot serve: a status, a JSON body, headers."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Dialect(Protocol):
    """What a protocol fills in. All bytes that it returns are whole websocket frames."""

    name: str
    path: str
    """Where clients of this dialect connect."""
    version: str
    """What ``EIO`` in the query says where several dialects share a path; empty: nothing."""
    subprotocol: str
    """The websocket subprotocol that is accepted when a client offers it; empty: none."""
    connects_at_once: bool
    """Whether the handshake alone opens the session; else the client asks by a :class:`Connect`."""
    ping: bytes
    """What asks a client whether it is alive."""
    pings_always: bool
    """Whether clients expect a ping every interval, however much they say themselves."""

    def check(self, query: Query, origin: str) -> HttpRefusal | None:
        """Why a request cannot become a websocket; None when it can."""
        ...

    def opening(self) -> bytes:
        """What is sent as soon as the websocket stands; empty: nothing."""
        ...

    def session_of(self, auth: Mapping[str, Any]) -> str:
        """The session that a :class:`Connect` returns with; empty: none."""
        ...

    def leaves_by(self, code: int) -> bool:
        """Whether a client that closes with this code leaves for good."""
        ...

    def cast(self, event: str, payload: bytes) -> bytes:
        """A cast; ``payload`` is known to be JSON."""
        ...

    def call(self, event: str, reply_id: int, payload: bytes) -> bytes:
        """An event that asks for a reply; ``payload`` is JSON."""
        ...

    def greeting(self, socket_id: str, session: str, resumed: bool) -> bytes:
        """What a socket hears first."""
        ...

    def answer(self, reply_id: Any, payload: bytes) -> bytes:
        """The answer to an emit; ``payload`` is JSON."""
        ...

    def error(self, reply_id: Any, code: str, message: str) -> bytes:
        """The refusal of an emit."""
        ...

    def denial(self, code: CloseCode, message: str) -> bytes:
        """What is sent before the close frame to a client that was never greeted; empty: nothing."""
        ...

    def farewell(self, code: CloseCode) -> bytes:
        """What is sent before the close frame to one that was; empty: nothing."""
        ...

    def decode(self, text: bytes) -> Decoded:
        """What one text message of a client means; raises :class:`Refusal`, and nothing else for any bytes."""
        ...


class Dialects:
    """All that an edge speaks, and which one a request is in: by its path, and there by its version of Engine.IO."""

    def __init__(self, dialects: Iterable[Dialect]) -> None:
        """Of several at one path the first is for requests of no known version: its ``check`` refuses them."""
        self._at: dict[str, list[Dialect]] = {}
        for dialect in dialects:
            self._at.setdefault(dialect.path, []).append(dialect)

    @property
    def paths(self) -> list[str]:
        """Where clients connect."""
        return sorted(self._at)

    def of(self, path: str, query: Query) -> Dialect | None:
        """The dialect of a request; None where there is none."""
        there = self._at.get(path)
        if there is None:
            return None
        version = query.get("EIO", [""])[0]
        return next((dialect for dialect in there if dialect.version == version), there[0])
