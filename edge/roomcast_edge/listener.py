"""Accepts clients: answers their HTTP requests, opens their sessions, watches over their connections."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from roomcast_edge.auth import Auth, Denied
from roomcast_edge.calls import Calls
from roomcast_edge.closing import CloseCode
from roomcast_edge.connection import Connection
from roomcast_edge.dialects import Dialect, Dialects, Emit
from roomcast_edge.dialects.jwr import COOKIE_PATH, COOKIE_SCRIPT
from roomcast_edge.garbage import Freezer
from roomcast_edge.handshake import (
    Handshake,
    accept,
    client_address,
    first_header,
    offered_protocols,
    read_handshake,
    split_target,
)
from roomcast_edge.kv import KvUnavailable
from roomcast_edge.membership import Membership
from roomcast_edge.metrics import Metrics
from roomcast_edge.outbox import FanOut
from roomcast_edge.pace import Pace
from roomcast_edge.session_state import Event
from roomcast_edge.sessions import Sessions
from roomcast_edge.settings import Settings, text_pattern
from roomcast_edge.socket import EdgeSocket
from roomcast_edge.tls import Certificate

log = logging.getLogger("roomcast.edge")

BACKLOG = 4096
SWEEP_SLICE = 500
"""Connections that are looked at before everything else runs once."""
RETRY_SPREAD = 5
"""Seconds over which clients that are sent away should come back."""

OnEmit = Callable[[Connection, EdgeSocket, Emit], None]


@dataclass(slots=True)
class Answer:
    """What a request is answered; with a handshake it becomes a websocket."""

    response: Response
    outcome: str
    handshake: Handshake | None = None
    dialect: Dialect | None = None


class Listener:
    """All connections of this edge."""

    def __init__(
        self,
        settings: Settings,
        dialects: Dialects,
        membership: Membership,
        sessions: Sessions,
        auth: Auth,
        fanout: FanOut,
        calls: Calls,
        metrics: Metrics,
        on_emit: OnEmit,
        on_opened: Callable[[EdgeSocket], None],
        ready: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.fanout = fanout
        self.calls = calls
        self.metrics = metrics
        self.on_emit = on_emit
        self._on_opened = on_opened
        self._ready = ready
        self._dialects = dialects
        self._membership = membership
        self._sessions = sessions
        self._auth = auth
        self._origins = [text_pattern(pattern) for pattern in settings.origins]
        self._by_address: Counter[str] = Counter()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepts = True
        self.certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        self.freezer = Freezer()
        self._pace = Pace(settings.connect_rate, time.monotonic())
        self._page = Path(settings.page).read_bytes() if settings.page else b""

    async def start(self) -> None:
        """Listen. ``OSError`` when the port is taken."""
        self.freezer.start()
        host, port = self.settings.listen
        loop = asyncio.get_running_loop()
        secure: dict[str, Any] = {}
        if self.certificate is not None:
            secure = {
                "ssl": self.certificate.context,
                "ssl_handshake_timeout": self.settings.handshake_timeout,
                "ssl_shutdown_timeout": self.settings.close_timeout,
            }
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=BACKLOG, **secure)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None, "started"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """TCP connections of clients."""
        return len(self._connections)

    def refuse(self) -> None:
        """Accept nobody any more."""
        self.accepts = False
        if self._server is not None:
            self._server.close()

    def open_connections(self) -> list[Connection]:
        """The connections that have a socket and are not being closed."""
        return [each for each in self._connections if each.socket is not None and each.closing is None]

    async def emptied(self) -> None:
        """Abort whoever has no socket yet, and wait, within the close timeout, until everybody is gone."""
        for connection in list(self._connections):
            if connection.socket is None:
                connection.abort()
        deadline = asyncio.get_running_loop().time() + self.settings.close_timeout + 1
        while self._connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - of each, not one
            await asyncio.sleep(0.02)

    def add(self, connection: Connection) -> None:
        """A TCP connection was accepted."""
        self._connections.add(connection)

    def discard(self, connection: Connection) -> None:
        """A TCP connection is gone."""
        self._connections.discard(connection)
        if connection.counted_at:
            self._by_address[connection.counted_at] -= 1
            if not self._by_address[connection.counted_at]:
                del self._by_address[connection.counted_at]

    def leave(self, socket: EdgeSocket, event: Event) -> None:
        """A socket's connection is over, or about to be."""
        self._membership.remove(socket, event)

    async def watch(self) -> None:
        """For ever: ping who is silent, end who stays so."""
        interval = max(0.05, min(2.5, self.settings.ping_interval / 4, self.settings.ping_timeout / 4))
        while True:
            await asyncio.sleep(interval)
            connections = list(self._connections)
            for start in range(0, len(connections), SWEEP_SLICE):
                now = time.monotonic()
                for connection in connections[start : start + SWEEP_SLICE]:
                    connection.check(now)
                await asyncio.sleep(0)

    # -- the HTTP request --------------------------------------------------------------------------------------------

    def answer(self, ws: ServerProtocol, request: Request, connection: Connection) -> Answer:
        """The answer to a client's request. One that is accepted is counted at its address."""
        path, query = split_target(request.path)
        dialect = self._dialects.of(path, query)
        if dialect is None:
            return self._plain(ws, path)
        origin = first_header(request.headers, "Origin")
        if origin and self._origins and not any(pattern.fullmatch(origin) for pattern in self._origins):
            return Answer(ws.reject(HTTPStatus.FORBIDDEN, "Pages of this origin may not connect.\n"), "origin")
        refused = dialect.check(query, origin)
        if refused is not None:
            headers = ws.reject(HTTPStatus(refused.status), refused.body.decode()).headers
            del headers["Content-Type"]
            headers.update({"Content-Type": "application/json", **dict(refused.headers)})
            status = HTTPStatus(refused.status)
            return Answer(Response(status, status.phrase, headers, refused.body), "transport")
        if not self._ready():
            return _later(
                ws, HTTPStatus.SERVICE_UNAVAILABLE, "This edge takes no clients now; come back.\n", "unavailable"
            )
        if not self._pace.allows(time.monotonic()):
            return _later(ws, HTTPStatus.SERVICE_UNAVAILABLE, "Too many clients connect at once; come back.\n", "shed")
        address = client_address(connection.peer, request.headers, self.settings.proxies)
        limit = self.settings.connections_per_address
        if limit and self._by_address[address] >= limit:
            return _later(ws, HTTPStatus.TOO_MANY_REQUESTS, "Too many connections from one address.\n", "address")
        if dialect.subprotocol and dialect.subprotocol in offered_protocols(request.headers):
            ws.available_subprotocols = [Subprotocol(dialect.subprotocol)]
        response = accept(ws, request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            return Answer(response, "malformed")
        if limit:
            self._by_address[address] += 1
            connection.counted_at = address
        return Answer(response, "accepted", read_handshake(path, query, request.headers, address), dialect)

    def _plain(self, ws: ServerProtocol, path: str) -> Answer:
        if path == "/" and self._page:
            return _found(ws, self._page, "text/html; charset=utf-8")
        if path == COOKIE_PATH:
            return _found(ws, COOKIE_SCRIPT, "application/javascript")
        paths = ", ".join(self._dialects.paths)
        return Answer(
            ws.reject(HTTPStatus.NOT_FOUND, f"There is nothing here; websockets connect to {paths}\n"), "not_found"
        )

    # -- the session -------------------------------------------------------------------------------------------------

    def open(self, connection: Connection, handshake: Handshake) -> None:
        """Open the session of a connection whose handshake is over, then greet it."""
        self.spawn(self._open(connection, handshake))

    async def _open(self, connection: Connection, handshake: Handshake) -> None:
        began = time.perf_counter()
        try:
            grant = await self._auth.admit(handshake)
            opened = await self._sessions.open(handshake.session, grant, connection.make_socket, connection.is_open)
        except Denied as denied:
            self.metrics.handshakes["denied" if denied.code is not CloseCode.TRY_LATER else "unavailable"] += 1
            connection.end(denied.code, str(denied))
            return
        except KvUnavailable as error:
            log.warning("a client is sent away: %s", error)
            self.metrics.handshakes["unavailable"] += 1
            connection.end(CloseCode.TRY_LATER, "the bus is away; come back")
            return
        except Exception:  # nobody else would end the connection
            self.metrics.handshakes["failed"] += 1
            connection.end(CloseCode.TRY_LATER, "the session could not be opened; come back")
            raise
        if opened is None:
            self.metrics.handshakes["left"] += 1
            connection.end(CloseCode.TRY_LATER, "the session could not be opened; come back")
            return
        self.metrics.handshakes["opened"] += 1
        self.freezer.count()
        connection.greet(opened, grant.expires)
        if not opened.resumed:
            self._on_opened(opened.socket)
        self.metrics.open.observe(time.perf_counter() - began)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run beside; a failure is logged, and hurts nobody else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection's task failed", exc_info=task.exception())


def _later(ws: ServerProtocol, status: HTTPStatus, text: str, outcome: str) -> Answer:
    response = ws.reject(status, text)
    response.headers["Retry-After"] = str(random.randint(1, RETRY_SPREAD))
    return Answer(response, outcome)


def _found(ws: ServerProtocol, body: bytes, kind: str) -> Answer:
    headers = ws.reject(HTTPStatus.OK, "").headers
    del headers["Content-Length"], headers["Content-Type"]
    headers.update({"Content-Length": str(len(body)), "Content-Type": kind})
    return Answer(Response(HTTPStatus.OK, "OK", headers, body), "page")
