"""A service's handlers: the request that they get, their typed inputs, and the errors that they may raise. No I/O."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import msgspec

from roomcast.envelope import STATUS_OF_CODE
from roomcast.errors import RoomcastError
from roomcast.membership import Socket, parse_socket

Handler = Callable[..., Awaitable[Any]]


class ServiceFault(RoomcastError):
    """Raise it in a handler to refuse a request: the client gets its code and message, and nothing else."""

    code = "internal"

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.code.replace("_", " "))

    @property
    def status(self) -> int:
        """The number of this code, as HTTP has it."""
        return STATUS_OF_CODE[self.code]


class BadRequest(ServiceFault):
    """The inputs are wrong (400)."""

    code = "bad_request"


class Unauthorized(ServiceFault):
    """The client must say who it is (401)."""

    code = "unauthorized"


class Forbidden(ServiceFault):
    """The client may not do this (403)."""

    code = "forbidden"


class NotFound(ServiceFault):
    """There is no such thing (404)."""

    code = "not_found"


class TooLarge(ServiceFault):
    """The input is too large (413)."""

    code = "too_large"


class TooMany(ServiceFault):
    """The client asks too often (429)."""

    code = "too_many"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. Pass it wherever a socket is wanted: ``bus.join(req, room)``, ``omit=req``."""

    data: Any = None
    """The first argument."""
    args: tuple[Any, ...] = ()
    """All arguments."""
    socket: Socket | None = None
    """The socket that asks; its rooms are not filled in (``await bus.rooms(req)``)."""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    path: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    """The path's parameters, of a request that came by a route."""

    @property
    def is_socket(self) -> bool:
        """Whether it came over a websocket."""
        return self.socket is not None

    @property
    def user(self) -> str | None:
        """Who asks, as its grant said."""
        return self.socket.user if self.socket is not None else None

    @classmethod
    def from_json(cls, body: Mapping[str, Any], params: Mapping[str, str] | None = None) -> Request:
        """The request in a message's body."""
        args = body.get("args")
        headers = body.get("headers")
        return cls(
            data=body.get("data"),
            args=tuple(args) if isinstance(args, list) else (body.get("data"),),
            socket=parse_socket(body),
            headers={str(key): str(value) for key, value in headers.items()} if isinstance(headers, dict) else {},
            method=str(body.get("method", "")),
            path=str(body.get("path", "")),
            params=params or {},
        )


class Inputs:
    """The typed parameters of a handler behind its first, checked against what a client sent."""

    def __init__(self, handler: Handler) -> None:
        if not inspect.iscoroutinefunction(handler):
            raise TypeError(f"a handler must be an `async def`; {handler!r} is none")
        parameters = list(inspect.signature(handler).parameters.values())
        if not parameters:
            raise TypeError(f"a handler's first parameter is the request; {handler!r} has none")
        hints = get_type_hints(handler)
        fields: list[Any] = []
        for parameter in parameters[1:]:
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                raise TypeError(f"a handler declares its inputs by name; {parameter} of {handler!r} is none")
            kind = hints.get(parameter.name, Any)
            given = () if parameter.default is parameter.empty else (parameter.default,)
            fields.append((parameter.name, kind, *given))
        fields.sort(key=len)  # those without a default come first
        self._names = [str(each[0]) for each in fields]
        self._struct = msgspec.defstruct("Inputs", fields) if fields else None

    def read(self, request: Request) -> dict[str, Any]:
        """The arguments for the handler; :class:`BadRequest` names the field that is wrong."""
        if self._struct is None:
            return {}
        sent = request.data if isinstance(request.data, Mapping) else {}
        given: dict[str, Any] = {}
        for name in self._names:
            for key in (name, camel_case(name)):
                if key in request.params:
                    given[name] = request.params[key]
                elif key in sent:
                    given[name] = sent[key]
        try:
            # What stands in a path or a query is text: numbers are read from it.
            inputs = msgspec.convert(given, self._struct, strict=not (request.params or request.method))
        except msgspec.ValidationError as error:
            raise BadRequest(_in_the_clients_words(str(error), self._names)) from None
        return {name: getattr(inputs, name) for name in self._names}


def camel_case(name: str) -> str:
    """``order_id`` as ``orderId``."""
    return re.sub(r"_+([a-z0-9])", lambda found: found[1].upper(), name)


def _in_the_clients_words(message: str, names: list[str]) -> str:
    found = re.search(r"`\$\.(\w+)", message)
    if found and found[1] in names:
        what, _, _ = message.partition(" - at ")
        return f"{camel_case(found[1])}: {what[0].lower()}{what[1:]}"
    missing = re.search(r"missing required field `(\w+)`", message)
    if missing:
        return f"{camel_case(missing[1])} is missing"
    return message
