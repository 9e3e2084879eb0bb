"""Acknowledged means kept: what was answered before, while and after an edge is killed is there afterwards."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from roomcast import Bus, BusUnavailable, OutcomeUnknown, RemoteError, SocketNotFound
from support.chaos import Progress, length, seeded
from support.until import until
from support.websocket_client import Client

SOCKETS = 300
ROOMS = [f"r{n}" for n in range(12)]
WORKERS = 60
"""Changes under way at once."""
TIMEOUT = 1.5
REFUSED = (BusUnavailable, RemoteError, SocketNotFound)
"""Errors that say that nothing was done, unless they are ``OutcomeUnknown`` too."""


@dataclass(eq=False)
class Kept:
    """A client, the rooms that it must be in, and those of which nobody knows."""

    client: Client
    rooms: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    busy: bool = False


@dataclass
class Tally:
    """What came of the changes of a round."""

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    errors: set[str] = field(default_factory=set)


async def change_one(bus: Bus, kept: Kept, rng: random.Random, tally: Tally) -> None:
    """One random change of a socket that nobody else changes now, and what is known after it."""
    verb, room = rng.choice(["join", "leave"]), rng.choice(ROOMS)
    kept.busy = True
    try:
        await (bus.join if verb == "join" else bus.leave)(kept.client.id, room, timeout=TIMEOUT)
    except OutcomeUnknown:
        tally.unknown += 1
        kept.unknown.add(room)
    except REFUSED as error:
        tally.errors.add(f"{type(error).__name__}: {error}"[:90])
        tally.refused += 1
    else:
        tally.acknowledged += 1
        (kept.rooms.add if verb == "join" else kept.rooms.discard)(room)
    finally:
        kept.busy = False


async def change_until(bus: Bus, sockets: list[Kept], rng: random.Random, tally: Tally, over: asyncio.Event) -> None:
    """Random changes, one after another, until it is over."""
    while not over.is_set():
        idle = [kept for kept in rng.sample(sockets, 8) if not kept.busy]
        if idle:
            await change_one(bus, idle[0], rng, tally)
        else:
            await asyncio.sleep(0)


@pytest.mark.parametrize("number", range(length(3, 20)))
async def test_no_acknowledged_change_is_lost_when_its_edge_is_killed(nats, prefix, start_edge, number):
    rng = seeded(number)
    doomed, refuge = await start_edge(nats.urls), await start_edge(nats.urls)
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        sockets = [Kept(client) for client in await connect(doomed.url, SOCKETS)]
        tally, over = Tally(), asyncio.Event()
        await asyncio.gather(*[change_one(bus, kept, rng, tally) for kept in sockets])
        work = [asyncio.create_task(change_until(bus, sockets, rng, tally, over)) for _ in range(WORKERS)]
        before = tally.acknowledged
        await asyncio.sleep(rng.uniform(0.02, 0.6))  # the random moment
        await doomed.kill()
        during = tally.acknowledged - before
        work += [asyncio.create_task(change_until(bus, sockets, rng, tally, over)) for _ in range(WORKERS)]
        back = await asyncio.gather(*[Client.open(refuge.url, session=kept.client.session) for kept in sockets])
        away = tally.acknowledged - before - during
        later = tally.acknowledged + 200
        await until(lambda: tally.acknowledged > later, 15, "changes go on with the sockets that are back")
        over.set()
        await asyncio.gather(*work)
        assert tally.refused + tally.unknown + tally.acknowledged > SOCKETS, "changes were under way"
        assert during > 0, "changes were acknowledged before the kill"
        wrong = []
        for kept, client in zip(sockets, back, strict=True):
            assert (client.resumed, client.id) == (True, kept.client.id)
            rooms = await bus.rooms(client.id)
            missing, extra = kept.rooms - rooms - kept.unknown, rooms - kept.rooms - kept.unknown
            if missing or extra:
                wrong.append(f"{client.id}: missing {sorted(missing)}, never acknowledged {sorted(extra)}")
        assert not wrong, wrong
        await hear_what_they_are_in(bus, sockets, back)
        await asyncio.gather(*[client.close() for client in back])
    note = (
        f"{tally.acknowledged} acknowledged, {during} of them before the kill and {away} before all were back, "
        f"{tally.refused} refused, {tally.unknown} unknown {sorted(tally.errors)}"
    )
    print(note)
    Progress("acknowledged is kept, rounds", length(3, 20)).at(number + 1, note)


async def connect(url: str, count: int) -> list[Client]:
    """So many clients, fifty at a time."""
    clients: list[Client] = []
    while len(clients) < count:
        clients += await asyncio.gather(*[Client.open(url) for _ in range(min(50, count - len(clients)))])
    return clients


async def hear_what_they_are_in(bus: Bus, sockets: list[Kept], back: list[Client]) -> None:
    """What the clients hear agrees with what they were told."""
    for room in ROOMS:
        await bus.broadcast(room, "cast", room)
    await bus.blast("end", None)
    for kept, client in zip(sockets, back, strict=True):
        await client.hears_event("end", 15)
        heard = {data for event, data in client.events if event == "cast"}
        assert heard - kept.unknown == kept.rooms - kept.unknown, f"{client.id} hears its rooms"
