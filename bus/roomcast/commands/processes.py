"""Processes that are kept running: output passed through, started again when they die, ended in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

RESTART_PAUSE = 1.0
MAX_DEATHS = 3
DEATH_WINDOW = 10.0
"""So many deaths within so many seconds, and a process is given up."""
STOP_WAIT = 5.0
"""Seconds between SIGTERM and SIGKILL."""
TAIL_LINES = 12

Say = Callable[[str], None]


class GaveUp(Exception):
    """A process keeps dying. The text says which, how, and what it printed last."""


class Child:
    """One process in a group of its own, so that a terminal's Ctrl-C reaches only us. Started again when it dies."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        say: Say,
        *,
        env: Mapping[str, str] | None = None,
        shows: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.name = name
        self.spoke = asyncio.Event()
        """Set by the first line of output."""
        self._command = command
        self._say = say
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._shows = shows
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> None:
        """Run until :meth:`tell_to_stop`, again after each death; :class:`GaveUp` when it dies too often."""
        deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        while not self._stopping.is_set():
            code = await self._run_once()
            if self._stopping.is_set():
                return
            deaths.append(time.monotonic())
            if len(deaths) == MAX_DEATHS and deaths[-1] - deaths[0] <= DEATH_WINDOW:
                output = "".join(f"\n  {line}" for line in self._tail) or " it printed nothing"
                raise GaveUp(f"{self.name} {_ending(code)}, {MAX_DEATHS} times in a row; its last words:{output}")
            self._say(f"{self.name} {_ending(code)}; it is started again in {RESTART_PAUSE:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(RESTART_PAUSE):
                    await self._stopping.wait()

    async def _run_once(self) -> int:
        self._tail.clear()
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._env,
            process_group=0,
        )
        self._process = process
        if self._stopping.is_set():  # told so while it was being started
            self.tell_to_stop()
        assert process.stdout is not None, "its output is a pipe"
        _, code = await asyncio.gather(self._pass_through(process.stdout), process.wait())
        return code

    async def _pass_through(self, output: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await output.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip("\r")
        self._tail.append(line)
        self.spoke.set()
        if self._shows(line):
            self._say(f"{self.name:<9} | {line}")

    def tell_to_stop(self) -> None:
        """Send SIGTERM; it is not started again."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to it and whatever it started."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Family:
    """Children started in groups; they end in the reverse order, a group at a time."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all is to end; with :class:`GaveUp` where a child is the reason."""
        self.is_up = False
        """Whether all is started and nothing ends yet."""
        self._groups: list[dict[Child, asyncio.Task[None]]] = []

    def start(self, children: Sequence[Child]) -> None:
        """Start a group of children, all at once."""
        group = {child: asyncio.create_task(child.keep_running(), name=child.name) for child in children}
        for task in group.values():
            task.add_done_callback(self._on_done)
        self._groups.append(group)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # seen, even where something else ends the run first

    def end(self) -> None:
        """All is to end now."""
        if not self.ended.done():
            self.ended.set_result(None)

    async def run(self, work: Awaitable[None]) -> None:
        """Do this work, then wait until all is to end; then stop the children, last group first."""
        doing = asyncio.ensure_future(work)
        try:
            await asyncio.wait({doing, self.ended}, return_when=asyncio.FIRST_COMPLETED)
            if not self.ended.done():
                doing.result()
                self.is_up = True
            await self.ended
        finally:
            self.is_up = False
            doing.cancel()
            await asyncio.wait({doing})
            for group in reversed(self._groups):
                await _stop(group)


async def _stop(group: Mapping[Child, asyncio.Task[None]]) -> None:
    for child in group:
        child.tell_to_stop()
    _, late = await asyncio.wait(group.values(), timeout=STOP_WAIT)
    if late:
        for child in group:
            child.kill()
        await asyncio.wait(late, timeout=STOP_WAIT)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
