"""The scenario of an edge that dies: all its clients come back at once, with their sessions, to two others."""

from __future__ import annotations

import time
from contextlib import ExitStack

from roomcast.bench.errors import BenchError
from roomcast.bench.frames import join_hello
from roomcast.bench.measure import sample
from roomcast.bench.run import Figure, Run

SOCKETS = 10_000
OTHERS = 2
WITHIN = 300.0
LOOK_SECONDS = 0.5
"""Seconds between two looks at the edges' memory and requests."""
MIB = 1 << 20


def resume(run: Run) -> list[Figure]:
    """Kill an edge and measure how its sockets, each in three rooms, come back at two others."""
    start_edge = run.system.start_edge
    if start_edge is None:
        raise BenchError("it kills an edge, which it does only to its own: leave --nats, --edge and --admin out")
    sockets = run.size.sockets(SOCKETS, quick=1000)
    rooms = [run.room("all"), run.room("own-{i}"), run.room("user-{i}-notifications")]
    with ExitStack() as stack:
        dies = stack.enter_context(start_edge())
        others = [stack.enter_context(start_edge()) for _ in range(OTHERS)]
        admins = [edge.admin for edge in others]
        workers = stack.enter_context(run.load(sockets, [dies.target]))
        hellos = [join_hello(room, number) for number, room in enumerate(rooms)]
        workers.open_all(sockets, hellos, within=WITHIN, told=lambda ready: run.tick(ready / sockets / 2))
        before = sample(admins)
        peaks = Peaks(admins)
        dies.kill()

        def told(ready: int) -> None:
            run.tick((1 + ready / sockets) / 2)
            peaks.look()

        back = workers.resume([edge.target for edge in others], within=WITHIN, told=told)
        after = sample(admins)
        members = run.with_bus(lambda bus: bus.count(rooms[0]))
    cpu = max(after.cpu - before.cpu, 1e-3)
    return [
        Figure("seconds", f"{sockets:,} sockets came back: until the last was greeted", back.seconds, "s"),
        Figure("resumes_per_cpu_second", "resumes per CPU-second of the edges", back.resumed / cpu, "1/s"),
        Figure("memory_peak_mib", "memory of one of the two edges, at most", peaks.memory / MIB, "MiB"),
        Figure("under_way_peak", "requests under way at one of them, at most", peaks.under_way, ""),
        Figure("again", "turned away at first", back.again, "times", shown=back.again > 0),
        Figure("not_back", "NOT BACK", back.lost, "sockets", shown=back.lost > 0),
        Figure(
            "new", "BACK WITHOUT THEIR SESSION", back.ready - back.resumed, "sockets", shown=back.ready > back.resumed
        ),
        Figure("not_in_room", "NOT IN THEIR ROOM", sockets - members, "sockets", shown=members != sockets),
    ]


class Peaks:
    """The highest figures that any of some edges shows while somebody looks."""

    def __init__(self, admins: list[str]) -> None:
        self._admins = admins
        self._next = 0.0
        self.memory = 0.0
        """Resident bytes."""
        self.under_way = 0.0

    def look(self) -> None:
        """Look, unless that was done just now."""
        if time.monotonic() < self._next:
            return
        for admin in self._admins:
            now = sample([admin])
            self.memory = max(self.memory, now.memory)
            self.under_way = max(self.under_way, now.total("roomcast_requests_under_way"))
        self._next = time.monotonic() + LOOK_SECONDS
