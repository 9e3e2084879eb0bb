"""A deploy behind a real load balancer: all edges are replaced, one after another, and nobody loses anything but casts
that were sent while they were between two edges."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from dataclasses import dataclass, field

from roomcast import Bus, BusTimeout, BusUnavailable, OutcomeUnknown, RemoteError
from support.chaos import length, seeded
from support.crowd import Crowd, Member
from support.edges import EdgeProcess
from support.haproxy import HaProxy, need_haproxy
from support.nats_servers import Port
from support.until import until

CLIENTS = length(600, 3000)
EDGES = 3
DRAIN_DELAY = 0.6
"""Three times as long as the load balancer takes between two looks."""
DRAIN_TIME = length(2, 10)
CAST_EVERY = length(1, 5) * 0.05
WORKERS = 10
EVERYONE = "everyone"
ROOMS = [f"r{n}" for n in range(8)]


def pytest_runtest_setup() -> None:
    """What the machine lacks is said once."""
    need_haproxy()


@dataclass
class Kept:
    """A member, the rooms that it must be in, and those of which nobody knows."""

    member: Member
    rooms: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    busy: bool = False


class Traffic:
    """Casts to everyone, and joins and leaves of random members, for as long as it is entered."""

    def __init__(self, bus: Bus, kept: list[Kept], rng: random.Random) -> None:
        self._bus, self._kept, self._rng = bus, kept, rng
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []
        self.sent: list[float] = []
        self.acknowledged = 0
        self.refused: list[str] = []
        self.lag = 0.0
        """The longest time that this process has stood still: so much of what it saw came at once."""

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._cast())]
        self._tasks += [asyncio.create_task(self._change()) for _ in range(WORKERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _cast(self) -> None:
        while not self._over:
            self.sent.append(time.monotonic())
            await self._bus.broadcast(EVERYONE, "cast", len(self.sent) - 1)
            await asyncio.sleep(CAST_EVERY)
            self.lag = max(self.lag, time.monotonic() - self.sent[-1] - CAST_EVERY)

    async def _change(self) -> None:
        while not self._over:
            kept, room = self._rng.choice(self._kept), self._rng.choice(ROOMS)
            if kept.busy:
                continue
            kept.busy, joins = True, self._rng.random() < 0.6
            try:
                await (self._bus.join if joins else self._bus.leave)(kept.member.id, room, timeout=5)
            except (BusTimeout, BusUnavailable, RemoteError) as error:
                self.refused.append(f"{type(error).__name__}: {error}"[:120])
                if isinstance(error, OutcomeUnknown):
                    kept.unknown.add(room)
            else:
                self.acknowledged += 1
                (kept.rooms.add if joins else kept.rooms.discard)(room)
            kept.busy = False
            await asyncio.sleep(0.02)


def busiest_second(times: list[float]) -> int:
    """The greatest number of these moments within one second."""
    times, best, first = sorted(times), 0, 0
    for last, at in enumerate(times):
        while times[first] < at - 1.0:
            first += 1
        best = max(best, last - first + 1)
    return best


async def roll(old: EdgeProcess, new: EdgeProcess) -> float:
    """The new edge is up, then the old one is told to stop; returns how long that took it."""
    await new.start()
    began = time.monotonic()
    old.signal(signal.SIGTERM)
    assert old.process is not None, "started"
    assert await asyncio.wait_for(old.process.wait(), DRAIN_DELAY + DRAIN_TIME + 15) == 0, old.log
    return time.monotonic() - began


async def test_all_edges_are_replaced_and_nobody_notices(nats, prefix):
    rng = seeded()
    ports = [Port() for _ in range(2 * 2 * EDGES)]
    edges = []
    for i in range(2 * EDGES):
        edges.append(EdgeProcess(nats.urls, prefix, drain_delay=DRAIN_DELAY, drain_time=DRAIN_TIME))
        edges[i].port, edges[i].admin_port = ports[2 * i].number, ports[2 * i + 1].number
    try:
        await asyncio.gather(*[edge.start() for edge in edges[:EDGES]])
        with HaProxy([(edge.port, edge.admin_port) for edge in edges]) as front:
            async with Bus.connect(nats.url, prefix=prefix) as bus, Crowd(CLIENTS, front.port) as crowd:
                kept = [Kept(member) for member in crowd.members]
                for start in range(0, CLIENTS, 100):
                    await bus.join([each.member.id for each in kept[start : start + 100]], EVERYONE, timeout=15)
                ids = [member.id for member in crowd.members]
                greeted_before = max(member.greetings[0][0] for member in crowd.members)
                took = []
                async with Traffic(bus, kept, rng) as traffic:
                    await until(lambda: traffic.acknowledged > 50, 15, "changes are made")
                    for i in range(EDGES):
                        took.append(await roll(edges[i], edges[EDGES + i]))
                        await crowd.all_connected(20)
                    done = traffic.acknowledged
                    await until(lambda: traffic.acknowledged > done + 50, 15, "changes go on")
                last = len(traffic.sent) - 1
                try:
                    await until(lambda: all(last in member.heard for member in crowd.members), 30, "all hear the last")
                except AssertionError:
                    await check(bus, crowd, kept, ids)
                    deaf = [member for member in crowd.members if last not in member.heard]
                    raise AssertionError(
                        f"{len(deaf)} did not hear cast {last}: "
                        + str([(m.id, m.connected.is_set(), max(m.heard), len(m.greetings)) for m in deaf[:5]])
                    ) from None
                await check(bus, crowd, kept, ids)
                missed = check_casts(crowd, traffic)
                back = [at for member in crowd.members for at, _ in member.greetings[1:]]
                tried = [at for member in crowd.members for at in member.attempts if at > greeted_before]
                pace = max(100.0, CLIENTS / EDGES / DRAIN_TIME)
                peak = busiest_second(tried)
                closed = busiest_second([at for member in crowd.members for at, _ in member.ends])
                gaps = sorted(
                    greeted - end
                    for member in crowd.members
                    for (end, _), (greeted, _) in zip(member.ends, member.greetings[1:], strict=True)
                )
                print(
                    f"{CLIENTS} clients, {EDGES} edges replaced in {', '.join(f'{each:.1f}' for each in took)} s: "
                    f"{len(back)} resumes, at most {closed} closes and {peak} reconnects a second (pace {pace:.0f}), "
                    f"away {gaps[len(gaps) // 2]:.2f} s at the median, {gaps[-1]:.2f} s at most; "
                    f"{traffic.acknowledged} changes acknowledged, {len(traffic.refused)} refused "
                    f"{sorted(set(traffic.refused))[:3]}; {missed} of {len(traffic.sent) * CLIENTS} casts missed; "
                    f"{sum(member.refused for member in crowd.members)} handshakes sent away; "
                    f"this process stood still for {traffic.lag:.2f} s at most"
                )
                assert len(back) >= CLIENTS, "everybody has moved"
                assert peak <= pace * 1.3 * (1 + traffic.lag) + 20, "they come back at the pace, and jittered"
    finally:
        await asyncio.gather(*[edge.close() for edge in edges])
        for port in ports:
            port.release()


async def check(bus: Bus, crowd: Crowd, kept: list[Kept], ids: list[str]) -> None:
    """Every session was resumed, under its id; every acknowledged change is there, and nothing else."""
    assert [member.id for member in crowd.members] == ids
    assert all(resumed for member in crowd.members for _, resumed in member.greetings[1:])
    assert {code for member in crowd.members for _, code in member.ends} == {1012}
    wrong = []
    for start in range(0, len(kept), 100):
        batch = kept[start : start + 100]
        for each, rooms in zip(batch, await asyncio.gather(*[bus.rooms(k.member.id) for k in batch]), strict=True):
            if rooms - each.unknown != (each.rooms | {EVERYONE}) - each.unknown:
                wrong.append(f"{each.member.id}: is in {sorted(rooms)}, should be in {sorted(each.rooms)}")
    assert not wrong, wrong[:5]


def check_casts(crowd: Crowd, traffic: Traffic) -> int:
    """Nobody missed a cast but between two connections; returns how many were missed."""
    assert not [member.id for member in crowd.members if member.has_gap()]
    return sum(len(traffic.sent) - len(member.heard) for member in crowd.members)
