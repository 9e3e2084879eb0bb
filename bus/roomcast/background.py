"""An event loop in a thread of its own, for programs that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")


class Ended(Exception):
    """The loop has ended, before the work was begun or while it was under way."""


class Background:
    """A loop in a daemon thread. It belongs to the process that made it: a fork has a copy without the thread."""

    def __init__(self, name: str) -> None:
        self._gate = threading.Lock()
        self._is_ended = False
        self._stop = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._live, args=(started,), name=name, daemon=True)
        self._thread.start()
        self._loop = started.result()

    def _live(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        async def live() -> None:
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

        # The standard loop, whatever the program's policy is: what it does across a fork is known.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(live())

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run this in the loop, from any thread but the loop's own, and wait for what it returns or raises.

        :class:`Ended` when the loop has ended. An interrupt of the wait (Ctrl-C) cancels the work.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("this runs in the bus's own thread, in a callback of it, and would wait for itself")
        with self._gate:
            if self._is_ended:
                raise Ended
            future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise Ended from None
        except BaseException:
            future.cancel()
            raise

    def end(self) -> None:
        """Cancel what is under way, and wait until the thread has ended. Ending twice is no error."""
        with self._gate:
            if self._is_ended:
                return
            self._is_ended = True
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
