"""How the bench forks its own processes: no signal may fall between a fork and what each side makes of signals."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

END_WITHIN = 2.0
OURS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

context = multiprocessing.get_context("fork")


def fork(name: str, work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run ``work`` in a process that leaves Ctrl-C to its parent. It dies with its parent's end at the latest."""
    process = context.Process(target=_run, args=(work, arguments), name=f"roomcast bench {name}", daemon=True)
    # An exception from a handler is lost in Python's own work around a fork: signals wait until it is done.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OURS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def end(process: BaseProcess) -> None:
    """Wait a little for a process whose pipe was closed, then end it."""
    process.join(END_WITHIN)
    if process.is_alive():
        process.kill()
        process.join()


def _run(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
    work(*arguments)
