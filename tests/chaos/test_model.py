"""A whole cluster against a naive model that predicts exactly what every client hears, and in which order."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from roomcast import Bus, SocketNotFound
from support.chaos import Progress, length, seeded
from support.edges import EdgeProcess
from support.until import until
from support.websocket_client import Client

pytestmark = pytest.mark.cluster

ROOMS = [f"room-{n}" for n in range(7)] + ["order.42", "ünï cödé"]
SOCKETS = 12
HISTORY = 25
KICKED, TOO_SLOW, NO_CODE = 4502, 1013, 1006
OUTBOX_LIMIT = 256 * 1024
LARGE = 16 * 1024
"""Bytes of a cast that is to fill what lies between an edge and a client that does not read."""


@dataclass(eq=False)
class Peer:
    """One socket as the model sees it, and the client that it belongs to."""

    client: Client
    edge: int
    rooms: set[str] = field(default_factory=set)
    is_here: bool = True
    is_stalled: bool = False
    """Its client reads nothing now: what it will hear is predicted all the same."""
    expected: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.client.id

    def is_in(self, room: str) -> bool:
        """A socket's id is a room too."""
        return room in self.rooms or room == self.id


class World:
    """Edges, a Bus, clients, and the naive model of them all. Each step does one thing to both, and compares."""

    def __init__(self, bus: Bus, edges: list[EdgeProcess], rng: random.Random) -> None:
        self.bus = bus
        self.edges = edges
        self.urls = [edge.url for edge in edges]
        self.edge_ids = [edge.id for edge in edges]
        self.rng = rng
        self.peers: list[Peer] = []
        self.gone: list[Client] = []
        self.sent = 0
        self.history: list[str] = []
        self._steps = [
            (20, self.cast),
            (5, self.burst),
            (5, self.blast),
            (14, self.join),
            (8, self.leave),
            (10, self.move),
            (3, self.empty),
            (6, self.drop),
            (9, self.come_back),
            (3, self.take_over),
            (2, self.kick),
            (2, self.kick_room),
            (2, self.quit),
            (2, self.come_back_from_the_dead),
            (6, self.compare),
            (2, self.stall),
            (1, self.stall_too_long),
        ]
        # What happens around a client that reads nothing: it cannot be asked to answer.
        self._steps_around = [self.cast, self.burst, self.blast, self.join, self.leave, self.move, self.compare]

    async def step(self) -> None:
        """One random step."""
        while len(self.peers) < SOCKETS:
            await self.arrive()
        _, work = self.rng.choices(self._steps, [weight for weight, _ in self._steps])[0]
        await work()

    def note(self, text: str) -> None:
        self.history = [*self.history[-HISTORY:], text]

    # -- what the model knows ------------------------------------------------------------------------------------------

    def here(self) -> list[Peer]:
        return [peer for peer in self.peers if peer.is_here]

    def members(self, room: str, *, connected: bool = False) -> list[Peer]:
        return [peer for peer in self.peers if peer.is_in(room) and (peer.is_here or not connected)]

    def name(self, peer: Peer) -> str:
        return f"#{self.peers.index(peer)}{'' if peer.is_here else ' (away)'}"

    def some_rooms(self, most: int) -> list[str]:
        return self.rng.sample(ROOMS, self.rng.randint(1, most))

    def some_target(self) -> str:
        """A room, or now and then a socket's own."""
        return self.rng.choice(self.peers).id if self.rng.random() < 0.15 else self.rng.choice(ROOMS)

    def predict(self, hearers: Iterable[Peer], event: str, data: Any) -> None:
        for peer in hearers:
            if peer.is_here:
                peer.expected.append((event, data))

    async def in_step(self) -> None:
        """All casts so far are heard, as predicted. Changes that go another way than casts come after this."""
        self.sent += 1
        await self.bus.blast("mark", self.sent)
        mark = ("mark", self.sent)
        self.predict(self.peers, *mark)
        for peer in [peer for peer in self.here() if not peer.is_stalled]:
            await peer.client.hears_that(
                lambda peer=peer: mark in peer.client.events, 15, f"{mark} by {self.name(peer)}"
            )
            assert peer.client.events == peer.expected, f"{self.name(peer)} heard what was not predicted"
            del peer.client.events[:], peer.expected[:]
        for edge in self.edge_ids:  # one on which nobody listens has the casts too: this question follows them
            assert await self.bus.get(f"{edge}.{'A' * 16}") is None

    # -- casts ---------------------------------------------------------------------------------------------------------

    async def cast(self) -> None:
        rooms = [*self.some_rooms(3), *([self.some_target()] if self.rng.random() < 0.3 else [])]
        omit = self.rng.choice(self.peers) if self.rng.random() < 0.3 else None
        without = self.some_rooms(2) if self.rng.random() < 0.3 else []
        self.sent += 1
        self.note(f"cast {self.sent} to {rooms} omit {omit and self.name(omit)} except {without}")
        await self.bus.broadcast(rooms, "cast", self.sent, omit and omit.id, except_rooms=without)
        hearers = [
            peer
            for peer in self.peers
            if any(peer.is_in(room) for room in rooms) and peer is not omit and not peer.rooms.intersection(without)
        ]
        self.predict(hearers, "cast", self.sent)

    async def blast(self) -> None:
        omit = self.rng.choice(self.peers) if self.rng.random() < 0.3 else None
        self.sent += 1
        self.note(f"blast {self.sent} omit {omit and self.name(omit)}")
        await self.bus.blast("blast", self.sent, omit and omit.id)
        self.predict([peer for peer in self.peers if peer is not omit], "blast", self.sent)

    async def burst(self) -> None:
        """Tens of casts in one write to NATS, to different rooms: an edge joins what it writes to a socket."""
        count = self.rng.randint(20, 60)
        self.note(f"a burst of {count}")
        for _ in range(count):
            await (self.blast if self.rng.random() < 0.1 else self.cast)()

    # -- slow readers --------------------------------------------------------------------------------------------------

    async def stall(self) -> None:
        """A client reads nothing for a while, and its edge keeps all for it: it loses nothing, in order."""
        peer = self.rng.choice(self.here())
        await self._fill(peer)
        for _ in range(self.rng.randint(1, 4)):
            await self.rng.choice(self._steps_around)()
        self.note(f"{self.name(peer)} reads again")
        peer.client.go_on()
        peer.is_stalled = False
        await self.in_step()

    async def stall_too_long(self) -> None:
        """More waits for a client than may: it has a part of it, in order, is closed, and comes back with its rooms."""
        peer = self.rng.choice(self.here())
        await self._fill(peer)
        closed = await self._closed_as_slow()
        for _ in range(2 * OUTBOX_LIMIT // LARGE):
            await self._large_cast(peer)

        async def given_up() -> bool:
            return await self.bus.get(peer.id) is None

        await until(given_up, 15, "its edge gives it up")
        assert await self._closed_as_slow() == closed + 1
        peer.client.go_on()
        peer.is_here = peer.is_stalled = False
        assert await peer.client.is_closed(10) in (TOO_SLOW, NO_CODE)
        heard = peer.client.events
        assert heard == peer.expected[: len(heard)], f"{self.name(peer)} heard a part of it, in order"
        assert len(heard) < len(peer.expected), "and not all"
        peer.expected.clear()
        self.note(f"{self.name(peer)} was too slow")
        if self.rng.random() < 0.5:
            await self._resume(peer)

    async def _fill(self, peer: Peer) -> None:
        """Let a client stop reading, and send until its edge has to keep something for it."""
        await self.in_step()
        self.note(f"{self.name(peer)} stalls")
        peer.client.stall()
        peer.is_stalled = True
        edge = self.edges[peer.edge]

        async def keeps() -> bool:
            for _ in range(OUTBOX_LIMIT // LARGE // 4):
                await self._large_cast(peer)
            assert await self.bus.get(peer.id) is not None, (
                "answered behind the casts: the edge has them, and the socket"
            )
            return await edge.metric("roomcast_outbox_bytes") > 0

        await until(keeps, 20, "the edge keeps what its client does not take")

    async def _large_cast(self, peer: Peer) -> None:
        self.sent += 1
        data = [self.sent, "x" * LARGE]
        await self.bus.broadcast(peer.id, "cast", data)
        self.predict([peer], "cast", data)

    async def _closed_as_slow(self) -> float:
        return sum([await edge.metric("roomcast_slow_sockets_closed_total") for edge in self.edges])

    # -- changes -------------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        await self._change("join")

    async def leave(self) -> None:
        await self._change("leave")

    async def _change(self, verb: str) -> None:
        peers = self.rng.sample(self.peers, self.rng.choice([1, 1, 1, 4]))
        rooms = self.some_rooms(3)
        if any(not peer.id.startswith(self.edge_name(peer)) or not peer.is_here for peer in peers):
            await self.in_step()  # it goes by another edge: the casts before it may come later than it
        self.note(f"{verb} {[self.name(peer) for peer in peers]} {rooms}")
        call = self.bus.join if verb == "join" else self.bus.leave
        results = await call([peer.id for peer in peers], rooms, timeout=15)
        for peer, result in zip(peers, results, strict=True):
            assert result.error is None, f"{verb} of {self.name(peer)}: {result.error!r}"
            before = set(peer.rooms)
            peer.rooms = before | set(rooms) if verb == "join" else before - set(rooms)
            assert result.changed == (peer.rooms != before), f"{verb} of {self.name(peer)} tells whether it changed"

    def edge_name(self, peer: Peer) -> str:
        return self.edge_ids[peer.edge] + "."

    async def move(self) -> None:
        source = self.some_target()
        join = self.some_rooms(2) if self.rng.random() < 0.7 else []
        leave = [room for room in self.some_rooms(2) if room not in join]
        if not join and not leave:
            return
        await self.in_step()
        self.note(f"move {source} join {join} leave {leave}")
        result = await self.bus.move(source, join=join, leave=leave, timeout=15)
        self._moved(result, source, set(join), set(leave))

    async def empty(self) -> None:
        room, everywhere = self.rng.choice(ROOMS), self.rng.random() < 0.3
        await self.in_step()
        self.note(f"leave_all {room} everywhere={everywhere}")
        result = await self.bus.leave_all(room, everywhere=everywhere, timeout=15)
        self._moved(result, room, set(), set(ROOMS) if everywhere else {room})

    def _moved(self, result: Any, source: str, join: set[str], leave: set[str]) -> None:
        matched = self.members(source)
        changed = 0
        for peer in matched:
            before = set(peer.rooms)
            peer.rooms = (before - leave) | join
            changed += peer.is_here and peer.rooms != before
        connected = sum(peer.is_here for peer in matched)
        assert (result.matched, result.changed) == (connected, changed), "the result counts the connected members"
        assert set(result.edges) == set(self.edge_ids), "every edge has answered"

    # -- coming and going ----------------------------------------------------------------------------------------------

    async def arrive(self) -> None:
        await self.in_step()
        edge = self.rng.randrange(len(self.urls))
        self.note(f"arrive on edge {edge}")
        self.peers.append(Peer(await Client.open(self.urls[edge]), edge))

    async def drop(self) -> None:
        peer = self.rng.choice(self.peers)
        if not peer.is_here or len(self.here()) < 4:
            return
        await self.in_step()
        self.note(f"drop {self.name(peer)}")
        peer.client.drop()

        async def noticed() -> bool:
            return await self.bus.get(peer.id) is None

        await until(noticed, 10, "the edge notices")
        peer.is_here = False

    async def come_back(self) -> None:
        away = [peer for peer in self.peers if not peer.is_here]
        if away:
            await self._resume(self.rng.choice(away))

    async def take_over(self) -> None:
        """Resume while the old connection stands."""
        peer = self.rng.choice(self.here())
        await self.in_step()
        old = peer.client
        await self._resume(peer)
        assert await old.is_closed(10) == 4503

    async def _resume(self, peer: Peer) -> None:
        await self.in_step()
        edge = self.rng.randrange(len(self.urls))
        self.note(f"resume {self.name(peer)} on edge {edge}")
        back = await Client.open(self.urls[edge], session=peer.client.session)
        assert (back.resumed, back.id) == (True, peer.id), "it is the same socket"
        peer.client, peer.edge, peer.is_here = back, edge, True
        # The greeting does not pass the NATS node of this Bus. An answer of the edge does: behind its interest.
        assert await self.bus.get(peer.id) is not None

    async def kick(self) -> None:
        peer = self.rng.choice(self.peers)
        await self.in_step()
        self.note(f"disconnect {self.name(peer)}")
        await self.bus.disconnect(peer.id, timeout=15)
        await self._ended([peer], KICKED)

    async def kick_room(self) -> None:
        room = self.rng.choice(ROOMS)
        members = self.members(room)
        if len(members) > 4:
            return
        await self.in_step()
        self.note(f"disconnect {room}: {[self.name(peer) for peer in members]}")
        await self.bus.disconnect(room, timeout=15)
        await self._ended(members, KICKED)

    async def quit(self) -> None:
        peer = self.rng.choice(self.here())
        await self.in_step()
        self.note(f"{self.name(peer)} leaves")
        await peer.client.close(1000)
        await self._ended([peer], 1000)

    async def _ended(self, peers: list[Peer], code: int) -> None:
        for peer in peers:
            if peer.is_here:
                assert await peer.client.is_closed(10) == code
                assert peer.client.events == peer.expected == [], "nothing was heard since the last mark"
            self.peers.remove(peer)
            self.gone.append(peer.client)

            async def gone(peer: Peer = peer) -> bool:
                try:
                    await self.bus.rooms(peer.id)
                except SocketNotFound:
                    return True
                return False

            await until(gone, 10, "nothing is known of it any more")

    async def come_back_from_the_dead(self) -> None:
        if not self.gone or len(self.peers) >= SOCKETS + 2:
            return
        await self.in_step()
        client = self.rng.choice(self.gone)
        edge = self.rng.randrange(len(self.urls))
        self.note(f"a client that is gone comes to edge {edge}")
        back = await Client.open(self.urls[edge], session=client.session)
        assert (back.resumed, back.id == client.id) == (False, False)
        self.peers.append(Peer(back, edge))

    # -- asking --------------------------------------------------------------------------------------------------------

    async def compare(self) -> None:
        room, peer = self.some_target(), self.rng.choice(self.peers)
        expected = {peer.id: frozenset(peer.rooms) for peer in self.members(room, connected=True)}
        assert await self.bus.count(room) == len(expected)
        assert {socket.id: socket.rooms async for socket in self.bus.members(room)} == expected
        assert await self.bus.rooms(peer.id) == peer.rooms
        found = await self.bus.get(peer.id)
        assert (found is not None) == peer.is_here

    async def end(self) -> None:
        """Compare all that there is, and close."""
        for room in ROOMS:
            assert await self.bus.count(room) == len(self.members(room, connected=True))
        for peer in self.peers:
            assert await self.bus.rooms(peer.id) == peer.rooms, f"the rooms of {self.name(peer)}"
        await self.in_step()
        for peer in self.peers:
            await peer.client.close()


@pytest.mark.parametrize("number", range(length(3, 20)))
async def test_every_client_hears_exactly_what_the_model_predicts(cluster, prefix, start_edge, number):
    rng = seeded(number)
    edges = []
    for n in range(2 + number % 2):
        urls = cluster.urls[n:] + cluster.urls[:n]
        edges.append(await start_edge(urls, kv_replicas=3, outbox_limit=OUTBOX_LIMIT))
    steps = length(200, 600)
    progress = Progress(f"model, run {number}", steps)
    async with Bus.connect(cluster.urls[2], prefix=prefix) as bus:
        world = World(bus, edges, rng)
        try:
            for n in range(steps):
                await world.step()
                progress.at(n + 1)
            await world.end()
        except BaseException:
            print("the last steps:", *world.history, sep="\n  ")
            for edge in edges:
                print(f"--- edge {edge.id}", edge.log[-2000:], sep="\n")
            raise
        finally:
            for peer in world.peers:
                peer.client.drop()
