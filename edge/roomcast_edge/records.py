"""A socket's record in the KV bucket, and the moves that are replayed over one that lags behind. Pure code."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from roomcast.membership import Change

VERSION = 1
"""Of records and moves. A reader refuses another version, and keeps fields that it does not know."""

_ALPHABET = string.ascii_lowercase + string.digits


class UnknownVersion(Exception):
    """A record or a move was written by an edge whose format this one does not know."""


def new_edge_id() -> str:
    """A fresh edge id: 8 of ``a-z0-9``, a letter first and a digit among them, so that no word is one."""
    middle = "".join(secrets.choice(_ALPHABET) for _ in range(6))
    return secrets.choice(string.ascii_lowercase) + middle + secrets.choice(string.digits)


def new_session(edge: str) -> tuple[str, str]:
    """A fresh socket id, the edge and 96 bits that nobody can guess, and the secret half of its session, 144 bits."""
    random = secrets.token_urlsafe(30)  # one call of the kernel for both
    return f"{edge}.{random[:16]}", random[16:]


def secret_hash(secret: str) -> str:
    """What is kept of a session's secret. It has 144 random bits, so one round of SHA-256 suffices."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def secret_matches(secret: str, kept: str) -> bool:
    """Whether a secret is the one whose hash was kept, in constant time."""
    return hmac.compare_digest(secret_hash(secret), kept)


def split_session(session: str) -> tuple[str, str]:
    """The socket id and the secret of a session ``<edge>.<id>.<secret>``; empty texts where it has not that form."""
    parts = session.split(".")
    if len(parts) != 3 or not all(parts):
        return "", ""
    return f"{parts[0]}.{parts[1]}", parts[2]


@dataclass(frozen=True, slots=True)
class Away:
    """Why nobody holds a socket: which edge held it last, until when (seconds since the epoch) it may come back."""

    edge: str
    until: float
    why: str

    @classmethod
    def from_json(cls, body: Any) -> Away | None:
        """What a record says; None where it says nothing that this version knows."""
        try:
            return cls(str(body["edge"]), float(body["until"]), str(body["why"]))
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(slots=True)
class Record:
    """All that is needed to take a socket up again."""

    owner: str | None
    """The edge that holds it; None while it is away."""
    rooms: set[str]
    applied: int
    """The stream sequence of the last move that these rooms include."""
    hash: str
    user: str | None = None
    data: Any = None
    client_rooms: tuple[str, ...] | None = None
    connected_at: float = 0.0
    disconnect: str | None = None
    """A move or a change disconnected it while it was away: it must not come back."""
    away: Away | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields of a later minor version, kept as they are."""

    @property
    def holder(self) -> str:
        """The edge that holds it, or held it last; empty: that is not known."""
        if self.owner is not None:
            return self.owner
        return self.away.edge if self.away is not None else ""

    def expired(self, now: float) -> bool:
        """Whether its resume window is over at this time, in seconds since the epoch."""
        return self.owner is None and self.away is not None and self.away.until < now

    def to_json(self) -> bytes:
        """The value in the bucket."""
        body: dict[str, Any] = {
            **self.extra,
            "v": VERSION,
            "owner": self.owner,
            "rooms": sorted(self.rooms),
            "applied": self.applied,
            "hash": self.hash,
        }
        if self.user is not None:
            body["user"] = self.user
        if self.data is not None:
            body["data"] = self.data
        if self.client_rooms is not None:
            body["client_rooms"] = self.client_rooms
        if self.connected_at:
            body["connected_at"] = self.connected_at
        if self.owner is None and self.away is not None:
            body["away"] = {"edge": self.away.edge, "until": self.away.until, "why": self.away.why}
        return orjson.dumps(body)

    @classmethod
    def from_json(cls, value: bytes) -> Record:
        """The record of a value; raises :class:`UnknownVersion`, or ``ValueError`` for what is no record."""
        body = _versioned(value, "record")
        known = {"v", "owner", "rooms", "applied", "hash", "user", "data", "client_rooms", "connected_at", "away"}
        try:
            client_rooms = body.get("client_rooms")
            return cls(
                owner=body["owner"],
                rooms=set(body["rooms"]),
                applied=int(body["applied"]),
                hash=str(body["hash"]),
                user=body.get("user"),
                data=body.get("data"),
                client_rooms=None if client_rooms is None else tuple(client_rooms),
                connected_at=float(body.get("connected_at", 0.0)),
                away=Away.from_json(body.get("away")),
                extra={key: value for key, value in body.items() if key not in known},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a record: {error!r}") from None

    def apply(self, own: str, change: Change) -> bool:
        """Make a change on these rooms; returns whether anything changed."""
        joined, left = change.delta(self.rooms, own)
        self.rooms.difference_update(left)
        self.rooms.update(joined)
        if change.disconnect is not None:
            self.disconnect = change.disconnect
        return bool(joined or left or change.disconnect is not None)

    def replay(self, own: str, moves: Iterable[Move]) -> None:
        """Apply, in stream order, the moves that these rooms do not include yet."""
        for move in moves:
            if move.sequence <= self.applied:
                continue
            if move.source in self.rooms or move.source == own:
                self.apply(own, move.change)
            self.applied = move.sequence


@dataclass(frozen=True, slots=True)
class Move:
    """A bulk change in the log: what happens to whoever is in ``source`` when it is applied."""

    id: str
    source: str
    change: Change
    sequence: int = 0
    """Its place in the stream."""
    owner: str = ""
    """The edge that took the socket ``source`` over while its edge was silent: any other lets go of it."""
    taken: int = 0
    """The revision of the record by which that edge took it: whoever has a later one took it back since."""

    def to_json(self) -> bytes:
        """The value in the bucket."""
        body = {"v": VERSION, "from": self.source, **self.change.to_json()}
        if self.owner:
            body |= {"owner": self.owner, "taken": self.taken}
        return orjson.dumps(body)

    @classmethod
    def from_json(cls, move_id: str, value: bytes, sequence: int) -> Move:
        """The move of a value; raises :class:`UnknownVersion`, or ``ValueError`` for what is no move."""
        body = _versioned(value, "move")
        source = body.get("from")
        if not isinstance(source, str):
            raise ValueError("not a move: it has no 'from'")
        owner, taken = str(body.get("owner", "")), body.get("taken", 0)
        return cls(move_id, source, Change.parse(body), sequence, owner, taken if isinstance(taken, int) else 0)


def _versioned(value: bytes, what: str) -> Mapping[str, Any]:
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise ValueError(f"not a {what}: it is not JSON") from None
    if not isinstance(body, dict):
        raise ValueError(f"not a {what}: it is not a JSON object")
    if body.get("v") != VERSION:
        raise UnknownVersion(f"a {what} of version {body.get('v')!r}; this edge knows {VERSION}: upgrade it first")
    return body
