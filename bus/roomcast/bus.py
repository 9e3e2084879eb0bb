"""The Bus: the ``sails.sockets`` API for a whole cluster, over core NATS."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, overload

import orjson

from roomcast.asking import Asking
from roomcast.casting import Casting, Default, Rooms, Target
from roomcast.connecting import Connecting, server_urls
from roomcast.envelope import MAX_CAST_BYTES, encode_data
from roomcast.errors import Incomplete, RemoteError, RoomcastError, SocketNotFound
from roomcast.grants import Grant, Handshake
from roomcast.handlers import Handler
from roomcast.lifecycle import Lifecycle
from roomcast.lookout import Lookout
from roomcast.membership import (
    Change,
    ChangeResult,
    MoveResult,
    Socket,
    check_reason,
    parse_socket,
    room_list,
    socket_id,
)
from roomcast.names import Subjects, check_event, encode_room, is_socket_id
from roomcast.nats_client import MendedClient, connect
from roomcast.requests import Requests
from roomcast.serving import Serving

log = logging.getLogger("roomcast")

H = TypeVar("H", bound=Handler)
A = TypeVar("A", bound=Callable[[Handshake], Awaitable[Grant | None]])
L = TypeVar("L", bound=Callable[[Lifecycle], Awaitable[None]])


class Bus(Casting):
    """One service's way to every room and socket of the cluster. Make it with :meth:`connect`.

    Every call that waits takes ``timeout`` in seconds. A change that returned is done on every edge that it concerns:
    a cast sent next from this Bus sees it. Casts keep their order, across all rooms. Not thread-safe.
    """

    def __init__(
        self,
        client: MendedClient,
        subjects: Subjects,
        requests: Requests,
        default: Default | None,
        serving: Serving,
        lookout: Lookout,
        cast_limit: int = MAX_CAST_BYTES,
    ) -> None:
        super().__init__(client, subjects, default, cast_limit)
        self._requests = requests
        self._asking = Asking(requests, subjects)
        self._serving = serving
        self._lookout = lookout

    @classmethod
    def connect(
        cls,
        servers: str | Iterable[str] | None = None,
        *,
        prefix: str = "bus",
        name: str = "service",
        version: str = "0.0.1",
        default: Default | None = None,
        cast_limit: int = MAX_CAST_BYTES,
        on_error: Callable[[Exception], Awaitable[None] | None] | None = None,
        **options: Any,
    ) -> Connecting:
        """Connect to NATS: ``bus = await Bus.connect(…)`` or ``async with Bus.connect(…) as bus:``.

        ``servers`` is one URL, several, or a comma-separated text; by default ``NATS_URL`` of the environment, else
        ``nats://localhost:4222``. ``default`` is called for data that JSON does not know, ``cast_limit`` is in bytes.
        ``name`` (letters, digits, ``_``, ``-``) and ``version`` (semantic) are those of the service that it serves.
        ``options`` go to nats-py (``tls``, ``user_credentials``, ``user``, ``password``, ``token``, …).
        Raises ``BusUnavailable`` when no NATS answers now; later it reconnects for ever, and leaves a node of a cluster
        that is cut off from the edges.
        """
        urls = server_urls(servers)
        subjects = Subjects(prefix)

        async def start() -> Bus:
            async def report(error: Exception) -> None:
                if on_error is None:
                    log.debug("nats: %s", error)
                else:
                    told = on_error(error)
                    if told is not None:
                        await told

            async def lost() -> None:
                bus._requests.fail("the connection to NATS was lost before the answer; whether it was done is unknown")

            async def dial(url: str) -> MendedClient:
                return await connect([url], name=f"{name}-look", **options)

            client = await connect(urls, name=name, on_error=report, on_disconnect=lost, **options)
            serving = Serving(client, subjects, name, version, default)
            lookout = Lookout(client, subjects, dial)
            bus = cls(client, subjects, Requests(client), default, serving, lookout, cast_limit)
            bus._requests.start()
            lookout.start()
            return bus

        return Connecting(start)

    async def close(self) -> None:
        """Hand what is sent to the server, then close the connection. Closing twice is no error."""
        if self.nats.is_closed:
            return
        self._lookout.stop()
        if self.nats.is_connected:
            try:
                await self.flush(timeout=2.0)
            except RoomcastError as error:
                log.warning("closed before NATS had taken all casts: %s", error)
        self._requests.stop()
        await self.nats.close()

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- changes of one socket, or of several by id ------------------------------------------------------------------

    @overload
    async def join(
        self, sockets: list[Any] | tuple[Any, ...], rooms: Rooms, *, timeout: float = 5.0
    ) -> list[ChangeResult]: ...
    @overload
    async def join(self, sockets: Target, rooms: Rooms, *, timeout: float = 5.0) -> ChangeResult: ...
    async def join(self, sockets: Any, rooms: Rooms, *, timeout: float = 5.0) -> ChangeResult | list[ChangeResult]:
        """Make a socket (a Socket, a request, an id, or a list of these) a member of one room or several.

        When it returns, a cast sent next from this Bus reaches the socket, and the membership outlives its edge.
        Raises ``SocketNotFound``, ``BusUnavailable``, ``BusTimeout`` (unknown; joining again is safe). A list of
        sockets never raises these: it returns a result for each, in order.
        """
        return await self._asking.change(sockets, Change(join=room_list(rooms)), timeout)

    @overload
    async def leave(
        self, sockets: list[Any] | tuple[Any, ...], rooms: Rooms, *, timeout: float = 5.0
    ) -> list[ChangeResult]: ...
    @overload
    async def leave(self, sockets: Target, rooms: Rooms, *, timeout: float = 5.0) -> ChangeResult: ...
    async def leave(self, sockets: Any, rooms: Rooms, *, timeout: float = 5.0) -> ChangeResult | list[ChangeResult]:
        """End a socket's membership of one room or several. As :meth:`join`; a socket that is gone is no error."""
        return await self._asking.change(sockets, Change(leave=room_list(rooms)), timeout)

    async def disconnect(self, target: Target, *, reason: str = "", timeout: float = 5.0) -> MoveResult:
        """Close a socket (a Socket, a request, an id) or all members of a room; they are told not to come back.

        The result counts, per edge, who was matched and closed; a socket or a room that has nobody is no error.
        Raises as :meth:`leave_all`.
        """
        change = Change(disconnect=check_reason(reason))
        name = socket_id(target)
        if is_socket_id(name):
            answer = await self._asking.change_one(name, change, timeout)
            if answer is not None:
                return MoveResult.from_json({"edges": {answer["edge"]: {"matched": 1, "changed": 1}}})
        return await self._asking.move(name, change, timeout)

    # -- changes of all members of a room ----------------------------------------------------------------------------

    async def leave_all(self, room: str, *, everywhere: bool = False, timeout: float = 5.0) -> MoveResult:
        """Empty a room. With ``everywhere=True`` its members leave every room but their own, as Sails's code does.

        When it returns, no cast sent next from this Bus reaches them there. Raises ``MoveIncomplete`` when an edge did
        not confirm in time (``.result`` names it; the change is durable and still applies), ``BusUnavailable`` and
        ``BusTimeout`` when it is not known to be made.
        """
        encode_room(room)
        change = Change(leave_all=True) if everywhere else Change(leave=(room,))
        return await self._asking.move(room, change, timeout)

    async def add_room_members_to_rooms(self, source: str, rooms: Rooms, *, timeout: float = 5.0) -> MoveResult:
        """Make everyone who is in ``source`` now a member of one room or several too. As :meth:`leave_all`."""
        return await self._asking.move(source, Change(join=room_list(rooms)), timeout)

    async def remove_room_members_from_rooms(self, source: str, rooms: Rooms, *, timeout: float = 5.0) -> MoveResult:
        """End the membership of everyone who is in ``source`` now in one room or several. As :meth:`leave_all`."""
        return await self._asking.move(source, Change(leave=room_list(rooms)), timeout)

    async def move(self, source: str, *, join: Rooms = (), leave: Rooms = (), timeout: float = 5.0) -> MoveResult:
        """Make everyone who is in ``source`` now join and leave rooms, in one change. As :meth:`leave_all`."""
        change = Change(join=room_list(join, "join"), leave=room_list(leave, "leave"))
        return await self._asking.move(source, change, timeout)

    # -- serving clients ---------------------------------------------------------------------------------------------

    def action(self, name: str) -> Callable[[H], H]:
        """Answer clients that emit this event: ``@bus.action("orders.subscribe")`` over an ``async def``.

        The handler gets a :class:`Request`, and its further parameters by name from the data that the client sent, in
        snake_case or camelCase, checked against their types (``bad_request`` names the field). What it returns is the
        answer; a :class:`ServiceFault` that it raises is the client's error; anything else is ``internal``, logged.
        ``ValueError``, ``TypeError``: a bad name, a name that is taken, a handler that is none.
        """

        def register(handler: H) -> H:
            self._serving.action(name, handler)
            return handler

        return register

    def route(self, route: str) -> Callable[[H], H]:
        """Answer requests with a method and a path: ``@bus.route("PUT /orders/:id/status")``. As :meth:`action`.

        Parameters of the path are in ``req.params``, and inputs of the handler too. Of two routes of this service that
        both match, the more literal one answers.
        """

        def register(handler: H) -> H:
            self._serving.route(route, handler)
            return handler

        return register

    def authenticate(self, handler: A) -> A:
        """Say who may connect, to edges with ``--auth bus``: ``@bus.authenticate`` over an ``async def``.

        The handler gets a :class:`Handshake` and returns a :class:`Grant`; None, or an ``Unauthorized`` that it
        raises, refuses the client, which hears the message. ``ValueError``: there is one already.
        """
        self._serving.authenticate(handler)
        return handler

    def on_connect(self, handler: L) -> L:
        """Hear of each new session, as a :class:`Lifecycle`; one that is resumed is none. Copies of this service (of
        its name) share these events, each at most once."""
        self._serving.on_lifecycle(self._subjects.connects, handler)
        return handler

    def on_disconnect(self, handler: L) -> L:
        """Hear of each session that is over: at once when it was ended on purpose, else after the resume window, also
        when its edge has died. As :meth:`on_connect`: at most once for each session."""
        self._serving.on_lifecycle(self._subjects.disconnects, handler)
        return handler

    async def serve(self) -> None:
        """Serve what is registered until SIGTERM or SIGINT, then finish what is under way."""
        await self._serving.serve()

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Serve what is registered while the block runs, inside another program's life."""
        return self._serving.serving()

    # -- who is there ------------------------------------------------------------------------------------------------

    def get_id(self, request: object) -> str | None:
        """The id of the socket that a request came over; None where it came over none."""
        socket = parse_socket(request)
        return None if socket is None else socket.id

    def parse_socket(self, request: object) -> Socket | None:
        """The socket that a request came over; None where it came over none."""
        return parse_socket(request)

    async def call(self, socket: Target, event: str, data: Any = None, *, timeout: float = 5.0) -> Any:
        """Send an event to one client and wait for its reply, which is returned.

        Raises ``SocketNotFound`` (also where the socket is away just now), ``BusTimeout`` (the client has not replied;
        it may have heard the event), ``RemoteError`` (the client replied with an error, or its connection was lost
        before it replied: code ``disconnected``), ``BusUnavailable``; ``ValueError`` and ``TypeError`` before anything
        is sent.
        """
        check_event(event)
        name = socket_id(socket)
        payload = encode_data(data, self._default, self._cast_limit)
        answer = await self._asking.call(name, event, orjson.Fragment(payload), timeout)
        if answer is None:
            raise SocketNotFound(name)
        if "refused" in answer:  # the client's own word, whatever code it chose
            raise RemoteError(answer["refused"]["code"], answer["refused"]["message"])
        return answer["reply"]

    async def get(self, socket: Target, *, timeout: float = 5.0) -> Socket | None:
        """The socket with this id wherever it is connected, or None."""
        answer = await self._asking.ask_socket(socket_id(socket), {}, "get", timeout)
        return Socket.from_json(answer["socket"]) if answer and answer.get("connected", True) else None

    async def rooms(self, socket: Target, *, timeout: float = 5.0) -> frozenset[str]:
        """The rooms that a socket is in, without its own. Raises ``SocketNotFound``."""
        name = socket_id(socket)
        answer = await self._asking.ask_socket(name, {}, "get", timeout)
        if answer is None:
            raise SocketNotFound(name)
        return Socket.from_json(answer["socket"]).rooms

    async def count(self, room: str, *, timeout: float = 5.0, partial: bool = False) -> int:
        """How many connected sockets are in a room. ``Incomplete`` when an edge is silent, unless ``partial``."""
        encode_room(room)
        answer = await self._asking.ask_api("count", {"room": room}, timeout)
        if answer["missing"] and not partial:
            raise Incomplete(f"the count of {room!r}", answer["missing"], int(answer["count"]))
        return int(answer["count"])

    async def members(self, room: str, *, timeout: float = 5.0, partial: bool = False) -> AsyncIterator[Socket]:
        """The connected sockets in a room, from all edges, a page at a time; ``timeout`` is for each page.

        Raises ``Incomplete`` at the end, after all that is known, when an edge is silent, unless ``partial``.
        """
        encode_room(room)
        cursor: dict[str, Any] | None = None
        missing: list[str] = []
        while True:
            answer = await self._asking.ask_api("members", {"room": room, "cursor": cursor}, timeout)
            for body in answer["members"]:
                yield Socket.from_json(body)
            missing = answer["missing"]
            cursor = answer["cursor"]
            if cursor is None:
                break
        if missing and not partial:
            raise Incomplete(f"the list of {room!r}", missing)


__all__ = ["Bus", "Connecting", "RemoteError"]
