"""Dialects: how bytes of a client become events, and a cast becomes one frame. Each module here is one. Pure code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from roomcast_edge.closing import CloseCode


@dataclass(frozen=True, slots=True)
class Emit:
    """An event of a client: its name, its arguments, and what its answer must bear (None: no answer is wanted)."""

    event: str
    args: tuple[Any, ...]
    reply_id: Any = None


class Refusal(Exception):
    """A message that is malformed or not allowed. ``reply_id`` is None where the client can get no answer."""

    def __init__(self, code: str, message: str, reply_id: Any = None, close: CloseCode = CloseCode.POLICY) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reply_id = reply_id
        self.close = close


class Dialect(Protocol):
    """What a protocol fills in. All bytes that it returns are whole websocket frames."""

    name: str
    path: str
    """Where clients of this dialect connect."""
    subprotocol: str
    """The websocket subprotocol that is accepted when a client offers it."""

    def cast(self, event: str, payload: bytes) -> bytes:
        """A cast; ``payload`` is known to be JSON."""
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

    def decode(self, text: bytes) -> Emit:
        """The event in one text message of a client; raises :class:`Refusal`, and nothing else for any bytes."""
        ...
