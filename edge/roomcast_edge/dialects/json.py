"""The ``json`` dialect, at ``/ws``: one JSON object a frame, ``{"event","data","id"}``. Pure code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Emit, Query, Refusal, Reply, error_in
from roomcast_edge.frames import PING, text_frame


@lru_cache(maxsize=4096)
def _prefix(event: str) -> bytes:
    return b'{"event":%b,"data":' % orjson.dumps(event)


class JsonDialect:
    """See :class:`roomcast_edge.dialects.Dialect`."""

    name = "json"
    path = "/ws"
    version = ""
    subprotocol = "roomcast.v1"
    connects_at_once = True
    ping = PING
    pings_always = False

    def check(self, query: Query, origin: str) -> None:
        """Every websocket is welcome."""

    def opening(self) -> bytes:
        """The greeting is the first frame."""
        return b""

    def session_of(self, auth: Mapping[str, Any]) -> str:
        """The handshake carried it."""
        return ""

    def leaves_by(self, code: int) -> bool:
        """1000, and no code at all (1005): the program closed. A page that is left says 1001, and may be back."""
        return code in (1000, 1005)

    def denial(self, code: CloseCode, message: str) -> bytes:
        """The close code says all."""
        return b""

    def farewell(self, code: CloseCode) -> bytes:
        """The close code says all."""
        return b""

    def cast(self, event: str, payload: bytes) -> bytes:
        """The payload between a prefix and a suffix: it is not parsed again."""
        return text_frame(b"%b%b}" % (_prefix(event), payload))

    def call(self, event: str, reply_id: int, payload: bytes) -> bytes:
        """``{"event","data","id"}``, which the client answers by ``{"id","data"}`` or ``{"id","error"}``."""
        return text_frame(b'%b%b,"id":%d}' % (_prefix(event), payload, reply_id))

    def greeting(self, socket_id: str, session: str, resumed: bool) -> bytes:
        """The event ``connect`` with the socket's id, its session secret and whether it is back."""
        return self.cast("connect", orjson.dumps({"id": socket_id, "session": session, "resumed": resumed}))

    def answer(self, reply_id: Any, payload: bytes) -> bytes:
        """``{"id","data"}``."""
        return text_frame(b'{"id":%b,"data":%b}' % (orjson.dumps(reply_id), payload))

    def error(self, reply_id: Any, code: str, message: str) -> bytes:
        """``{"id","error":{"code","message"}}``."""
        return text_frame(orjson.dumps({"id": reply_id, "error": {"code": code, "message": message}}))

    def decode(self, text: bytes) -> Emit | Reply:
        """An object with ``event``, and perhaps ``data`` and ``id``, or with ``id`` and ``data`` or ``error``."""
        try:
            body = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise Refusal("bad_request", "a message is one JSON object", close=_close_code(text)) from None
        if not isinstance(body, dict):
            raise Refusal("bad_request", "a message is one JSON object")
        reply_id = body.get("id")
        if reply_id is not None and (isinstance(reply_id, bool) or not isinstance(reply_id, str | int | float)):
            raise Refusal("bad_request", "id must be a number or a string")
        if "event" not in body and reply_id is not None and ("data" in body or "error" in body):
            return Reply(reply_id, body.get("data"), error_in(body.get("error")), reply_id)
        event = body.get("event")
        if not isinstance(event, str) or not event:
            raise Refusal("bad_request", "event must be a text that is not empty", reply_id)
        return Emit(event, (body.get("data"),), reply_id)


def _close_code(text: bytes) -> CloseCode:
    try:
        text.decode()
    except UnicodeDecodeError:
        return CloseCode.NOT_UTF8
    return CloseCode.POLICY
