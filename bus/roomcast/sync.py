"""The SyncBus: the calls of the Bus for programs without an event loop (Django, Flask, Celery, scripts)."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import queue
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from roomcast.bus import Bus
from roomcast.casting import Default
from roomcast.connecting import Connecting
from roomcast.envelope import MAX_CAST_BYTES
from roomcast.errors import BusUnavailable
from roomcast.grants import Grant, Handshake
from roomcast.handlers import Inputs
from roomcast.lifecycle import Lifecycle
from roomcast.linking import Linking
from roomcast.membership import Socket, parse_socket
from roomcast.names import encode_room
from roomcast.routes import Route

P = ParamSpec("P")
R = TypeVar("R")
AsyncHandler = Callable[..., Awaitable[Any]]
Registration = Callable[[Bus], Any]
F = TypeVar("F", bound=Callable[..., Any])
H = TypeVar("H", bound=Callable[..., Any])
A = TypeVar("A", bound=Callable[[Handshake], Grant | None])
L = TypeVar("L", bound=Callable[[Lifecycle], None])

PAGE = 200
"""Members that are handed from the loop's thread to the caller's at once."""
HANDLER_THREADS = 32


def _blocking(call: Callable[Concatenate[Bus, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[SyncBus, P], R]:
    """The same call, overloads and docstring too, that waits instead of being awaited."""

    @functools.wraps(call)
    def blocking(self: SyncBus, /, *args: P.args, **named: P.kwargs) -> R:
        link = self._linking.link()
        return link.run(lambda: call(link.bus, *args, **named))

    return blocking


def _iterating(call: Callable[Concatenate[Bus, P], AsyncIterator[R]]) -> Callable[Concatenate[SyncBus, P], Iterator[R]]:
    """The same call as a plain iterator."""

    @functools.wraps(call)
    def iterating(self: SyncBus, /, *args: P.args, **named: P.kwargs) -> Iterator[R]:
        link = self._linking.link()
        items = call(link.bus, *args, **named)
        error: BaseException | None = None
        while error is None:
            page, error = link.run(lambda: _page(items))
            yield from page
        if not isinstance(error, StopAsyncIteration):
            raise error

    return iterating


async def _page(items: AsyncIterator[R]) -> tuple[list[R], Exception | None]:
    """The next items, and what the iterator raised behind them (its end too)."""
    page: list[R] = []
    try:
        while len(page) < PAGE:
            page.append(await anext(items))
    except Exception as error:
        return page, error
    return page, None


class SyncBus:
    """The :class:`Bus` for code that blocks. Make it with :meth:`connect`; one for the whole program is enough.

    Every call is that of the Bus, with the same parameters, results, errors and guarantees, but waits where that is
    awaited. All threads may share it; the order of casts is kept within a thread. It connects when it is first used.
    A process that was forked (gunicorn, Celery) gets a connection of its own when it uses it. At the program's end it
    is closed by itself. Callbacks (``default``, ``on_error``) run in its thread and must not call it.
    """

    def __init__(self, connect: Callable[[], Connecting]) -> None:
        connect()  # what is wrong with the arguments is said now, and NATS_URL is read when it connects
        self._linking = Linking(connect)
        self._handlers: dict[tuple[str, str], Registration] = {}
        self._is_serving = False
        self._threads = Threads()

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
    ) -> SyncBus:
        """A bus that connects to NATS when it is first used: ``bus = SyncBus.connect(…)``, at a module's top too.

        The parameters are those of :meth:`Bus.connect`. ``with SyncBus.connect(…) as bus:`` connects at once. Whichever
        call connects raises ``BusUnavailable`` when no NATS answers, and the next one tries again.
        """
        given: dict[str, Any] = {"prefix": prefix, "name": name, "version": version, "default": default}
        given |= {"cast_limit": cast_limit, "on_error": on_error, **options}
        return cls(functools.partial(Bus.connect, servers, **given))

    def close(self) -> None:
        """Hand what is sent to the server, then close the connection, for good. Closing twice is no error."""
        self._linking.close()

    def __enter__(self) -> SyncBus:
        self._linking.link()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- calls -------------------------------------------------------------------------------------------------------

    broadcast = _blocking(Bus.broadcast)
    blast = _blocking(Bus.blast)
    flush = _blocking(Bus.flush)
    join = _blocking(Bus.join)
    leave = _blocking(Bus.leave)
    disconnect = _blocking(Bus.disconnect)
    leave_all = _blocking(Bus.leave_all)
    add_room_members_to_rooms = _blocking(Bus.add_room_members_to_rooms)
    remove_room_members_from_rooms = _blocking(Bus.remove_room_members_from_rooms)
    move = _blocking(Bus.move)
    call = _blocking(Bus.call)
    get = _blocking(Bus.get)
    rooms = _blocking(Bus.rooms)
    count = _blocking(Bus.count)
    members = _iterating(Bus.members)

    def get_id(self, request: object) -> str | None:
        """The id of the socket that a request came over; None where it came over none."""
        socket = parse_socket(request)
        return None if socket is None else socket.id

    def parse_socket(self, request: object) -> Socket | None:
        """The socket that a request came over; None where it came over none."""
        return parse_socket(request)

    # -- serving clients ---------------------------------------------------------------------------------------------

    def action(self, name: str) -> Callable[[H], H]:
        """As :meth:`Bus.action`, over a plain ``def``, which runs in a thread: ``@bus.action("orders.subscribe")``."""
        encode_room(name, "an action name")
        return self._registering("action", name, lambda bus, handler: bus.action(name)(handler))

    def route(self, route: str) -> Callable[[H], H]:
        """As :meth:`Bus.route`, over a plain ``def``, which runs in a thread: ``@bus.route("PUT /orders/:id")``."""
        parsed = Route.parse(route)
        return self._registering("route", str(parsed), lambda bus, handler: bus.route(route)(handler))

    def authenticate(self, handler: A) -> A:
        """As :meth:`Bus.authenticate`, over a plain ``def``, which runs in a thread."""
        return self._registering("authenticate", "", lambda bus, own: bus.authenticate(own))(handler)

    def on_connect(self, handler: L) -> L:
        """As :meth:`Bus.on_connect`, over a plain ``def``, which runs in a thread."""
        return self._registering("on_connect", "", lambda bus, own: bus.on_connect(own))(handler)

    def on_disconnect(self, handler: L) -> L:
        """As :meth:`Bus.on_disconnect`, over a plain ``def``, which runs in a thread."""
        return self._registering("on_disconnect", "", lambda bus, own: bus.on_disconnect(own))(handler)

    def serve(self) -> None:
        """Serve what is registered until SIGTERM or SIGINT, then finish what is under way. In the main thread."""
        stop: queue.SimpleQueue[int] = queue.SimpleQueue()  # unlike an Event's, its lock is no trap in a signal handler
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, lambda number, _: stop.put(number)) for number in numbers}
        try:
            with self.serving():
                stop.get()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def serving(self) -> AbstractContextManager[None]:
        """Serve what is registered while the block runs, inside another program's life."""
        return self._serving()

    @contextmanager
    def _serving(self) -> Iterator[None]:
        link = self._linking.link()
        for register in list(self._handlers.values())[link.registered :]:
            register(link.bus)
            link.registered += 1
        serving = link.bus.serving()
        link.run(serving.__aenter__)
        self._is_serving = True
        try:
            yield
        finally:
            self._is_serving = False
            with suppress(BusUnavailable):  # closed within the block
                link.run(lambda: serving.__aexit__(None, None, None))

    def _registering(self, kind: str, what: str, register: Callable[[Bus, AsyncHandler], Any]) -> Callable[[F], F]:
        """A decorator that keeps a handler for the Bus on which it will be registered."""

        def keep(handler: F) -> F:
            own = self._threads.handler(handler)
            if self._is_serving:
                raise RuntimeError("register handlers before serving")
            if (kind, what) in self._handlers:
                raise ValueError(f"{kind} {what} is served already".replace("  ", " "))
            self._handlers[kind, what] = lambda bus: register(bus, own)
            return handler

        return keep


class Threads:
    """The threads in which handlers run."""

    def __init__(self) -> None:
        self._pid = 0
        self._pool: ThreadPoolExecutor

    def handler(self, handler: Callable[..., Any]) -> AsyncHandler:
        """An ``async def`` with the same parameters that runs this ``def`` in a thread. ``TypeError``: it is none."""
        if inspect.iscoroutinefunction(handler):
            raise TypeError(f"a SyncBus's handler is a plain `def`; {handler!r} is an `async def`")

        @functools.wraps(handler)
        async def run(*args: Any, **inputs: Any) -> Any:
            call = functools.partial(contextvars.copy_context().run, handler, *args, **inputs)
            return await asyncio.get_running_loop().run_in_executor(self._running(), call)

        Inputs(run)
        return run

    def _running(self) -> ThreadPoolExecutor:
        if self._pid != os.getpid():  # a fork has the pool without its threads
            self._pid = os.getpid()
            self._pool = ThreadPoolExecutor(HANDLER_THREADS, "roomcast handler")
        return self._pool
