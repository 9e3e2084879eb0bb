"""Websocket frames as a server writes them: unmasked, never fragmented, never compressed (RFC 6455, 5.2). Pure code."""

from __future__ import annotations

PING = b"\x89\x00"
"""A ping without payload."""


def text_frame(payload: bytes) -> bytes:
    """One text frame of UTF-8 bytes."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut at 123 bytes of UTF-8, the most that a control frame holds."""
    text = reason.encode()[:123].decode("utf-8", "ignore").encode()
    return b"\x88%c%b%b" % (len(text) + 2, code.to_bytes(2, "big"), text)
