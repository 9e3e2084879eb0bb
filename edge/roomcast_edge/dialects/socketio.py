"""The ``socketio`` dialect, at ``/socket.io/``: Engine.IO 4 and Socket.IO 5 over websockets, for any of its clients.

A packet of Engine.IO is a digit and its data; a message (``4``) holds a packet of Socket.IO: a digit, perhaps a number
of attachments and ``-``, perhaps a namespace and ``,``, perhaps the id of an acknowledgement, and JSON. Pure code.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import (
    Attachments,
    Connect,
    Decoded,
    Emit,
    HttpRefusal,
    Leave,
    Query,
    Refusal,
    Reply,
    Say,
    error_in,
    jwr,
)
from roomcast_edge.frames import text_frame

MAX_ATTACHMENTS = 1000
SESSION_NONCE = "~"
"""Stands in a ``pid`` between the session and what makes it a new one each time."""

_PACKET = re.compile(
    rb"(?P<kind>[0-6])(?:(?P<attachments>\d{1,9})-)?(?:(?P<namespace>/[^,]*)(?:,|$))?(?P<id>\d{1,15})?(?P<data>.*)",
    re.DOTALL,
).fullmatch
FATAL = frozenset({CloseCode.POLICY, CloseCode.REFUSED, CloseCode.TOKEN_EXPIRED, CloseCode.KICKED, CloseCode.REPLACED})
"""After these a client should not come back by itself: DISCONNECT is said first."""
DISCONNECT = text_frame(b"41")


@lru_cache(maxsize=4096)
def _prefix(event: str) -> bytes:
    return b"42[%b," % orjson.dumps(event)


def malformed(message: str) -> Refusal:
    """The refusal of what is no packet: it closes the transport."""
    return Refusal("bad_request", message, close=CloseCode.PROTOCOL_ERROR)


def utf8(text: bytes) -> bytes:
    """The same, once it is known that it may be said back in a text frame."""
    try:
        text.decode()
    except UnicodeDecodeError:
        raise Refusal("bad_request", "a text message is UTF-8", close=CloseCode.NOT_UTF8) from None
    return text


class SocketIoDialect:
    """See :class:`roomcast_edge.dialects.Dialect`."""

    name = "socketio"
    path = "/socket.io/"
    version = "4"
    subprotocol = ""
    connects_at_once = False
    ping = text_frame(b"2")
    pings_always = True

    def __init__(self, ping_interval: float, ping_timeout: float, message_limit: int) -> None:
        """Intervals in seconds, the limit of a client's message in bytes."""
        self._open = {
            "upgrades": [],
            "pingInterval": round(ping_interval * 1000),
            "pingTimeout": round(ping_timeout * 1000),
            "maxPayload": message_limit,
        }

    # -- the transport -----------------------------------------------------------------------------------------------

    def check(self, query: Query, origin: str) -> HttpRefusal | None:
        """Only websockets of this version; the error is Engine.IO's own, readable from any origin."""
        if query.get("EIO", [""])[0] != self.version:
            return _http_error(5, "Unsupported protocol version", origin)
        if query.get("transport", [""])[0] != "websocket":
            return _http_error(0, "Transport unknown", origin)
        if "sid" in query:
            return _http_error(1, "Session ID unknown", origin)
        return None

    def opening(self) -> bytes:
        """Engine.IO's open packet."""
        return text_frame(b"0" + orjson.dumps({"sid": secrets.token_urlsafe(15), **self._open}))

    def leaves_by(self, code: int) -> bool:
        """Only a DISCONNECT packet ends a session; a transport may close and come back."""
        return False

    def denial(self, code: CloseCode, message: str) -> bytes:
        """CONNECT_ERROR for a client without a good token, which then does not come back by itself."""
        if code not in (CloseCode.REFUSED, CloseCode.TOKEN_EXPIRED):
            return b""
        body = {"message": message, "data": {"code": "unauthorized", "close": int(code)}}
        return text_frame(b"44" + orjson.dumps(body))

    def farewell(self, code: CloseCode) -> bytes:
        """DISCONNECT, after which a client does not come back by itself."""
        return DISCONNECT if code in FATAL else b""

    # -- what the server says ----------------------------------------------------------------------------------------

    def greeting(self, socket_id: str, session: str, resumed: bool) -> bytes:
        """CONNECT. The ``pid`` is new each time: ``recovered`` would promise the events that were missed, too."""
        pid = f"{session}{SESSION_NONCE}{secrets.token_urlsafe(6)}"
        return text_frame(b"40" + orjson.dumps({"sid": socket_id, "pid": pid}))

    def session_of(self, auth: Mapping[str, Any]) -> str:
        """The session in the ``pid`` that a client returns with."""
        pid = auth.get("pid")
        return pid.partition(SESSION_NONCE)[0] if isinstance(pid, str) else ""

    def cast(self, event: str, payload: bytes) -> bytes:
        """EVENT, with the payload as the one argument."""
        return text_frame(b"%b%b]" % (_prefix(event), payload))

    def call(self, event: str, reply_id: int, payload: bytes) -> bytes:
        """EVENT that asks for an acknowledgement."""
        return text_frame(b"42%d[%b,%b]" % (reply_id, orjson.dumps(event), payload))

    def answer(self, reply_id: Any, payload: bytes) -> bytes:
        """ACK, with one argument: the answer, or the JWR of one that was asked by sails.io.js."""
        if isinstance(reply_id, jwr.JwrId):
            payload = jwr.answer(payload)
        return _acknowledgement(reply_id, payload)

    def error(self, reply_id: Any, code: str, message: str) -> bytes:
        """ACK, with ``{"error":{"code","message"}}``, or with a JWR whose body that is."""
        if isinstance(reply_id, jwr.JwrId):
            return _acknowledgement(reply_id, jwr.error(code, message))
        return _acknowledgement(reply_id, orjson.dumps({"error": {"code": code, "message": message}}))

    # -- what the client says ----------------------------------------------------------------------------------------

    def decode(self, text: bytes) -> Decoded:
        """One packet."""
        kind = text[:1]
        if kind == b"4":
            return self.decode_message(text[1:])
        if kind == b"3":
            return None
        if kind == b"2":
            return Say(text_frame(b"3" + utf8(text[1:])))
        if kind == b"1":
            return Leave(for_good=False)
        raise malformed(f"not a packet of Engine.IO {self.version}")

    def decode_message(self, text: bytes) -> Decoded:
        """One packet of Socket.IO."""
        found = _PACKET(text)
        if found is None:
            raise malformed("not a packet of Socket.IO")
        kind, data = found["kind"], found["data"]
        if (kind in b"56") != (found["attachments"] is not None):
            raise malformed("binary packets, and no others, have a number of attachments")
        namespace = found["namespace"] or b"/"
        reply_id = int(found["id"]) if found["id"] is not None else None
        if kind == b"0":
            return self.connect(namespace, data)
        if namespace != b"/":
            raise malformed("only the default namespace is connected")
        if kind == b"1":
            return Leave(for_good=True)
        if kind == b"2":
            return jwr.as_request(_event(data, reply_id))
        if kind in b"56":
            return _binary(int(found["attachments"]), reply_id if kind == b"5" else None)
        if kind == b"3":
            return _reply(data, reply_id)
        raise malformed("CONNECT_ERROR is not for clients to send")

    def connect(self, namespace: bytes, data: bytes) -> Decoded:
        """What CONNECT to this namespace means."""
        if namespace.partition(b"?")[0] != b"/":
            body = orjson.dumps({"message": "Invalid namespace"})
            return Say(text_frame(b"44%b,%b" % (utf8(namespace), body)))
        auth = _loads(data) if data else {}
        if not isinstance(auth, dict):
            raise malformed("the data of CONNECT must be an object")
        return Connect(auth)


def _acknowledgement(reply_id: int, payload: bytes) -> bytes:
    return text_frame(b"43%d[%b]" % (reply_id, payload))


def _event(data: bytes, reply_id: int | None) -> Emit:
    args = _loads(data)
    if not isinstance(args, list) or not args or not isinstance(args[0], str) or not args[0]:
        raise malformed("the data of EVENT must be an array that begins with the event's name")
    return Emit(args[0], tuple(args[1:]), reply_id)


def _reply(data: bytes, reply_id: int | None) -> Reply:
    args = _loads(data)
    if not isinstance(args, list) or reply_id is None:
        raise malformed("an acknowledgement has an id, and an array of arguments")
    first = args[0] if args else None
    if isinstance(first, dict) and set(first) == {"error"} and isinstance(first["error"], dict):
        return Reply(reply_id, error=error_in(first["error"]))
    return Reply(reply_id, first)


def _binary(count: int, reply_id: int | None) -> Attachments:
    if count > MAX_ATTACHMENTS:
        raise malformed(f"at most {MAX_ATTACHMENTS} attachments")
    message = "binary data is not understood; send text, base64 for example"
    return Attachments(count, Refusal("bad_request", message, reply_id, CloseCode.BINARY))


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        utf8(data)
        raise malformed("the data of a packet must be JSON") from None


def _http_error(code: int, message: str, origin: str) -> HttpRefusal:
    allowed = (("Access-Control-Allow-Origin", origin or "*"), ("Vary", "Origin"))
    credentials = (("Access-Control-Allow-Credentials", "true"),) if origin else ()
    return HttpRefusal(400, orjson.dumps({"code": code, "message": message}), allowed + credentials)
