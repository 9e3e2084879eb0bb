"""Records: each write a compare-and-set, one under way per socket; refused changes undone, takeovers respected."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest

from roomcast.errors import ConnectionLost
from roomcast.membership import Change
from roomcast.requests import NoResponders
from roomcast_edge import keeper as keeper_module
from roomcast_edge.closing import CloseCode
from roomcast_edge.keeper import Elsewhere
from roomcast_edge.kv import KvUnavailable
from roomcast_edge.records import Record
from roomcast_edge.session_state import Event
from roomcast_edge.socket import EdgeSocket
from support.until import until
from support.workbench import TTL, Workbench, workbench


@pytest.fixture
async def bench(nats, prefix, monkeypatch):
    """A workbench whose changes wait only a moment for a bucket that refuses."""
    monkeypatch.setattr(keeper_module, "SAVE_PATIENCE", 0.3)
    async with workbench(nats.url, prefix) as bench:
        yield bench


def join(bench: Workbench, socket: EdgeSocket, *rooms: str) -> asyncio.Future[None]:
    """A single change; done when the record has it."""
    _, saved = bench.membership.change(socket, Change(join=rooms))
    assert saved is not None, "there is something to write"
    return saved


def leave(bench: Workbench, socket: EdgeSocket, *rooms: str) -> asyncio.Future[None]:
    """As :func:`join`."""
    _, saved = bench.membership.change(socket, Change(leave=rooms))
    assert saved is not None, "there is something to write"
    return saved


async def outcomes(*futures: asyncio.Future[None]) -> list[type | None]:
    """The kinds of errors with which changes ended; None for those that are acknowledged."""
    results = await asyncio.gather(*futures, return_exceptions=True)
    return [type(result) if isinstance(result, BaseException) else None for result in results]


async def overwrite(bench: Workbench, socket: EdgeSocket, **fields: object) -> None:
    """Write the record as another edge would."""
    entry = await bench.bucket.get(f"socket.{socket.id}")
    body = {**orjson.loads(entry.value), **fields}
    await bench.bucket.put(f"socket.{socket.id}", orjson.dumps(body), expect=None, ttl=TTL)


# -- writing -------------------------------------------------------------------------------------------------------


async def test_a_change_is_acknowledged_when_the_record_has_it(bench):
    socket = await bench.socket("a")
    await join(bench, socket, "b", "c")
    await leave(bench, socket, "a")
    record = await bench.record(socket)
    assert (record.rooms, record.owner) == ({"b", "c"}, bench.edge)
    assert socket.revision == (await bench.bucket.get(f"socket.{socket.id}")).revision


async def test_a_record_outlives_its_time_to_live_as_long_as_its_socket_is_here(bench, monkeypatch):
    monkeypatch.setattr(keeper_module, "RECORD_TTL", 2.0)
    monkeypatch.setattr(keeper_module, "REFRESH_SECONDS", 0.1)
    socket = await bench.socket()
    await join(bench, socket, "room")
    keeping = asyncio.create_task(bench.keeper.run())
    began, first = time.monotonic(), socket.revision
    await until(lambda: socket.revision >= first + 3, what="the record is refreshed three times")
    assert 3 <= time.monotonic() - began < 6, "each time when half of its time was over"
    assert (await bench.record(socket)).rooms == {"room"}
    keeping.cancel()


async def test_the_records_of_a_storm_are_refreshed_at_a_pace_the_oldest_first(bench, monkeypatch):
    monkeypatch.setattr(keeper_module, "RECORD_TTL", 400.0)  # so within 100 seconds, a look each
    sockets = [await bench.socket() for _ in range(2_500)]
    await asyncio.gather(*[bench.keeper.save(socket) for socket in sockets])
    oldest_first = sorted(sockets, key=lambda socket: socket.revision)
    assert not bench.keeper._old(time.monotonic() + 190.0), "half of their time is not over"
    later = time.monotonic() + 201.0
    pace = keeper_module.REFRESH_AT_LEAST + len(sockets) // 100
    for look in range(5):
        due = bench.keeper._old(later)
        assert set(due) == set(oldest_first[look * pace : (look + 1) * pace])
        await asyncio.gather(*[bench.keeper.save(socket) for socket in due])


async def test_changes_while_a_write_is_under_way_share_the_next_one(bench):
    socket = await bench.socket()
    del bench.bucket.puts[:]
    bench.bucket.free.clear()
    first = join(bench, socket, "r0")
    await until(lambda: bench.bucket.puts, what="the first write is under way")
    more = [join(bench, socket, f"r{n}") for n in range(1, 20)]
    more.append(leave(bench, socket, "r5"))
    bench.bucket.free.set()
    await asyncio.gather(first, *more)
    assert len(bench.bucket.puts) == 2, "the first, and one for all that came meanwhile"
    assert (await bench.record(socket)).rooms == {f"r{n}" for n in range(20)} - {"r5"}


async def test_many_sockets_write_at_once(bench):
    sockets = await asyncio.gather(*[bench.socket() for _ in range(300)])
    await asyncio.gather(*[join(bench, socket, "a", f"own-{n}") for n, socket in enumerate(sockets)])
    records = await asyncio.gather(*[bench.record(socket) for socket in sockets])
    assert [record.rooms for record in records] == [{"a", f"own-{n}"} for n in range(300)]


async def test_a_write_whose_acknowledgement_was_lost_is_recognised(bench):
    socket = await bench.socket("a")
    bench.bucket.silent = 1
    await asyncio.gather(join(bench, socket, "b"))
    await leave(bench, socket, "a")
    assert (await bench.record(socket)).rooms == {"b"}
    assert socket.id not in bench.ended


async def test_changes_made_after_a_lost_acknowledgement_and_moves_between_stay(bench):
    """What is in memory is newer than what an unheard write of our own has left in the bucket."""
    socket = await bench.socket()
    bench.bucket.silent = 1
    first = join(bench, socket, "a")
    await until(lambda: not bench.bucket.silent, what="it is stored without a word")
    second = join(bench, socket, "source")
    await bench.move("source", join=("target",))
    await bench.follower.read_to_end()
    await asyncio.gather(first, second)
    assert socket.rooms == {"a", "source", "target"}, "the move met a member whose change was still unsaved"
    assert await bench.resumable(socket) == {"a", "source", "target"}


# -- what the bucket refuses ---------------------------------------------------------------------------------------


async def test_a_refused_change_is_undone(bench):
    socket = await bench.socket("a", "b")
    bench.bucket.refusing = True
    assert await outcomes(join(bench, socket, "c"), leave(bench, socket, "a")) == [KvUnavailable, KvUnavailable]
    assert socket.rooms == {"a", "b"}
    assert bench.members("c") == set()
    bench.bucket.refusing = False
    await join(bench, socket, "d")
    assert (await bench.record(socket)).rooms == {"a", "b", "d"}, "and does not appear later"


async def test_changes_that_come_while_one_is_being_refused_share_its_fate(bench):
    socket = await bench.socket("a")
    bench.bucket.refusing = True
    first = join(bench, socket, "b")
    later: list[asyncio.Future[None]] = []

    async def meanwhile() -> None:
        n = 0
        while not first.done():
            later.append(join(bench, socket, f"r{n}"))
            changed, saved = bench.membership.change(socket, Change(join=("b",)))
            if saved is not None:
                assert not changed, "it is there already"
                later.append(saved)
            n += 1
            await asyncio.sleep(0.01)

    await meanwhile()
    bench.bucket.refusing = False
    told = await outcomes(first, *later)
    await bench.keeper.settled()
    assert told[0] is KvUnavailable
    rooms = (await bench.record(socket)).rooms
    assert rooms == socket.rooms, "memory and record agree"
    assert set(told[:-2]) == {KvUnavailable}, "nobody is told that it is done when it was undone"
    assert "b" not in rooms or told[-1] is None


async def test_a_change_of_which_nobody_knows_is_told_so_and_written_later(bench):
    socket = await bench.socket("a")
    bench.bucket.silent = 1
    bench.bucket.refusing = False
    saved = join(bench, socket, "b")
    await until(lambda: not bench.bucket.silent, what="it is stored without a word")
    bench.bucket.refusing = True
    assert await outcomes(saved) == [TimeoutError]
    assert socket.rooms == {"a", "b"}, "it may have been stored, so it stays"
    assert bench.keeper.lagging == 1, "and is written again"
    bench.bucket.refusing = False
    await bench.keeper.save(socket)
    assert (await bench.record(socket)).rooms == {"a", "b"}


async def test_a_first_write_that_is_never_answered_may_be_stored(bench, monkeypatch):
    """The way without a task: what its future raises says whether the change may be undone."""
    for lost, told in ((ConnectionLost("cut"), TimeoutError), (NoResponders(), KvUnavailable)):
        socket = await bench.socket("a")
        unanswered = asyncio.get_running_loop().create_future()
        unanswered.set_exception(lost)
        with monkeypatch.context() as patch:
            patch.setattr(bench.bucket, "put_soon", lambda *_, to=unanswered, **__: to)
            saved = join(bench, socket, "b")
            await asyncio.sleep(0)
            bench.bucket.refusing = True
            assert await outcomes(saved) == [told]
        assert ("b" in socket.rooms) == (told is TimeoutError)
        bench.bucket.refusing = False
        await bench.keeper.save(socket)


async def test_the_end_of_a_connection_is_written_though_a_change_before_it_is_refused(bench):
    socket = await bench.socket("a")
    bench.bucket.refusing = True
    change = join(bench, socket, "b")
    away = bench.membership.remove(socket, Event.LOST)
    await until(lambda: len(bench.bucket.puts) > 10, what="it was tried for longer than a change waits")
    bench.bucket.refusing = False
    assert await outcomes(change, away) == [None, None], "who waited that long is told the truth"
    record = await bench.record(socket)
    assert (record.owner, record.rooms) == (None, {"a", "b"})


# -- other edges ---------------------------------------------------------------------------------------------------


async def test_a_socket_that_another_edge_has_taken_up_is_closed_here(bench):
    socket = await bench.socket("a")
    await overwrite(bench, socket, owner="another1", rooms=["theirs"])
    assert await outcomes(join(bench, socket, "b")) == [Elsewhere]
    assert bench.ended == {socket.id: CloseCode.REPLACED}
    await bench.keeper.settled()
    record = await bench.record(socket)
    assert (record.owner, record.rooms) == ("another1", {"theirs"}), "a takeover is not erased"


async def test_a_socket_that_was_taken_up_and_left_elsewhere_has_the_rooms_of_there(bench):
    """A cut-off edge comes back to a socket whose client has been on another edge and is away again."""
    socket = await bench.socket("a")
    await overwrite(bench, socket, owner=None, rooms=["theirs"])
    await join(bench, socket, "b")
    assert socket.rooms == {"theirs", "b"}
    assert bench.members("a") == set()
    assert (await bench.record(socket)).owner == bench.edge


async def test_a_socket_whose_record_has_expired_is_sent_away(bench):
    socket = await bench.socket("a")
    await bench.bucket.purge(f"socket.{socket.id}", expect=socket.revision)
    assert await outcomes(join(bench, socket, "b")) == [Elsewhere]
    assert bench.ended == {socket.id: CloseCode.LOST_PLACE}
    await bench.keeper.settled()
    assert await bench.record(socket) is None


async def test_a_release_ends_the_writing_here(bench):
    socket = await bench.socket("a")
    bench.bucket.free.clear()
    under_way = join(bench, socket, "b")
    await until(lambda: bench.bucket.puts, what="a write is under way")
    waiting = join(bench, socket, "c")
    bench.membership.release(socket)
    bench.bucket.free, held = asyncio.Event(), bench.bucket.free
    bench.bucket.free.set()
    await overwrite(bench, socket, owner="another1")  # past the held write of this edge
    bench.bucket.free = held
    bench.bucket.free.set()
    assert await outcomes(under_way, waiting) == [Elsewhere, Elsewhere], "neither is told that it is done"
    assert (await bench.record(socket)).rooms == {"a"}
    assert bench.ended == {socket.id: CloseCode.REPLACED}


# -- the end -------------------------------------------------------------------------------------------------------


async def test_moves_after_a_socket_has_left_are_left_to_whoever_takes_it_up(bench):
    """Its last write comes late; the moves that this edge has applied meanwhile did not reach it any more."""
    socket, other = await bench.socket("a"), await bench.socket("a")
    bench.bucket.refusing = True
    away = bench.membership.remove(socket, Event.LOST)
    sequence = await bench.move("a", join=("b",))
    await bench.follower.read_to_end()
    assert other.rooms == {"a", "b"}
    bench.bucket.refusing = False
    await away
    record = await bench.record(socket)
    assert (record.owner, record.rooms) == (None, {"a"})
    assert record.applied < sequence
    assert await bench.resumable(socket) == {"a", "b"}


async def test_a_socket_that_is_gone_leaves_no_record(bench):
    socket = await bench.socket("a")
    await bench.membership.remove(socket, Event.LEFT)
    assert await bench.record(socket) is None
    assert bench.membership.remove(socket, Event.LOST) is None, "twice is no error"


async def test_a_record_that_lags_behind_moves_is_brought_up_by_its_reader(bench):
    socket = await bench.socket("a")
    await bench.move("a", join=("b",))
    await bench.move("b", join=("c",), leave=("a",))
    await bench.follower.read_to_end()
    assert bench.keeper.lagging == 1
    assert (await bench.record(socket)).rooms == {"a"}, "a move writes no record"
    assert await bench.resumable(socket) == socket.rooms == {"b", "c"}
    await bench.keeper.save(socket)
    assert (await bench.record(socket)).rooms == {"b", "c"}


async def test_fields_of_a_later_version_are_kept_over_rewrites(bench):
    socket = await bench.socket("a")
    await overwrite(bench, socket, owner=None, colour={"deep": ["blue"]})
    await join(bench, socket, "b")
    await leave(bench, socket, "a")
    body = orjson.loads((await bench.bucket.get(f"socket.{socket.id}")).value)
    assert body["colour"] == {"deep": ["blue"]}
    assert Record.from_json(orjson.dumps(body)).rooms == {"b"}


async def test_a_record_of_an_unknown_version_is_not_overwritten(bench):
    socket = await bench.socket("a")
    await overwrite(bench, socket, v=2)
    assert await outcomes(join(bench, socket, "b")) == [KvUnavailable]
    body = orjson.loads((await bench.bucket.get(f"socket.{socket.id}")).value)
    assert (body["v"], body["rooms"]) == (2, ["a"])
    assert socket.rooms == {"a"}, "what is not written is undone"
