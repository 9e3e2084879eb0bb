"""What sails.io.js asks: emits named after a method of HTTP, answered by a JWR, a response as JSON. Pure code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import orjson

from roomcast.envelope import STATUS_OF_CODE
from roomcast_edge.dialects import Emit, Refusal, RouteRequest

METHODS = frozenset({"get", "post", "put", "patch", "delete", "head", "options"})

COOKIE_PATH = "/__getcookie"
"""What sails.io.js loads as a script before it connects to another origin than its page's."""
COOKIE_SCRIPT = b"_sailsIoJSConnect();"
"""Tells it to go on. There is no cookie: who a client is, a token says."""

_STATUS = {**STATUS_OF_CODE, "no_service": 404}
"""A path that nobody serves is not found, as in Sails."""


class JwrId(int):
    """The id of an acknowledgement whose one argument is to be a JWR."""

    __slots__ = ()


def as_request(emit: Emit) -> Emit:
    """The same emit, or the request for a route that it is; :class:`Refusal` for one whose url is none.

    It is one where its name is a method in lower case and its one argument an object whose ``url`` is a text that
    begins with ``/``, or that stands beside the same method, as sails.io.js writes it. Any other is an ordinary emit.
    """
    if emit.event not in METHODS or len(emit.args) != 1 or not isinstance(emit.args[0], dict):
        return emit
    asked: Mapping[str, Any] = emit.args[0]
    url, method = asked.get("url"), asked.get("method")
    if not isinstance(url, str) or not (url.startswith("/") or _is_method(method, emit.event)):
        return emit
    reply_id = JwrId(emit.reply_id) if emit.reply_id is not None else None
    path, _, written = url.partition("#")[0].partition("?")
    try:
        query = parse_qs(written, keep_blank_values=True, errors="strict")
    except ValueError:
        raise Refusal("bad_request", "the query of the url is malformed", reply_id) from None
    data = _with_query(query, asked.get("data"))
    request = RouteRequest(emit.event.upper(), path or "/", _headers(asked.get("headers")))
    return Emit(emit.event, (data,), reply_id, request)


def answer(payload: bytes) -> bytes:
    """The JWR of an answer, which is JSON."""
    return b'{"statusCode":200,"headers":{},"body":%b}' % payload


def error(code: str, message: str) -> bytes:
    """The JWR of a refusal; a code of a service's own is 500."""
    body = {"code": code, "message": message}
    return orjson.dumps({"statusCode": _STATUS.get(code, 500), "headers": {}, "body": body})


def _is_method(method: Any, event: str) -> bool:
    return isinstance(method, str) and method.lower() == event


def _with_query(query: Mapping[str, list[str]], data: Any) -> Any:
    """The data over what the query says; a list, or another thing that has no names, stays as it is."""
    if data is not None and not isinstance(data, dict):
        return data
    asked: dict[str, Any] = {name: values[0] if len(values) == 1 else values for name, values in query.items()}
    return asked | (data or {})


def _headers(given: Any) -> dict[str, str]:
    """Names in lower case; values that are no text as JSON writes them, null left out."""
    if not isinstance(given, dict):
        return {}
    texts = {name.lower(): value for name, value in given.items() if value is not None}
    return {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in texts.items()}
