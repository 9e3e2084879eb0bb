"""The ``socketio2`` dialect, at ``/socket.io/`` too: Engine.IO 3 and Socket.IO 4 for the clients of Socket.IO 2.

What differs from ``socketio``: the client pings; the server connects the default namespace at once; a client's id is
the ``sid`` of the open packet, which therefore waits for the session; the session comes as an event. Pure code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Decoded, Say
from roomcast_edge.dialects.socketio import DISCONNECT, FATAL, SocketIoDialect, utf8
from roomcast_edge.frames import PING, text_frame

SESSION_EVENT = "bus:session"
"""Brings the session, for clients that want to return with it in their query: none returns one by itself."""

_CONNECT = text_frame(b"40")


class SocketIo2Dialect(SocketIoDialect):
    """See :class:`roomcast_edge.dialects.Dialect`."""

    name = "socketio2"
    version = "3"
    connects_at_once = True
    # These clients ping by themselves and answer no ping of Engine.IO: one that is silent gets one of websockets.
    ping = PING
    pings_always = False

    def __init__(self, ping_interval: float, ping_timeout: float, message_limit: int) -> None:
        """Intervals in seconds; version 3 does not say the limit of a client's message."""
        super().__init__(ping_interval, ping_timeout, message_limit)
        del self._open["maxPayload"]

    def opening(self) -> bytes:
        """The open packet is part of the greeting."""
        return b""

    def denial(self, code: CloseCode, message: str) -> bytes:
        """The open packet, without which such a client does not notice a close; ERROR with the reason; DISCONNECT."""
        if code not in FATAL:
            return b""
        return self._opened("refused") + text_frame(b"44" + orjson.dumps(message)) + DISCONNECT

    def greeting(self, socket_id: str, session: str, resumed: bool) -> bytes:
        """The open packet, CONNECT, and the session."""
        return self._opened(socket_id) + _CONNECT + self.cast(SESSION_EVENT, orjson.dumps(session))

    def session_of(self, auth: Mapping[str, Any]) -> str:
        """The handshake carried it."""
        return ""

    def connect(self, namespace: bytes, data: bytes) -> Decoded:
        """The default namespace is connected already; there is no other."""
        if namespace.partition(b"?")[0] == b"/":
            return None
        return Say(text_frame(b'44%b,"Invalid namespace"' % utf8(namespace.partition(b"?")[0])))

    def decode(self, text: bytes) -> Decoded:
        """One packet."""
        if text[:1] == b"b":  # base64, of a client without binary messages: it belongs to a packet that was refused
            return None
        return super().decode(text)

    def _opened(self, sid: str) -> bytes:
        return text_frame(b"0" + orjson.dumps({"sid": sid, **self._open}))
