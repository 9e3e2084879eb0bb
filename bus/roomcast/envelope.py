"""What travels on the bus: the JSON of data, the three headers, and errors as bodies. Pure code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from roomcast.errors import BusTimeout, BusUnavailable, RemoteError, RoomcastError, SocketNotFound
from roomcast.names import encode_room

MAX_CAST_BYTES = 256 * 1024
"""Default limit of a cast's data, in bytes of JSON."""

ERROR_CODE_HEADER = "Nats-Service-Error-Code"
ERROR_HEADER = "Nats-Service-Error"

_HEAD = b"NATS/1.0\r\n"
_EXCEPT = b"\r\nRoomcast-Except:"
_SENT = b"\r\nRoomcast-Sent:"

STATUS_OF_CODE = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "too_many": 429,
    "internal": 500,
    "no_service": 503,
    "unavailable": 503,
    "timeout": 504,
}
"""The number in NATS's service error header for each error code of a body."""


def encode_data(data: object, default: Callable[[Any], Any] | None = None, limit: int = MAX_CAST_BYTES) -> bytes:
    """The JSON of a cast's data.

    ``TypeError`` for what JSON cannot say (bytes among it), ``ValueError`` above ``limit`` bytes.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        raise TypeError("data is JSON; bytes are not: decode them to text, or send base64")
    try:
        payload = orjson.dumps(data, default)
    except orjson.JSONEncodeError as error:
        raise TypeError(f"data cannot be written as JSON: {error}") from error
    if len(payload) > limit:
        raise ValueError(f"a cast carries at most {limit} bytes of JSON; this one has {len(payload)}")
    return payload


def cast_headers(sent_ns: int, except_rooms: Iterable[str] = ()) -> bytes:
    """The header block of a cast: when it was sent (ns since the epoch), and the rooms that do not get this copy."""
    rooms = " ".join([encode_room(room) for room in except_rooms])
    if rooms:
        return b"NATS/1.0\r\nRoomcast-Sent: %d\r\nRoomcast-Except: %b\r\n\r\n" % (sent_ns, rooms.encode())
    return b"NATS/1.0\r\nRoomcast-Sent: %d\r\n\r\n" % sent_ns


def header_value(block: bytes, name: bytes) -> bytes:
    """The trimmed value of one header in a raw block, ``b""`` where it is missing. ``name`` is ``b"\\r\\nName:"``."""
    start = block.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = block.find(b"\r\n", start)
    return block[start : end if end >= 0 else len(block)].strip()


def excepted_rooms(block: bytes) -> list[str]:
    """The rooms, encoded, of the ``Roomcast-Except`` header of a raw block."""
    value = header_value(block, _EXCEPT)
    return value.decode("ascii", "replace").split() if value else []


def sent_ns(block: bytes) -> int:
    """Nanoseconds since the epoch of the ``Roomcast-Sent`` header; 0 where it is missing or not a number."""
    value = header_value(block, _SENT)
    return int(value) if value.isdigit() and len(value) < 20 else 0


def headers(fields: dict[str, str]) -> bytes:
    """A raw header block of these fields; line breaks in a value become spaces."""
    lines = "".join(f"{key}: {' '.join(value.split())}\r\n" for key, value in fields.items())
    return _HEAD + lines.encode() + b"\r\n"


def error_body(code: str, message: str) -> bytes:
    """The body of an answer that refuses: ``{"error":{"code","message"}}``."""
    return orjson.dumps({"error": {"code": code, "message": message}})


def error_headers(code: str, message: str) -> bytes:
    """NATS's service error headers for a code of the protocol."""
    return headers({ERROR_HEADER: message[:200], ERROR_CODE_HEADER: str(STATUS_OF_CODE.get(code, 500))})


def parse_answer(payload: bytes, socket_id: str = "") -> dict[str, Any]:
    """The object of an answer from an edge; raises the error that the answer stands for."""
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise RemoteError("internal", "the answer is not a JSON object; does a stranger listen on this subject?")
    error = body.get("error")
    if error is None:
        return body
    code = str(error.get("code", "internal")) if isinstance(error, dict) else "internal"
    message = str(error.get("message", "")) if isinstance(error, dict) else str(error)
    raise _exception(code, message, socket_id)


def _exception(code: str, message: str, socket_id: str) -> RoomcastError:
    if code == "not_found" and socket_id:
        return SocketNotFound(socket_id)
    if code == "unavailable":
        return BusUnavailable(message)
    if code == "timeout":
        return BusTimeout(message)
    return RemoteError(code, message)
