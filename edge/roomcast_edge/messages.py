"""One client's frames become its text messages; what is no text, or too much of it, is refused. Pure code."""

from __future__ import annotations

from websockets.frames import Frame, Opcode

from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Refusal

FRAGMENT_COST = 64
"""What a fragment counts at least against the limit of a message: an endless run of empty ones ends too."""


class Messages:
    """Puts the fragments of one connection together. The limit is in bytes of a message."""

    __slots__ = ("_attachments", "_fragments", "_limit", "_size", "_swallows")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fragments: list[bytes] | None = None
        self._size = 0
        # Binary messages to come that belong to one that was refused.
        self._attachments = 0
        # Whether the fragments that come continue such a message.
        self._swallows = False

    def swallow(self, attachments: int) -> None:
        """So many binary messages that follow belong to one that was refused."""
        self._attachments = attachments

    def take(self, frame: Frame) -> bytes | None:
        """The message that this frame completes, if any; :class:`Refusal` for a binary one, or one that is too long."""
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            return bytes(frame.data)
        if opcode is Opcode.CONT and self._swallows:
            self._swallows = not frame.fin
        elif opcode is Opcode.TEXT or opcode is Opcode.CONT:
            return self._join(bytes(frame.data), frame.fin)
        elif opcode is Opcode.BINARY and self._attachments:
            self._attachments -= 1
            self._swallows = not frame.fin
        elif opcode is Opcode.BINARY:
            raise Refusal("binary", "binary messages are not understood; send text", close=CloseCode.BINARY)
        return None

    def _join(self, data: bytes, fin: bool) -> bytes | None:
        if self._fragments is None:
            self._fragments, self._size = [], 0
        self._fragments.append(data)
        self._size += max(len(data), FRAGMENT_COST)
        if self._size > self._limit:
            raise Refusal("too_large", f"a message has at most {self._limit} bytes", close=CloseCode.TOO_LARGE)
        if not fin:
            return None
        whole, self._fragments = b"".join(self._fragments), None
        return whole
