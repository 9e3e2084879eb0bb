"""The coordinator over a real bucket: what it says of a move that may be stored, and of edges that say nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from roomcast.names import Subjects
from roomcast_edge.answers import error_of
from roomcast_edge.calls import Calls
from roomcast_edge.coordinator import Coordinator
from roomcast_edge.kv import KvUnavailable, KvUnknown
from roomcast_edge.neighbours import Neighbours, State
from roomcast_edge.outbox import FanOut
from roomcast_edge.sessions import Sessions
from roomcast_edge.workshop import Workshop
from support.workbench import TTL, Workbench, workbench


@dataclass
class Stage:
    """A coordinator that has a lease, and the bench it stands on. No edge listens for what it asks."""

    bench: Workbench
    coordinator: Coordinator
    neighbours: Neighbours


@pytest.fixture
async def stage(nats, prefix) -> AsyncIterator[Stage]:
    async with workbench(nats.url, prefix) as bench:
        subjects, gate = Subjects(prefix), asyncio.Event()
        client, requests = bench.bucket._client, bench.bucket._requests
        sessions = Sessions(bench.edge, subjects, bench.bucket, requests, bench.membership, bench.metrics)
        workshop = Workshop(bench.edge, bench.membership, sessions, Calls(FanOut(bench.metrics), 1000), gate)
        neighbours = Neighbours(2.0, 60.0)
        await bench.bucket.put(f"edge.{bench.edge}", b"{}", expect=0, ttl=TTL)
        coordinator = Coordinator(bench.edge, subjects, client, requests, bench.bucket, workshop, neighbours)
        yield Stage(bench, coordinator, neighbours)


MOVE = {"id": "move-1", "from": "room", "join": ["more"], "timeout": 1.0}


@pytest.mark.parametrize("unheard", [True, False])
async def test_a_move_that_may_be_stored_is_unknown_and_one_that_was_refused_is_not(stage, monkeypatch, unheard):
    put, refusals = stage.bench.bucket.put, 0

    async def faulty(key: str, value: bytes, **options: object) -> int:
        nonlocal refusals
        refusals += 1
        if unheard and refusals == 1:
            await put(key, value, **options)
            raise KvUnknown("no acknowledgement")
        raise KvUnavailable("no leader")

    monkeypatch.setattr(stage.bench.bucket, "put", faulty)
    with pytest.raises(KvUnavailable) as error:
        await stage.coordinator.move(MOVE)
    assert refusals > 1, "it was tried again"
    assert error_of(error.value)[0] == ("timeout" if unheard else "unavailable")


async def test_a_move_that_is_stored_already_and_cannot_be_read_is_unknown(stage, monkeypatch):
    """The log has a move of this id; whether it is the same one, nobody can tell now."""
    await stage.coordinator.move(MOVE)

    async def no_leader(_: str) -> None:
        raise KvUnavailable("no leader")

    monkeypatch.setattr(stage.bench.bucket, "get", no_leader)
    with pytest.raises(KvUnknown):
        await stage.coordinator.move(MOVE)


async def test_no_responders_is_death_but_for_a_suspect(stage):
    """Both have a lease and nobody listens; one was found stalled before."""
    for edge in ("stalled0", "killed00"):
        await stage.bench.bucket.put(f"edge.{edge}", b"{}", expect=0, ttl=TTL)
        stage.neighbours.heard(edge, 0.0)
    assert set(stage.neighbours.silent(3.0)) == {"stalled0", "killed00"}
    stage.neighbours.judge("stalled0", State.SUSPECT)
    stage.neighbours.judge("killed00", State.DEAD)
    began = time.monotonic()
    answers = [
        await stage.coordinator.count({"room": "room"}),
        await stage.coordinator.members({"room": "room"}),
        await stage.coordinator.move(MOVE),
    ]
    assert [answer["missing"] for answer in answers] == [["stalled0"]] * 3
    assert time.monotonic() - began < 4.0, "nobody waits for who does not listen"
