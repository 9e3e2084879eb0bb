"""What a client asks for in its HTTP request: a dialect, a token, a session. Pure code, over websockets' parser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from roomcast.grants import Handshake as Question

TOKEN_PROTOCOL = "roomcast.token."  # noqa: S105 - the name of a carrier, not a secret
SESSION_PROTOCOL = "roomcast.session."

Query = Mapping[str, list[str]]


@dataclass(slots=True)
class Handshake:
    """The credentials of a connection, from the safest place in which they are."""

    path: str
    token: str = ""
    session: str = ""
    address: str = ""
    headers: Headers = field(default_factory=Headers)
    query: Query = field(default_factory=dict)
    auth: Mapping[str, Any] = field(default_factory=dict)
    """What the client says of itself in a message, in a dialect that has one for that."""

    def with_auth(self, auth: Mapping[str, Any], session: str) -> Handshake:
        """The same with what a later message brought; its token and session come first."""
        token = auth.get("token")
        return replace(
            self,
            auth=auth,
            token=token if isinstance(token, str) and token else self.token,
            session=session or self.session,
        )

    def question(self) -> Question:
        """What a service is asked that says who may connect."""
        return Question(
            token=_readable(self.token),
            auth=self.auth,
            headers={_readable(name.lower()): _readable(value) for name, value in self.headers.raw_items()},
            query={_readable(name): _readable(values[0]) for name, values in self.query.items()},
            address=_readable(self.address),
            path=self.path,
        )


def accept(ws: ServerProtocol, request: Request) -> Response:
    """The answer to a request: websockets' own, but without the date, which costs a twentieth of a connection."""
    try:
        key, _, subprotocol = ws.process_request(request)
    except Exception:
        return ws.accept(request)  # finds the same, and says it
    ws.accept_called = True
    headers = Headers([("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", key)])
    if subprotocol is not None:
        headers["Sec-WebSocket-Protocol"] = subprotocol
    return Response(101, "Switching Protocols", headers)


def split_target(target: str) -> tuple[str, dict[str, list[str]]]:
    """The path and the query of a request's target; an empty path where it is none."""
    try:
        parts = urlsplit(target)
        return parts.path, parse_qs(parts.query) if parts.query else {}
    except ValueError:  # such as //[, or more fields than anybody needs
        return "", {}


def offered_protocols(headers: Headers) -> list[str]:
    """The subprotocols that a client offers."""
    values = headers.get_all("Sec-WebSocket-Protocol")
    return [item.strip() for value in values for item in value.split(",") if item.strip()]


def read_handshake(path: str, query: Query, headers: Headers, address: str = "") -> Handshake:
    """The token and the session of a request: from a header, else a subprotocol, else the query."""
    offered = offered_protocols(headers)
    token = first_header(headers, "Authorization")
    token = token[7:].strip() if token[:7].lower() == "bearer " else ""
    return Handshake(
        path,
        token=token or _carried(offered, TOKEN_PROTOCOL) or _asked(query, "token"),
        session=first_header(headers, "Roomcast-Session")
        or _carried(offered, SESSION_PROTOCOL)
        or _asked(query, "session"),
        address=address,
        headers=headers,
        query=query,
    )


def first_header(headers: Headers, name: str) -> str:
    """The first value of a header; empty where it is missing."""
    values = headers.get_all(name)
    return values[0].strip() if values else ""


def client_address(peer: str, headers: Headers, proxies: int) -> str:
    """Where a request comes from: what the outermost of so many trusted proxies has seen, else the peer itself."""
    if proxies:
        seen = [item.strip() for value in headers.get_all("X-Forwarded-For") for item in value.split(",")]
        if len(seen) >= proxies:
            return seen[-proxies]
    return peer


def _readable(text: str) -> str:
    """The same, once bytes that were no ASCII are read as UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _carried(offered: list[str], prefix: str) -> str:
    return next((item[len(prefix) :] for item in offered if item.startswith(prefix)), "")


def _asked(query: Query, name: str) -> str:
    values = query.get(name)
    return values[0] if values else ""
