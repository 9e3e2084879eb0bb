"""The SyncBus: the calls of the Bus for programs without an event loop (Django, Flask, Celery, scripts)."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import functools
import inspect
import os
import queue
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from roomcast.background import Background, Ended
from roomcast.bus import Bus
from roomcast.casting import Default
from roomcast.connecting import Connecting
from roomcast.envelope import MAX_CAST_BYTES
from roomcast.errors import BusUnavailable
from roomcast.handlers import Inputs
from roomcast.membership import Socket, parse_socket
from roomcast.names import encode_room
from roomcast.routes import Route

P = ParamSpec("P")
R = TypeVar("R")
SyncHandler = Callable[..., Any]
S = TypeVar("S", bound=SyncHandler)

PAGE = 200
"""Members that are handed from the loop's thread to the caller's at once."""
HANDLER_THREADS = 32


def _blocking(call: Callable[Concatenate[Bus, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[SyncBus, P], R]:
    """The same call, overloads and docstring too, that waits instead of being awaited."""

    @functools.wraps(call)
    def blocking(self: SyncBus, /, *args: P.args, **named: P.kwargs) -> R:
        link = self._connected()
        return link.run(lambda: call(link.bus, *args, **named))

    return blocking


def _iterating(call: Callable[Concatenate[Bus, P], AsyncIterator[R]]) -> Callable[Concatenate[SyncBus, P], Iterator[R]]:
    """The same call as a plain iterator."""

    @functools.wraps(call)
    def iterating(self: SyncBus, /, *args: P.args, **named: P.kwargs) -> Iterator[R]:
        link = self._connected()
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


@dataclass(slots=True)
class _Link:
    """One process's connection: a Bus and the loop that it lives in."""

    bus: Bus
    background: Background
    handlers: int = 0
    """So many of the handlers are registered with this Bus."""
    is_inherited: bool = False
    """Whether this process is a fork of the one that connected: the connection is not its own."""

    def run(self, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        if self.is_inherited:
            raise RuntimeError("this was begun before the process forked: begin it again")
        try:
            return self.background.run(work)
        except Ended:
            raise BusUnavailable("the bus was closed; whether the call was done is unknown") from None

    def close(self) -> None:
        with suppress(Ended):
            self.background.run(self.bus.close)
        self.background.end()


class SyncBus:
    """The :class:`Bus` for code that blocks. Make it with :meth:`connect`; one for the whole program is enough.

    Every call is that of the Bus, with the same parameters, results, errors and guarantees, but waits where that is
    awaited. All threads may share it; the order of casts is kept within a thread. It connects when it is first used.
    A process that was forked (gunicorn, Celery) gets a connection of its own when it uses it. At the program's end it
    is closed by itself. Callbacks (``default``, ``on_error``) run in its thread and must not call it.
    """

    def __init__(self, connect: Callable[[], Connecting]) -> None:
        connect()  # what is wrong with the arguments is said now, and NATS_URL is read when it connects
        self._connect = connect
        self._lock = threading.Lock()
        self._link: Future[_Link] | None = None
        self._is_closed = False
        self._handlers: list[tuple[str, tuple[str, ...], Callable[..., Awaitable[Any]]]] = []
        self._is_serving = False
        self._threads: ThreadPoolExecutor | None = None
        _all.add(self)

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
        with self._lock:
            self._is_closed = True
            link, self._link = self._link, None
        if link is not None and link.exception() is None:
            link.result().close()

    def __enter__(self) -> SyncBus:
        self._connected()
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

    def action(self, name: str) -> Callable[[S], S]:
        """As :meth:`Bus.action`, over a plain ``def``, which runs in a thread: ``@bus.action("orders.subscribe")``."""
        encode_room(name, "an action name")
        return self._registering("action", name)

    def route(self, route: str) -> Callable[[S], S]:
        """As :meth:`Bus.route`, over a plain ``def``, which runs in a thread: ``@bus.route("PUT /orders/:id")``."""
        Route.parse(route)
        return self._registering("route", route)

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
        link = self._connected()
        for kind, args, handler in self._handlers[link.handlers :]:
            getattr(link.bus, kind)(*args)(handler)
        link.handlers = len(self._handlers)
        serving = link.bus.serving()
        link.run(serving.__aenter__)
        self._is_serving = True
        try:
            yield
        finally:
            self._is_serving = False
            with suppress(BusUnavailable):  # closed within the block
                link.run(lambda: serving.__aexit__(None, None, None))

    def _registering(self, kind: str, *args: str) -> Callable[[S], S]:
        if any((kind, args) == each[:2] for each in self._handlers):
            raise ValueError(f"the {kind} {args[0]!r} is served already")

        def register(handler: S) -> S:
            in_a_thread = self._in_a_thread(handler)
            Inputs(in_a_thread)
            if self._is_serving:
                raise RuntimeError("register handlers before serving")
            self._handlers.append((kind, args, in_a_thread))
            return handler

        return register

    def _in_a_thread(self, handler: SyncHandler) -> Callable[..., Awaitable[Any]]:
        if inspect.iscoroutinefunction(handler):
            raise TypeError(f"a SyncBus's handler is a plain `def`; {handler!r} is an `async def`")

        @functools.wraps(handler)
        async def run(*args: Any, **inputs: Any) -> Any:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(HANDLER_THREADS, "roomcast handler")
            call = functools.partial(contextvars.copy_context().run, handler, *args, **inputs)
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)

        return run

    # -- the connection of this process ------------------------------------------------------------------------------

    def _connected(self) -> _Link:
        link = self._link
        if link is None or not link.done() or link.exception() is not None:
            with self._lock:
                if self._is_closed:
                    raise BusUnavailable("the bus is closed")
                link, is_ours = self._link, False
                if link is None or (link.done() and link.exception() is not None):
                    link = self._link = Future()
                    is_ours = True
            if is_ours:
                try:
                    link.set_result(self._start())
                except Exception as error:
                    link.set_exception(error)
                except BaseException:
                    link.set_exception(BusUnavailable("connecting was interrupted"))
                    raise
        return link.result()

    def _start(self) -> _Link:
        background = Background("roomcast")

        async def connect() -> Bus:
            return await self._connect()

        try:
            return _Link(background.run(connect), background)
        except BaseException:
            background.end()
            raise

    def _forget(self) -> None:
        """In a fork: the connection, its loop and whoever holds the lock are the parent's."""
        self._lock = threading.Lock()
        self._is_serving = False
        self._threads = None
        link, self._link = self._link, None
        if link is not None and link.done() and link.exception() is None:
            inherited = link.result()
            inherited.is_inherited = True
            _inherited.append(inherited)
            _let_go(inherited.bus)


_all: weakref.WeakSet[SyncBus] = weakref.WeakSet()
_inherited: list[_Link] = []
"""Parents' connections. Kept for ever: a loop that is finalised here would take the parent's out of its own epoll."""


def _let_go(bus: Bus) -> None:
    """Drop this process's copy of the parent's connection, which would outlive the parent's own.

    The number stays taken, by the null device: what is finalised later must not close a stranger's file.
    """
    stream = bus.nats._stream()
    socket = stream.get_extra_info("socket") if stream is not None else None
    if socket is not None and socket.fileno() >= 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, socket.fileno(), inheritable=False)
        os.close(null)


def _after_fork() -> None:
    for bus in list(_all):
        bus._forget()


def _at_exit() -> None:
    for bus in list(_all):
        bus.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
