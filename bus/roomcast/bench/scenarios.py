"""All that the bench measures, in the order in which it is measured: memory first, while the edge is fresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roomcast.bench import asking, fanout, resuming, rooms
from roomcast.bench.run import Figure, Run


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load, and how its figures are made."""

    name: str
    text: str
    measure: Callable[[Run], list[Figure]]
    """Raises ``BenchError`` where something is not as it needs it."""
    own: bool = False
    """Whether it is for a system of the bench's own alone."""


SCENARIOS = (
    Scenario("memory", "sockets in one room of a fresh edge", rooms.memory),
    Scenario("limit", "os.write in a tight loop of Python on plain TCP sockets, 50 messages a second", fanout.limit),
    Scenario("fanout-1", "one room of all sockets, one cast at a time, 50 a second", fanout.fanout(1)),
    Scenario("fanout-10", "one room of all sockets, bursts of 10, 25 a second", fanout.fanout(10)),
    Scenario("fanout-50", "one room of all sockets, bursts of 50, 12 a second", fanout.fanout(50)),
    Scenario("slow", "one room, bursts of 10; then the same while one socket of 20 does not read", fanout.slow),
    Scenario("small-rooms", "each socket in a room of its own, casts to random ones", rooms.small_rooms),
    Scenario("connect", "a storm: all sockets connect at once, each joins three rooms of its own", rooms.connect),
    Scenario("resume", "an edge is killed, all its sockets come back at once to two others", resuming.resume, own=True),
    Scenario("requests", "clients ask a service that answers at once, 20 requests of each under way", asking.requests),
    Scenario("moves", "all members of a room join another, while casts go on", rooms.moves),
)
