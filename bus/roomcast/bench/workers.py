"""The processes of the load, as the bench sees them: asked together, answers added up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from roomcast.bench.connection import Target
from roomcast.bench.counts import Counts, Opened
from roomcast.bench.errors import BenchError
from roomcast.bench.forks import context, end, fork
from roomcast.bench.histogram import Histogram
from roomcast.bench.load import Load

ANSWER_WITHIN = 30.0
"""Seconds beyond what a command itself may take."""
LONGEST_LIFE = 900.0
"""Seconds after which a process of the load ends, whatever its parent does."""
QUIET = 5.0
"""Seconds without a delivery after which no more are waited for."""
CLOSE_WITHIN = 10.0

Told = Callable[[int], None]


class Workers:
    """Processes that hold websockets. Use it as a context: they are gone at its end."""

    def __init__(self, targets: Sequence[Target], processes: int) -> None:
        self._targets = list(targets)
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._count = 0
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = fork("load", _work, theirs, [*self._pipes, ours], self._targets)
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            end(process)

    @property
    def size(self) -> int:
        """Sockets that are open, or were."""
        return self._count

    def open(
        self,
        count: int,
        hellos: Sequence[str] = (),
        *,
        within: float = 120.0,
        narrow: bool = False,
        greeted: bool = True,
        told: Told = lambda _: None,
    ) -> Opened:
        """Open ``count`` more websockets, see :meth:`Load.open`. ``told`` hears how many are ready."""
        parts = _parts(count, len(self._pipes))
        arguments, first = [], self._count
        for part in parts:
            arguments.append((first, part, list(hellos), within, narrow, greeted))
            first += part
        self._count += count
        return _sum(self._ask("open", arguments, within, told))

    def resume(self, targets: Sequence[Target], *, within: float = 120.0, told: Told = lambda _: None) -> Opened:
        """Let all sockets, whose servers have gone, come back to these at once, see :meth:`Load.resume`."""
        return _sum(self._ask("resume", [(list(targets), within)] * len(self._pipes), 2 * within, told))

    def open_all(self, count: int, hellos: Sequence[str] = (), **options: Any) -> Opened:
        """As :meth:`open`; :class:`BenchError` unless every socket is ready."""
        opened = self.open(count, hellos, **options)
        if opened.forbidden:
            raise BenchError(f"the edge does not let clients join the rooms of the bench: {opened.why}")
        if opened.lost:
            raise BenchError(f"{opened.lost} of {count} sockets could not be opened: {opened.why}")
        return opened

    def ask(self, text: str, times: int, within: float) -> int:
        """Ask this so many times on each socket, see :meth:`Load.ask`; returns how many were answered."""
        return sum(self._ask("ask", [(text, times, within)] * len(self._pipes), within))

    def ids(self) -> list[str]:
        """The ids of all sockets, by index."""
        rows = [row for rows in self._ask("ids") for row in rows]
        return [name for _, name in sorted(rows)]

    def count(self, *, last_wanted: bool = True) -> None:
        """Count from now on."""
        self._ask("count", [(last_wanted,)] * len(self._pipes))

    def deliveries(self) -> int:
        """Casts that have arrived since :meth:`count`, over all sockets."""
        return sum(self._ask("deliveries"))

    def stall(self, first: int) -> int:
        """Read no more from sockets with this index and above."""
        return sum(self._ask("stall", [(first,)] * len(self._pipes)))

    def wait_for(self, deliveries: int, within: float = 60.0) -> None:
        """Wait until so many have arrived, or none arrives any more; at most ``within`` seconds."""
        seen, now = -1, time.monotonic()
        deadline, quiet_at = now + within, now + QUIET
        while seen < deliveries and time.monotonic() < min(deadline, quiet_at):
            time.sleep(0.03)
            arrived = self.deliveries()
            if arrived > seen:
                seen, quiet_at = arrived, time.monotonic() + QUIET

    def counts(self) -> tuple[Counts, Histogram]:
        """All that has arrived since :meth:`count`; and the latencies until the last socket had a cast."""
        total, last = Counts(), Histogram()
        for counts in self._ask("counts"):
            total.deliveries += counts.deliveries
            total.gaps += counts.gaps
            total.duplicates += counts.duplicates
            total.closed += counts.closed
            total.busy = max(total.busy, counts.busy)
            total.latency.merge(counts.latency)
            for sent, at in counts.last_at.items():
                total.last_at[sent] = max(at, total.last_at.get(sent, 0))
        for sent, at in total.last_at.items():
            last.add((at - sent) // 1000)
        return total, last

    def close(self, within: float = CLOSE_WITHIN) -> None:
        """Close all sockets, waiting so many seconds for the server's part in it; more can be opened then."""
        self._ask("close", [(within,)] * len(self._pipes), within)
        self._count = 0

    def _ask(
        self,
        method: str,
        arguments: Sequence[tuple[Any, ...]] | None = None,
        within: float = 0.0,
        told: Told = lambda _: None,
    ) -> list[Any]:
        """Each process's answer."""
        pending = dict(enumerate(self._pipes))
        answers: dict[int, Any] = {}
        progress: dict[int, int] = {}
        deadline = time.monotonic() + within + ANSWER_WITHIN
        try:
            for number, pipe in enumerate(self._pipes):
                pipe.send((method, arguments[number] if arguments else ()))
            while pending:
                ready = wait(list(pending.values()), timeout=max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise BenchError(f"the load did not answer in time ({method})")
                for number, pipe in list(pending.items()):
                    if pipe not in ready:
                        continue
                    kind, value = pipe.recv()
                    if kind == "progress":
                        progress[number] = value
                        told(sum(progress.values()))
                    elif kind == "failed":
                        raise BenchError(f"the load failed: {value}")
                    else:
                        answers[number] = value
                        del pending[number]
        except (EOFError, OSError) as error:
            raise BenchError(f"a process of the load has died ({method})") from error
        return [answers[number] for number in range(len(self._pipes))]


def _sum(parts: Sequence[Opened]) -> Opened:
    total = Opened()
    for opened in parts:
        total.ready += opened.ready
        total.lost += opened.lost
        total.forbidden += opened.forbidden
        total.resumed += opened.resumed
        total.again += opened.again
        total.why = total.why or opened.why
        total.seconds = max(total.seconds, opened.seconds)
    return total


def _parts(count: int, parts: int) -> list[int]:
    """``count`` in nearly equal whole parts."""
    return [count * (number + 1) // parts - count * number // parts for number in range(parts)]


def _work(control: Connection, inherited: list[Connection], targets: list[Target]) -> None:
    """A process of the load: does what it is told until its parent closes the pipe, or is gone."""
    for pipe in inherited:  # else our own copy would keep the pipe open behind our parent's death
        pipe.close()
    load = Load(targets, lambda ready: control.send(("progress", ready)))
    load.listen(control.fileno())
    deadline = time.monotonic() + LONGEST_LIFE
    try:
        while time.monotonic() < deadline:
            if not load.pump(1.0):
                continue
            method, arguments = control.recv()
            try:
                control.send(("done", getattr(load, method)(*arguments)))
            except OSError as error:
                control.send(("failed", os.strerror(error.errno or 0)))
    except (EOFError, OSError):
        pass  # the parent is gone, or done with us
