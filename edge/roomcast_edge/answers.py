"""How an edge answers on NATS: one JSON object, or an error in the body and in NATS's service error headers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from nats import errors as nats_errors

from roomcast.envelope import error_body, error_headers
from roomcast.errors import BusUnavailable, OutcomeUnknown, PermissionDenied, RemoteError
from roomcast.nats_client import MendedClient
from roomcast_edge.keeper import Elsewhere
from roomcast_edge.kv import KvRefused, KvUnavailable, KvUnknown
from roomcast_edge.records import UnknownVersion

log = logging.getLogger("roomcast.edge")

DEFAULT_TIMEOUT = 4.5
MAX_TIMEOUT = 60.0


class Refused(Exception):
    """A request that is not carried out; ``code`` is one of the protocol's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_request(payload: bytes) -> dict[str, Any]:
    """The object of a request; an empty payload is an empty object. :class:`Refused`."""
    if not payload:
        return {}
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise Refused("bad_request", "the payload is not JSON") from None
    if not isinstance(body, dict):
        raise Refused("bad_request", "the payload must be a JSON object")
    return body


def timeout_of(body: Mapping[str, Any]) -> float:
    """The seconds that the caller waits, as its body says; a little less than five by default."""
    seconds = body.get("timeout", DEFAULT_TIMEOUT)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_TIMEOUT:
        raise Refused("bad_request", f"timeout must be a number of seconds, above 0 and at most {MAX_TIMEOUT:g}")
    return float(seconds)


def error_of(error: BaseException) -> tuple[str, str]:
    """The code and the message for whatever kept a request from being carried out."""
    if isinstance(error, Refused):
        return error.code, str(error)
    if isinstance(error, KvRefused):
        return "too_large", str(error)
    if isinstance(error, KvUnknown | OutcomeUnknown | TimeoutError):
        return "timeout", str(error) or "no answer in time; whether it was done is unknown"
    if isinstance(error, KvUnavailable | BusUnavailable | PermissionDenied | nats_errors.Error):
        return "unavailable", str(error) or "NATS is away"
    if isinstance(error, UnknownVersion):
        return "unavailable", str(error)  # an edge of that version can
    if isinstance(error, RemoteError):
        return error.code, error.message
    if isinstance(error, ValueError | TypeError):
        return "bad_request", str(error)
    log.error("a request failed", exc_info=error)
    return "internal", "the edge failed; its log tells why"


def answer(client: MendedClient, reply: str, body: Mapping[str, Any]) -> None:
    """Send an answer, behind all that was subscribed before. Without a reply subject nobody wants it."""
    if reply and client.is_connected:
        client.send(reply, orjson.dumps(body))


def answer_error(client: MendedClient, reply: str, error: BaseException) -> None:
    """Send the refusal that an exception stands for."""
    if not reply or not client.is_connected:
        return
    if isinstance(error, Elsewhere):
        client.send(reply, b'{"elsewhere":true}')
        return
    code, message = error_of(error)
    client.send(reply, error_body(code, message), "", error_headers(code, message))
