"""A SyncBus's connection: made when it is first needed, one for each process, closed at the program's end."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from roomcast.background import Background, Ended
from roomcast.bus import Bus
from roomcast.connecting import Connecting
from roomcast.errors import BusUnavailable

R = TypeVar("R")


@dataclass(slots=True)
class Link:
    """One process's connection: a Bus and the loop that it lives in."""

    bus: Bus
    background: Background
    registered: int = 0
    """So many of the SyncBus's handlers are registered with this Bus."""
    is_inherited: bool = False
    """Whether this process is a fork of the one that connected: the connection is not its own."""

    def run(self, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Run this in the Bus's loop and wait for it."""
        if self.is_inherited:
            raise RuntimeError("this was begun before the process forked: begin it again")
        try:
            return self.background.run(work)
        except Ended:
            raise BusUnavailable("the bus was closed; whether the call was done is unknown") from None

    def close(self) -> None:
        """Flush and end it."""
        with suppress(Ended):
            self.background.run(self.bus.close)
        self.background.end()


class Linking:
    """The way of all threads of a process to its Link."""

    def __init__(self, connect: Callable[[], Connecting]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._link: Future[Link] | None = None
        self._is_closed = False
        _all.add(self)

    def link(self) -> Link:
        """This process's link. Whoever comes first connects, the others wait for it; a failure is tried again."""
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

    def _start(self) -> Link:
        background = Background("roomcast")

        async def connect() -> Bus:
            return await self._connect()

        try:
            return Link(background.run(connect), background)
        except BaseException:
            background.end()
            raise

    def close(self) -> None:
        """Close this process's link, if there is one; there will be no other."""
        with self._lock:
            self._is_closed = True
            link, self._link = self._link, None
        if link is not None and link.exception() is None:
            link.result().close()

    def forget(self) -> None:
        """In a fork: the connection, its loop and whoever holds the lock are the parent's."""
        self._lock = threading.Lock()
        link, self._link = self._link, None
        if link is not None and link.done() and link.exception() is None:
            inherited = link.result()
            inherited.is_inherited = True
            _inherited.append(inherited)
            _let_go(inherited.bus)


_all: weakref.WeakSet[Linking] = weakref.WeakSet()
_inherited: list[Link] = []
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
    for linking in list(_all):
        linking.forget()


def _at_exit() -> None:
    for linking in list(_all):
        linking.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
