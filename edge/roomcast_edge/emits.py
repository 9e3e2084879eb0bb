"""What clients emit: the built-in ``bus:…`` events, and everything else as a request to a service."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import orjson

from roomcast.envelope import parse_answer
from roomcast.errors import BusTimeout, BusUnavailable, PermissionDenied, RemoteError
from roomcast.membership import Change
from roomcast.names import Subjects, encode_room, is_reserved_event, is_socket_id
from roomcast.requests import NoResponders, Reply, Requests
from roomcast.routes import request_tokens
from roomcast_edge.answers import error_of
from roomcast_edge.connection import Connection
from roomcast_edge.dialects import Emit, Refusal
from roomcast_edge.limits import Limits
from roomcast_edge.membership import Membership
from roomcast_edge.metrics import Metrics
from roomcast_edge.outbox import FanOut
from roomcast_edge.renewal import Renewal
from roomcast_edge.settings import Settings, text_pattern
from roomcast_edge.socket import EdgeSocket

ROOMS_AT_ONCE = 100


class Emits:
    """Works on clients' emits; each is answered on its own connection, or not at all."""

    def __init__(
        self,
        subjects: Subjects,
        requests: Requests,
        membership: Membership,
        fanout: FanOut,
        metrics: Metrics,
        renewal: Renewal,
        settings: Settings,
        edge: str,
    ) -> None:
        self._subjects = subjects
        self._requests = requests
        self._membership = membership
        self._fanout = fanout
        self._metrics = metrics
        self._renewal = renewal
        self._limits = Limits(settings.requests_per_socket, settings.requests_per_edge, settings.request_rate)
        self._everyone = tuple(text_pattern(pattern) for pattern in settings.client_rooms)
        self._patterns: dict[tuple[str, ...], tuple[re.Pattern[str], ...]] = {}
        self._action_timeout = settings.action_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._edge = edge

    def take(self, connection: Connection, socket: EdgeSocket, emit: Emit) -> None:
        """Work on one emit."""
        if socket.asker is None:
            socket.asker = self._limits.asker(time.monotonic())
        try:
            if emit.event == "bus:ping":
                self._answer(socket, emit, b"{}")
            elif not self._limits.in_pace(socket.asker, time.monotonic()):
                self._too_many(socket, emit, "too many requests a second")
            elif emit.event in ("bus:join", "bus:leave"):
                self._change(connection, socket, emit)
            elif emit.event == "bus:token":
                self._renew(connection, socket, emit)
            elif is_reserved_event(emit.event):
                raise Refusal("bad_request", f"{emit.event!r} is not for clients to emit", emit.reply_id)
            else:
                self._act(socket, emit)
        except Refusal as refusal:
            connection.refuse(refusal)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _renew(self, connection: Connection, socket: EdgeSocket, emit: Emit) -> None:
        asked = emit.args[0] if emit.args else None
        token = asked.get("token") if isinstance(asked, dict) else None
        if not isinstance(token, str) or not token:
            raise Refusal("bad_request", 'send the token: {"token":"…"}', emit.reply_id)
        connection.begin()

        async def renew() -> None:
            try:
                expires = await self._renewal.renew(connection, socket, token)
            except Exception as error:
                self._refuse(socket, emit, *error_of(error))
            else:
                self._answer(socket, emit, orjson.dumps({"expires": expires or None}))
            finally:
                connection.done()

        task = asyncio.get_running_loop().create_task(renew())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- rooms -------------------------------------------------------------------------------------------------------

    def _change(self, connection: Connection, socket: EdgeSocket, emit: Emit) -> None:
        rooms = self._rooms_of(emit)
        if emit.event == "bus:join":
            for room in rooms:
                if not self._may_join(socket, room):
                    raise Refusal("forbidden", f"the room {room!r} is not open to this client", emit.reply_id)
            change = Change(join=rooms)
        else:
            change = Change(leave=rooms)
        connection.begin()
        _, saved = self._membership.change(socket, change)
        answer = orjson.dumps({"room": rooms[0]} if len(rooms) == 1 else {"rooms": rooms})
        if saved is None:
            connection.done()
            self._answer(socket, emit, answer)
            return

        def written(future: asyncio.Future[None]) -> None:
            connection.done()
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            if error is None:
                self._answer(socket, emit, answer)
            else:
                self._refuse(socket, emit, *error_of(error))

        saved.add_done_callback(written)

    def _rooms_of(self, emit: Emit) -> tuple[str, ...]:
        asked = emit.args[0] if emit.args else None
        named = asked.get("room", asked.get("rooms")) if isinstance(asked, dict) else asked
        rooms = [named] if isinstance(named, str) else named
        if not isinstance(rooms, list) or not rooms or len(rooms) > ROOMS_AT_ONCE:
            raise Refusal("bad_request", 'name the room: {"room":"…"}', emit.reply_id)
        try:
            for room in rooms:
                encode_room(room)
        except (TypeError, ValueError) as error:
            raise Refusal("bad_request", str(error), emit.reply_id) from None
        return tuple(dict.fromkeys(rooms))

    def _may_join(self, socket: EdgeSocket, room: str) -> bool:
        if is_socket_id(room) or room.startswith("user."):
            return False
        patterns = self._everyone
        if socket.client_rooms is not None:
            known = self._patterns.get(socket.client_rooms)
            if known is None:
                if len(self._patterns) > 10_000:
                    self._patterns.clear()
                known = tuple(text_pattern(pattern) for pattern in socket.client_rooms)
                self._patterns[socket.client_rooms] = known
            patterns = known
        return any(pattern.fullmatch(room) for pattern in patterns)

    # -- requests to services ----------------------------------------------------------------------------------------

    def _act(self, socket: EdgeSocket, emit: Emit) -> None:
        try:
            subject = self._subject(emit)
        except ValueError as error:
            raise Refusal("bad_request", str(error), emit.reply_id) from None
        request: dict[str, Any] = {
            "data": emit.args[0] if emit.args else None,
            "args": emit.args,
            "socket": {"id": socket.id, "edge": self._edge, "user": socket.user, "data": socket.data},
        }
        if emit.route is not None:
            request |= {"method": emit.route.method, "path": emit.route.path, "headers": emit.route.headers}
        try:
            body = orjson.dumps(request)
        except TypeError:  # it reads 1,024 levels and writes 254
            raise Refusal("bad_request", "the data is nested too deeply", emit.reply_id) from None
        asker = socket.asker
        assert asker is not None, "taken before"
        full = self._limits.begin(asker)
        if full:
            self._too_many(socket, emit, full)
            return
        began = time.perf_counter()
        try:
            asked = self._requests.ask(subject, body, self._action_timeout)
        except (BusUnavailable, ValueError) as error:
            self._limits.done(asker)
            code = "too_large" if isinstance(error, ValueError) else "unavailable"
            self._metrics.actions[code] += 1
            self._refuse(socket, emit, code, str(error))
            return

        def answered(future: asyncio.Future[Reply]) -> None:
            self._limits.done(asker)
            self._metrics.action.observe(time.perf_counter() - began)
            code, payload = _outcome(future, str(emit.route or emit.event))
            self._metrics.actions[code or "ok"] += 1
            if code:
                self._refuse(socket, emit, code, payload.decode())
            else:
                self._answer(socket, emit, payload)

        asked.add_done_callback(answered)

    def _subject(self, emit: Emit) -> str:
        """Where the request goes; ``ValueError`` where its name or path is none."""
        if emit.route is None:
            return self._subjects.action(emit.event)
        return self._subjects.route(request_tokens(emit.route.method, emit.route.path))

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, socket: EdgeSocket, emit: Emit, payload: bytes) -> None:
        if emit.reply_id is not None:
            self._fanout.send(socket, socket.dialect.answer(emit.reply_id, payload))

    def _too_many(self, socket: EdgeSocket, emit: Emit, why: str) -> None:
        self._metrics.actions["too_many"] += 1
        self._refuse(socket, emit, "too_many", why)

    def _refuse(self, socket: EdgeSocket, emit: Emit, code: str, message: str) -> None:
        if emit.reply_id is not None:
            self._fanout.send(socket, socket.dialect.error(emit.reply_id, code, message))


def _outcome(future: asyncio.Future[Reply], event: str) -> tuple[str, bytes]:
    """An empty code and the JSON of the answer, or the code and the message of what went wrong."""
    if future.cancelled():
        return "unavailable", b"the edge is going away"
    error = future.exception()
    if error is None:
        reply = future.result()
        try:
            if b"Nats-Service-Error" in reply.headers:
                parse_answer(reply.data)
                raise RemoteError("internal", "the service failed")
            orjson.loads(reply.data or b"null")
            return "", reply.data or b"null"
        except orjson.JSONDecodeError:
            return "internal", b"the service answered what is not JSON"
        except (RemoteError, BusUnavailable, BusTimeout) as caught:
            error = caught
    if isinstance(error, NoResponders):
        return "no_service", f"no service answers {event!r}".encode()
    if isinstance(error, BusTimeout):
        return "timeout", b"the service did not answer in time"
    if isinstance(error, PermissionDenied):
        return "unavailable", b"the edge may not ask that of NATS; its log tells why"
    code, message = error_of(error)
    return code, message.encode()
