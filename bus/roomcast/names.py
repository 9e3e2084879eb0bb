"""Names: rooms, events and actions as NATS tokens and back, socket ids, and every subject and key of the bus.

A name is any text of 1 to 255 UTF-8 bytes. ASCII letters, digits, ``_`` and ``-`` stay as they are; every other byte
becomes ``=XX`` in upper-case hex. In rooms and actions a ``.`` separates tokens and an empty token is written ``=``;
in events a ``.`` is escaped too, so that an event is always one token, the last. The encoding is reversible, fits NATS
subjects and KV keys alike, and leaves nothing in which a line break or a wildcard could hide. Pure code.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_NAME_BYTES = 255
"""Bytes of UTF-8 that a room, an event or an action name may have."""

DEFAULT_EVENT = "message"

RESERVED_EVENTS = frozenset({"connect", "disconnect", "connect_error"})
"""Events that only an edge may send to a client, beside all that begin with ``bus:``."""

RESERVED_PREFIX = "bus:"

_PLAIN_ROOM = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*").fullmatch
_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_ESCAPED_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+").fullmatch
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_EDGE = r"[a-z](?=[a-z]*[0-9])[a-z0-9]{7}"
_EDGE_ID = re.compile(_EDGE).fullmatch
_SOCKET_ID = re.compile(_EDGE + r"\.[A-Za-z0-9_-]{16}").fullmatch

_PLAIN_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_ESCAPES = [chr(byte) if byte in _PLAIN_BYTES else f"={byte:02X}" for byte in range(256)]


def _utf8(name: str, what: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {type(name).__name__}")
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} {name!r} has a lone surrogate, which UTF-8 cannot hold") from None
    if not 1 <= len(raw) <= MAX_NAME_BYTES:
        shown = name if len(name) <= 40 else name[:40] + "…"
        raise ValueError(f"{what} must have 1 to {MAX_NAME_BYTES} bytes of UTF-8; {shown!r} has {len(raw)}")
    return raw


def _escape(raw: bytes) -> str:
    return "".join([_ESCAPES[byte] for byte in raw])


def _unescape(token: str, what: str) -> bytes:
    if _PLAIN_TOKEN(token):
        return token.encode()
    if not _ESCAPED_TOKEN(token):
        raise ValueError(f"{token!r} is no token of a {what}: letters, digits, _, - and =XX")
    head, *rest = token.split("=")
    return head.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)


@lru_cache(maxsize=65536)
def encode_room(name: str, what: str = "a room name") -> str:
    """The tokens of a room (or action) name. ``ValueError`` says the limit when it is empty or over 255 bytes."""
    raw = _utf8(name, what)
    if _PLAIN_ROOM(name):
        return name
    return ".".join(_escape(token) or "=" for token in raw.split(b"."))


def decode_room(tokens: str) -> str:
    """The name that :func:`encode_room` gave these tokens for; ``ValueError`` for any other text."""
    if _PLAIN_ROOM(tokens):
        name = tokens
    else:
        raw = b".".join(b"" if part == "=" else _unescape(part, "room") for part in tokens.split("."))
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{tokens!r} is not the encoding of a name: its bytes are not UTF-8") from None
    if encode_room(name) != tokens:
        raise ValueError(f"{tokens!r} is not how the name {name!r} is written")
    return name


def encode_event(name: str) -> str:
    """The one token of an event name. ``ValueError`` says the limit; reserved names are :func:`check_event`'s work."""
    raw = _utf8(name, "an event name")
    return name if _PLAIN_TOKEN(name) else _escape(raw)


def decode_event(token: str) -> str:
    """The event name that :func:`encode_event` gave this token for; ``ValueError`` for any other text."""
    try:
        name = _unescape(token, "event").decode()
    except UnicodeDecodeError:
        raise ValueError(f"{token!r} is not the encoding of a name: its bytes are not UTF-8") from None
    if encode_event(name) != token:
        raise ValueError(f"{token!r} is not how the name {name!r} is written")
    return name


def is_reserved_event(name: str) -> bool:
    """Whether only an edge may send this event to a client."""
    return name in RESERVED_EVENTS or name.startswith(RESERVED_PREFIX)


def check_event(name: str) -> str:
    """The token of an event that an application may cast; ``ValueError`` when the name is bad or reserved."""
    token = encode_event(name)
    if is_reserved_event(name):
        raise ValueError(
            f"the event name {name!r} is reserved: connect, disconnect, connect_error and bus:… are not yours"
        )
    return token


def is_socket_id(text: str) -> bool:
    """Whether a text has the form of a socket's id, ``<edge>.<16 characters>``."""
    return _SOCKET_ID(text) is not None


def is_edge_id(text: str) -> bool:
    """Whether a text has the form of an edge's id: 8 of ``a-z0-9``, a letter first, a digit somewhere."""
    return _EDGE_ID(text) is not None


def edge_of(socket_id: str) -> str:
    """The edge that gave a socket its id (not always the one that holds it now)."""
    return socket_id.partition(".")[0]


class Subjects:
    """Every subject of one tenant's bus. ``prefix`` is also the name of its KV bucket."""

    def __init__(self, prefix: str = "bus") -> None:
        if not isinstance(prefix, str) or not _PREFIX(prefix):
            raise ValueError(f"a prefix is 1 to 64 letters, digits, _ or -; {prefix!r} is not")
        self.prefix = prefix
        self.blast_all = f"{prefix}.blast.*"
        self.moved = f"{prefix}.moved"
        self.alive = f"{prefix}.alive"
        self.auth = f"{prefix}.auth"
        self.connects = f"{prefix}.event.connect"
        self.disconnects = f"{prefix}.event.disconnect"

    def room(self, room: str, event: str) -> str:
        """Where a cast to a room goes."""
        return f"{self.prefix}.room.{encode_room(room)}.{event}"

    def blast(self, event: str) -> str:
        """Where a cast to every socket goes."""
        return f"{self.prefix}.blast.{event}"

    def room_events(self, room: str) -> str:
        """What an edge subscribes to for a room."""
        return f"{self.prefix}.room.{encode_room(room)}.*"

    def own_sockets(self, edge: str) -> str:
        """What an edge subscribes to once, for the rooms of all sockets whose ids it gave."""
        return f"{self.prefix}.room.{edge}.*.*"

    def socket(self, socket_id: str) -> str:
        """Where a change of, or an ask about, one socket goes."""
        return f"{self.prefix}.socket.{socket_id}"

    def edge_sockets(self, edge: str) -> str:
        """What an edge subscribes to for the changes of the sockets whose ids it gave."""
        return f"{self.prefix}.socket.{edge}.*"

    def edge(self, edge: str) -> str:
        """Where one edge asks another."""
        return f"{self.prefix}.edge.{edge}"

    def api(self, verb: str) -> str:
        """Where the cluster as a whole is asked; any edge coordinates."""
        return f"{self.prefix}.api.{verb}"

    def action(self, name: str) -> str:
        """Where a client's request goes."""
        return f"{self.prefix}.action.{encode_room(name, 'an action name')}"

    def route(self, tokens: str) -> str:
        """Where a client's request that has a method and a path goes; ``routes`` makes the tokens."""
        return f"{self.prefix}.route.{tokens}"
