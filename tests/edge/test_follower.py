"""The log of moves on one edge: each interleaving of a slow move with what else happens to its members."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from roomcast.membership import Change
from roomcast.names import Subjects
from roomcast_edge import follower as follower_module
from roomcast_edge.answers import Refused
from roomcast_edge.calls import Calls
from roomcast_edge.closing import CloseCode
from roomcast_edge.coordinator import Coordinator
from roomcast_edge.keeper import Elsewhere
from roomcast_edge.neighbours import Neighbours
from roomcast_edge.outbox import FanOut
from roomcast_edge.records import Record
from roomcast_edge.session_state import Event
from roomcast_edge.sessions import Sessions
from roomcast_edge.socket import EdgeSocket
from roomcast_edge.workshop import Workshop
from support.workbench import TTL, Workbench, workbench

MEMBERS = 40


@pytest.fixture
async def bench(nats, prefix, monkeypatch):
    """A workbench on which a move yields after each of its members."""
    monkeypatch.setattr(follower_module, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(follower_module, "SLICE_CHECK", 1)
    async with workbench(nats.url, prefix) as bench:
        yield bench


async def crowd(bench: Workbench, *rooms: str) -> list[EdgeSocket]:
    """Sockets in these rooms."""
    return list(await asyncio.gather(*[bench.socket(*rooms) for _ in range(MEMBERS)]))


async def in_the_middle(bench: Workbench, sockets: list[EdgeSocket]) -> tuple[asyncio.Task[None], list[EdgeSocket]]:
    """A move has reached some of these sockets; the task that goes on with it, and those that it has not reached."""
    before = [set(socket.rooms) for socket in sockets]

    def untouched() -> list[EdgeSocket]:
        return [
            socket
            for socket, rooms in zip(sockets, before, strict=True)
            if socket.rooms == rooms and socket.id not in bench.ended
        ]

    task = await bench.half_way(lambda: 5 < len(untouched()) < MEMBERS - 5)
    return task, untouched()


# -- a slow move and a single change -------------------------------------------------------------------------------


async def test_a_socket_that_a_slow_move_has_not_reached_is_moved_before_a_single_change(bench):
    sockets = await crowd(bench, "a")
    sequence = await bench.move("a", join=("b",), leave=("a",))
    task, waiting = await in_the_middle(bench, sockets)
    leaver, joiner = waiting[:2]
    assert bench.follower.applied(leaver) < sequence
    _, left = bench.membership.change(leaver, Change(leave=("b",)))
    _, joined = bench.membership.change(joiner, Change(join=("a",)))
    assert bench.follower.applied(leaver) == bench.follower.applied(joiner) == sequence
    assert bench.follower.applied(waiting[2]) < sequence, "the others wait for their turn"
    await asyncio.gather(task, left, joined)
    assert (leaver.rooms, joiner.rooms) == (set(), {"a", "b"}), "the move came first, the change after it"
    assert [await bench.resumable(socket) for socket in (leaver, joiner)] == [set(), {"a", "b"}]
    assert await bench.follower.reached(sequence) == (MEMBERS, MEMBERS), "each counts once"


async def test_a_record_written_in_the_middle_of_a_move_says_what_it_includes(bench):
    """Its watermark is its own, not the edge's: half of a large move is done for a while."""
    sockets = await crowd(bench, "a")
    sequence = await bench.move("a", join=("b",))
    task, waiting = await in_the_middle(bench, sockets)
    waiter = waiting[0]
    await bench.keeper.save(waiter)  # a refresh, just now
    await task
    record = await bench.record(waiter)
    assert (record.applied < sequence) == ("b" not in record.rooms), "what it includes is what it says"
    assert await bench.resumable(waiter) == {"a", "b"}


async def test_a_socket_that_joins_the_source_after_the_move_is_not_moved(bench):
    sockets = await crowd(bench, "a")
    late = await bench.socket("c")
    await bench.move("a", join=("b",))
    task, _ = await in_the_middle(bench, sockets)
    _, saved = bench.membership.change(late, Change(join=("a",)))
    await asyncio.gather(task, saved)
    assert late.rooms == {"a", "c"}, "the move is about those who were in the room when it was applied"
    assert await bench.resumable(late) == {"a", "c"}


# -- a slow move and coming and going ------------------------------------------------------------------------------


async def test_a_socket_that_is_inserted_in_the_middle_of_a_move_is_moved_once(bench):
    sockets = await crowd(bench, "a")
    record = Record(None, {"a"}, bench.follower.head, "hash")
    await bench.move("a", join=("b",), leave=("a",))
    await bench.move("b", join=("c",))
    task, _ = await in_the_middle(bench, sockets)
    back = bench.make()
    await bench.follower.bring_up_to_date(back.id, record)
    bench.membership.insert(back, record.rooms)
    assert bench.follower.applied(back) == bench.follower.head
    await task
    assert back.rooms == {"b", "c"}
    assert bench.members("a") == set()


async def test_a_socket_that_leaves_in_the_middle_of_a_move_takes_the_move_along(bench):
    sockets = await crowd(bench, "a")
    await bench.move("a", join=("b",), leave=("a",))
    task, waiting = await in_the_middle(bench, sockets)
    saved = bench.membership.remove(waiting[0], Event.LOST)
    await asyncio.gather(task, saved)
    assert await bench.resumable(waiting[0]) == {"b"}
    assert waiting[0].id not in bench.members("b")


async def test_a_client_that_vanishes_in_the_middle_of_a_disconnect_may_not_come_back(bench):
    sockets = await crowd(bench, "a")
    await bench.move("a", disconnect="out")
    task, waiting = await in_the_middle(bench, sockets)
    bench.ended[waiting[0].id] = CloseCode.GOING_AWAY  # its connection is over: there is nothing left to close
    bench.membership.remove(waiting[0], Event.LOST)
    await task
    await bench.keeper.settled()
    assert bench.index.sockets == {}
    assert [await bench.resumable(socket) for socket in sockets] == [None] * MEMBERS


async def test_a_single_change_to_a_socket_that_the_move_disconnects_finds_nobody(bench):
    sockets = await crowd(bench, "a")
    await bench.move("a", disconnect="out")
    task, waiting = await in_the_middle(bench, sockets)
    with pytest.raises(Elsewhere):
        bench.membership.change(waiting[0], Change(join=("b",)))
    await task
    assert bench.members("b") == set(), "no ghost is left in a room"
    assert len(bench.interest) == 0, "nor is a room heard for one"


async def test_a_note_of_a_takeover_ends_the_socket_here_and_nowhere_else(bench):
    taken, kept, back = [await bench.socket("a") for _ in range(3)]
    await bench.move(taken.id, owner="another1", taken=taken.revision + 1)
    await bench.move(kept.id, owner=bench.edge, taken=kept.revision)
    await bench.move(back.id, owner="another1", taken=back.revision - 1)  # and taken back since
    await bench.follower.read_to_end()
    assert bench.ended == {taken.id: CloseCode.REPLACED}
    assert bench.members("a") == {kept.id, back.id}
    assert (await bench.record(taken)).owner == bench.edge, "its record is the other edge's to write"


async def test_an_edge_that_lags_behind_a_record_does_not_apply_its_moves_again(nats, prefix):
    async with workbench(nats.url, prefix) as ahead, workbench(nats.url, prefix) as behind:
        socket = await ahead.socket("a")
        await ahead.move("a", join=("b",), leave=("a",))
        await ahead.follower.read_to_end()
        _, saved = ahead.membership.change(socket, Change(join=("a",)))
        await saved
        record = await ahead.record(socket)
        assert record.rooms == {"a", "b"}
        await behind.follower.bring_up_to_date(socket.id, record)  # it takes the socket up
        again = behind.make(socket.id)
        behind.membership.insert(again, record.rooms)
        await behind.follower.read_to_end()
        assert again.rooms == {"a", "b"}, "the join came after the move, and was acknowledged"


# -- reading -------------------------------------------------------------------------------------------------------


async def test_several_readers_apply_each_move_once_and_in_order(bench):
    """After a reconnect the link reads beside the follower itself."""
    sockets = await crowd(bench, "r0")
    sequences = [await bench.move(f"r{n}", join=(f"r{n + 1}",), leave=(f"r{n}",)) for n in range(10)]
    await asyncio.gather(*[bench.follower.read_to_end() for _ in range(4)])
    assert {frozenset(socket.rooms) for socket in sockets} == {frozenset({"r10"})}
    assert [await bench.follower.reached(sequence) for sequence in sequences] == [(MEMBERS, MEMBERS)] * 10
    assert bench.follower.done == bench.follower.head == sequences[-1]


async def test_a_move_whose_reader_was_cancelled_is_finished_by_the_next(bench):
    """The connection breaks again while the link catches up."""
    sockets = await crowd(bench, "a")
    sequence = await bench.move("a", join=("b",), leave=("a",))
    task, waiting = await in_the_middle(bench, sockets)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert waiting[0].rooms == {"a"}, "it was cancelled in the middle"
    assert bench.follower.done < sequence
    await bench.move("b", join=("c",))
    await bench.follower.read_to_end()
    assert {frozenset(socket.rooms) for socket in sockets} == {frozenset({"b", "c"})}
    assert await bench.follower.reached(sequence) == (MEMBERS, MEMBERS)


async def test_who_waits_for_a_move_is_told_when_all_of_it_is_applied(bench):
    sockets = await crowd(bench, "a")
    sequence = await bench.move("a", join=("b",))
    told = asyncio.create_task(bench.follower.reached(sequence))
    task, _ = await in_the_middle(bench, sockets)
    assert not told.done(), "half of it is not all"
    await task
    assert await told == (MEMBERS, MEMBERS)
    again = await bench.move("a", join=("b",))
    await bench.follower.read_to_end()
    assert await bench.follower.reached(again) == (MEMBERS, 0), "nothing changed"
    assert await bench.follower.reached(1) == (0, 0), "what is long past"


async def test_a_record_older_than_the_log_that_was_read_is_brought_up_to_date(bench):
    """An edge that started later than the moves reads them when it needs them."""
    record = Record(None, {"a"}, bench.follower.head, "hash")
    for n in range(300):
        await bench.move("elsewhere", join=(f"x{n}",))
    await bench.move("a", join=("b",), leave=("a",))
    last = await bench.move("b", join=("c",))
    bench.follower.start_at(last)
    await bench.follower.bring_up_to_date("e0000000.x", record)
    assert (record.rooms, record.applied) == ({"b", "c"}, last)


async def test_a_move_that_has_ended_is_skipped(bench):
    socket = await bench.socket("a")
    await bench.move("a", join=("b",))
    _, keys = await bench.bucket.state("move.>")
    ended = await bench.bucket.purge(keys[0], expect=(await bench.bucket.get(keys[0])).revision)
    last = await bench.move("a", join=("c",))
    await bench.follower.read_to_end()
    assert socket.rooms == {"a", "c"}
    assert ended < last == bench.follower.done


async def test_a_change_for_a_socket_that_is_away_waits_until_its_edge_is_in_step(bench, prefix):
    """This edge was cut off while another one made an acknowledged leave: a join is not "there already"."""
    subjects, gate = Subjects(prefix), asyncio.Event()
    client, requests = bench.bucket._client, bench.bucket._requests
    sessions = Sessions(bench.edge, subjects, bench.bucket, requests, bench.membership, bench.metrics)
    workshop = Workshop(bench.edge, bench.membership, sessions, Calls(FanOut(bench.metrics), 1000), gate)
    coordinator = Coordinator(bench.edge, subjects, client, requests, bench.bucket, workshop, Neighbours(2.0, 60.0))
    await bench.bucket.put(f"edge.{bench.edge}", b"{}", expect=0, ttl=TTL)
    socket = await bench.socket("a")
    await bench.membership.remove(socket, Event.LOST)
    await bench.move(socket.id, leave=("a",))
    join = asyncio.create_task(coordinator.change({"id": socket.id, "join": ["a"]}, ""))
    with pytest.raises(Refused, match="nothing was done"):
        await coordinator.change({"id": socket.id, "join": ["a"], "timeout": 0.2}, "")
    assert not join.done()
    await bench.follower.read_to_end()
    gate.set()
    assert (await join)["changed"] is True
    assert await bench.resumable(socket) == {"a"}


@pytest.mark.parametrize(
    "value",
    [b'{"v":2,"from":"a","join":["b"]}', b'{"from":"a"}', b"{", b"[]", b'{"v":1}', b'{"v":1,"from":"a","join":7}'],
)
async def test_a_move_that_cannot_be_read_is_refused_and_the_log_goes_on(bench, value, caplog):
    socket = await bench.socket("a")
    strange = await bench.bucket.put("move.strange", value, expect=0, ttl=TTL)
    waiting = asyncio.create_task(bench.follower.reached(strange))
    await bench.follower.read_to_end()
    with pytest.raises(ValueError, match="cannot read the move"):
        await waiting  # the caller of the move is told that this edge has not carried it out
    await bench.move("a", join=("c",))
    await bench.follower.read_to_end()
    assert socket.rooms == {"a", "c"}
    assert bench.metrics.invalid["move"] == 1
    assert "a move in the log is not applied" in caplog.text


async def test_a_field_of_a_later_minor_version_does_not_stop_a_move(bench):
    socket = await bench.socket("a")
    value = orjson.dumps({"v": 1, "from": "a", "join": ["b"], "colour": "blue"})
    await bench.bucket.put("move.later", value, expect=0, ttl=TTL)
    await bench.follower.read_to_end()
    assert socket.rooms == {"a", "b"}
