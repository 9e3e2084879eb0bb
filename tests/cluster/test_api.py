"""Every call of the SDK, over two edges on two nodes of a cluster and a Bus on the third."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from roomcast import (
    Bus,
    BusTimeout,
    BusUnavailable,
    EdgeResult,
    Incomplete,
    MoveIncomplete,
    RemoteError,
    Socket,
    SocketNotFound,
)
from support.arena import Arena, arena, spread
from support.until import until
from support.websocket_client import Client

pytestmark = pytest.mark.cluster

NOBODY = "a0000000.AAAAAAAAAAAAAAAA"


@pytest.fixture
async def stage(cluster, prefix, start_edge):
    """Two edges on two nodes, and a Bus on the third."""
    edge_urls, bus_url = spread(cluster.urls)
    async with arena(edge_urls, bus_url, prefix, start_edge, kv_replicas=3) as made:
        yield made


def ids(clients: list[Client]) -> list[str]:
    return [client.id for client in clients]


# -- changes of sockets ------------------------------------------------------------------------------------------------


async def test_join_and_leave(stage: Arena):
    bus, (one, two, three) = stage.bus, await stage.clients(3)
    assert (await bus.join(one.id, "chat")).changed
    assert not (await bus.join(one.id, "chat")).changed, "joining twice is joining once"
    socket = await bus.get(two.id)
    assert socket is not None
    request = SimpleNamespace(socket=await bus.get(three.id))
    results = await bus.join([socket, request, NOBODY, "no id at all"], ["chat", "news.√"])
    assert [(result.id, result.changed) for result in results[:2]] == [(two.id, True), (three.id, True)]
    assert [type(result.error) for result in results] == [type(None), type(None), SocketNotFound, SocketNotFound]
    assert await bus.rooms(two.id) == {"chat", "news.√"}
    assert await bus.count("chat") == 3
    await bus.broadcast("chat", "all", 1)

    assert (await bus.leave({"socket": socket}, "chat")).changed
    assert [result.changed for result in await bus.leave((one.id, two.id, NOBODY), ["chat", "news.√"])] == [
        True,
        True,
        False,
    ]
    await bus.broadcast("chat", "three", 2)
    await bus.broadcast("news.√", "three", 3)
    assert await stage.heard(one, two, three) == [
        [("all", 1)],
        [("all", 1)],
        [("all", 1), ("three", 2), ("three", 3)],
    ]


async def test_errors_of_single_changes(stage: Arena):
    bus, (one, gone) = stage.bus, await stage.clients(2)
    await gone.close()
    await until(lambda: _is_unknown(bus, gone.id), what="a socket that left is unknown")
    for unknown in (gone.id, NOBODY, "no-id", "a.b"):
        with pytest.raises(SocketNotFound, match=unknown):
            await bus.join(unknown, "chat")
        assert not (await bus.leave(unknown, "chat")).changed, "leaving is no error where nobody is"
        assert await bus.get(unknown) is None
        with pytest.raises(SocketNotFound):
            await bus.rooms(unknown)
    with pytest.raises(ValueError, match="own room"):
        await bus.leave(one.id, one.id)
    with pytest.raises(TypeError):
        await bus.join(5, "chat")
    with pytest.raises(TypeError):
        await bus.join(one.id, b"chat")
    with pytest.raises(ValueError, match="255"):
        await bus.join(one.id, "x" * 256)
    with pytest.raises(ValueError, match="100"):
        await bus.join(one.id, [str(number) for number in range(101)])
    assert await bus.rooms(one.id) == set()


async def _is_unknown(bus: Bus, socket_id: str) -> bool:
    try:
        await bus.rooms(socket_id)
    except SocketNotFound:
        return True
    return False


async def test_a_socket_that_is_away_still_gets_its_rooms(stage: Arena):
    bus, (one, _) = stage.bus, await stage.clients(2)
    await bus.join(one.id, ["stays", "goes"])
    one.drop()
    await until(lambda: _is_away(bus, one.id), what="the socket is away")
    assert await bus.rooms(one.id) == {"stays", "goes"}
    assert (await bus.join(one.id, "new")).changed
    assert (await bus.leave(one.id, "goes")).changed
    back = await stage.client(1, session=one.session)
    assert (back.id, back.resumed) == (one.id, True)
    found = await bus.get(one.id)
    assert found is not None
    assert (found.edge, found.rooms) == (stage.edges[1].id, {"stays", "new"})


async def _is_away(bus: Bus, socket_id: str) -> bool:
    return await bus.get(socket_id) is None


# -- changes of rooms --------------------------------------------------------------------------------------------------


async def test_bulk_changes_and_their_results(stage: Arena):
    bus, clients = stage.bus, await stage.clients(5)
    zero, one = (edge.id for edge in stage.edges)
    await bus.join(ids(clients), "team-alpha")
    await bus.join(clients[0].id, "events")

    result = await bus.add_room_members_to_rooms("team-alpha", ["announcements", "events"])
    assert result.edges == {zero: EdgeResult(3, 3), one: EdgeResult(2, 2)}
    assert (result.matched, result.changed, result.missing) == (5, 5, [])
    result = await bus.add_room_members_to_rooms("team-alpha", "events")
    assert (result.matched, result.changed) == (5, 0), "all were in it already"
    await bus.broadcast("events", "one", 1)

    result = await bus.remove_room_members_from_rooms("team-alpha", "events")
    assert result.changed == 5
    await bus.broadcast("events", "nobody", 2)

    result = await bus.move("announcements", join=["moved", "more"], leave="announcements")
    assert result.edges == {zero: EdgeResult(3, 3), one: EdgeResult(2, 2)}
    await bus.broadcast("announcements", "nobody", 3)
    await bus.broadcast(["moved", "more"], "moved", 4)
    assert await stage.heard(*clients) == [[("one", 1), ("moved", 4)]] * 5

    assert (await bus.add_room_members_to_rooms("nobody's", "events")).matched == 0
    assert (await bus.add_room_members_to_rooms(clients[1].id, "by-id")).edges[one] == EdgeResult(1, 1)
    assert await bus.rooms(clients[1].id) == {"team-alpha", "moved", "more", "by-id"}


async def test_leave_all(stage: Arena):
    bus, clients = stage.bus, await stage.clients(4)
    await bus.join(ids(clients), ["a", "b"])
    await bus.join(clients[3].id, "only")
    await bus.leave(clients[3].id, "a")
    result = await bus.leave_all("b")
    assert result.changed == 4
    assert await bus.rooms(clients[0].id) == {"a"}
    await bus.join(ids(clients), "b")

    result = await bus.leave_all("a", everywhere=True)
    assert result.changed == 3, "the members of a; the fourth is in it no more"
    assert [await bus.rooms(client.id) for client in clients] == [set(), set(), set(), {"b", "only"}]
    await bus.broadcast(["a", "b"], 5)
    await bus.broadcast(clients[0].id, "own", 6)
    assert await stage.heard(*clients) == [[("own", 6)], [], [], [("message", 5)]], "nobody leaves its own room"


async def test_disconnect(stage: Arena):
    bus, clients = stage.bus, await stage.clients(5)
    await bus.join(ids(clients[:4]), "room")
    result = await bus.disconnect(clients[0].id, reason="für heute genug")
    assert result.edges == {stage.edges[0].id: EdgeResult(1, 1)}
    assert await clients[0].is_closed() == 4502
    assert clients[0].close_reason == "für heute genug"

    assert await bus.count("room") == 3
    result = await bus.disconnect("room")
    assert (result.matched, result.changed) == (3, 3)
    assert [await client.is_closed() for client in clients[1:4]] == [4502] * 3
    assert await bus.count("room") == 0
    assert await bus.get(clients[4].id) is not None, "who was not in the room stays"
    again = await stage.client(1, session=clients[0].session)
    assert not again.resumed, "who was disconnected by a service does not come back as the same"
    for nobody in (NOBODY, "empty", clients[0].id):
        assert (await bus.disconnect(nobody)).matched == 0
    with pytest.raises(ValueError, match="123"):
        await bus.disconnect(clients[4].id, reason="x" * 124)


async def test_a_bulk_change_that_a_silent_edge_does_not_confirm(stage: Arena):
    bus, clients = stage.bus, await stage.clients(4)
    awake, asleep = stage.edges
    await bus.join(ids(clients), "team")
    asleep.signal(signal.SIGSTOP)
    failure: MoveIncomplete | None = None
    try:
        for number in range(12):  # the silent edge may be asked to coordinate: then the caller knows nothing
            try:
                await bus.add_room_members_to_rooms("team", f"target.{number}", timeout=0.4)
            except MoveIncomplete as error:
                failure = error
                break
            except BusTimeout:
                continue
        assert failure is not None, "the coordinator awake says who is missing"
        assert failure.result.missing == [asleep.id]
        assert failure.result.edges == {awake.id: EdgeResult(2, 2)}
        await bus.broadcast(f"target.{number}", "awake", None)
        await until(lambda: _counts_half(bus), 20, "a count says that an edge is silent")
    finally:
        asleep.signal(signal.SIGCONT)
    await until(lambda: _counts(bus, f"target.{number}", 4), 10, "the move is durable: it still applies")
    heard = await stage.heard(*clients)
    assert heard[0] == heard[2] == [("awake", None)]


async def _counts_half(bus: Bus) -> bool:
    """Whether the edge that is awake was asked, and says what it knows."""
    try:
        assert await bus.count("team", timeout=1, partial=True) == 2
        await bus.count("team", timeout=1)
    except BusTimeout:
        return False
    except Incomplete as error:
        return (error.known, len(error.missing)) == (2, 1)
    raise AssertionError("an edge is silent, and the count claims to be whole")


async def _counts(bus: Bus, room: str, count: int) -> bool:
    try:
        return await bus.count(room, timeout=0.5) == count
    except (Incomplete, BusTimeout):
        return False


# -- casts -------------------------------------------------------------------------------------------------------------


async def test_broadcast_in_every_manner(stage: Arena):
    bus, (one, two, other) = stage.bus, await stage.clients(3)
    await bus.join([one.id, two.id], ["a", "b"])
    socket = await bus.get(one.id)
    request = SimpleNamespace(socket=socket)
    manners: list[tuple[tuple[Any, ...], dict[str, Any], tuple[str, Any], bool]] = [
        (("a", {"n": 1}), {}, ("message", {"n": 1}), True),
        (("a", "named", {"n": 2}), {}, ("named", {"n": 2}), True),
        (("a", "named", [3], one.id), {}, ("named", [3]), False),
        (("a", {"n": 4}, socket), {}, ("message", {"n": 4}), False),
        (("a", "named", None, request), {}, ("named", None), False),
        (("a",), {"data": "a text"}, ("message", "a text"), True),
        (("a", "named"), {"data": "a text"}, ("named", "a text"), True),
        (("a", 5), {"event": "named"}, ("named", 5), True),
        (("a",), {"event": "named", "data": 6, "omit": request}, ("named", 6), False),
        ((["a", "b"], "named", "an event and a text"), {}, ("named", "an event and a text"), True),
        ((("b", "a", "b"), 7), {"except_rooms": [one.id]}, ("message", 7), False),
        (("a", 8), {"omit": SimpleNamespace(socket=None)}, ("message", 8), True),
        ((["a", one.id], 9), {"except_rooms": "unknown"}, ("message", 9), True),
    ]
    for args, named, _, _ in manners:
        await bus.broadcast(*args, **named)
    await bus.broadcast([], {"to": "nobody"})
    await bus.broadcast("a", 10, except_rooms="b")
    assert await stage.heard(one, two, other) == [
        [told for _, _, told, to_one in manners if to_one],
        [told for _, _, told, _ in manners],
        [],
    ]


async def test_blast_in_every_manner(stage: Arena):
    bus, (one, two, three) = stage.bus, await stage.clients(3)
    await bus.join([one.id, two.id], "pair")
    await bus.blast({"message": "all"})
    await bus.blast("systemAlert", {"message": "all"})
    await bus.blast("systemAlert", {"n": 1}, one.id)
    await bus.blast({"n": 2}, omit=await bus.get(two.id))
    await bus.blast(data="a text", except_rooms=["pair"])
    await bus.blast(event="named", data=None, omit=three.id)
    everyone = [("message", {"message": "all"}), ("systemAlert", {"message": "all"})]
    assert await stage.heard(one, two, three) == [
        [*everyone, ("message", {"n": 2}), ("named", None)],
        [*everyone, ("systemAlert", {"n": 1}), ("named", None)],
        [*everyone, ("systemAlert", {"n": 1}), ("message", {"n": 2}), ("message", "a text")],
    ]


@pytest.mark.parametrize(
    ("args", "named", "error", "says"),
    [
        (("a", "a lone text"), {}, TypeError, "data="),
        (("a",), {}, TypeError, "no data"),
        (("a", b"bytes"), {}, TypeError, "bytes"),
        (("a", "named", 1, None, 2), {}, TypeError, "too many"),
        (("a", "named", 1), {"event": "twice"}, TypeError, "twice"),
        (("a", object()), {}, TypeError, "JSON"),
        (("a", float), {}, TypeError, "JSON"),
        ((5, {"n": 1}), {}, TypeError, "rooms"),
        (("", {"n": 1}), {}, ValueError, "1 to 255"),
        (("ü" * 128, {"n": 1}), {}, ValueError, "1 to 255"),
        (("\ud800", {"n": 1}), {}, ValueError, "surrogate"),
        (("a", "connect", {"n": 1}), {}, ValueError, "reserved"),
        (("a", "bus:moved", {"n": 1}), {}, ValueError, "reserved"),
        (("a", "x" * 256, {"n": 1}), {}, ValueError, "1 to 255"),
        (([str(n) for n in range(101)], {"n": 1}), {}, ValueError, "100"),
        (("a",), {"data": "x" * 262_200}, ValueError, "262144"),
        (("a", {"n": 1}), {"omit": 5}, TypeError, "Socket"),
    ],
)
async def test_what_is_wrong_is_said_before_anything_is_sent(nats, prefix, args, named, error, says):
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        sent = bus.nats.stats["out_msgs"]
        with pytest.raises(error, match=says):
            await bus.broadcast(*args, **named)
        assert bus.nats.stats["out_msgs"] == sent


# -- who is there ------------------------------------------------------------------------------------------------------


async def test_get_and_whom_a_request_came_from(stage: Arena):
    bus, (_, one) = stage.bus, await stage.clients(2)
    await bus.join(one.id, ["a", "b.c"])
    socket = await bus.get(one.id)
    assert socket is not None
    assert (socket.id, socket.edge, socket.rooms) == (one.id, stage.edges[1].id, {"a", "b.c"})
    assert (socket.dialect, socket.user) == ("json", None)
    assert socket.connected_at > 1e9
    assert await bus.get(socket) == socket
    for request in (socket, SimpleNamespace(socket=socket), {"socket": {"id": one.id, "rooms": ["a"]}}):
        assert bus.get_id(request) == one.id
        parsed = bus.parse_socket(request)
        assert isinstance(parsed, Socket)
        assert parsed.id == one.id
    for request in (None, 5, "text", {}, {"socket": None}, SimpleNamespace(socket=None), SimpleNamespace(url="/")):
        assert bus.get_id(request) is None
        assert bus.parse_socket(request) is None


async def test_members_are_paged_and_complete(stage: Arena):
    bus, clients = stage.bus, await stage.clients(400)
    heavy = [f"{number}.{'x' * 240}" for number in range(5)]  # 200 sockets of an edge need several pages
    await bus.join(ids(clients), ["all", *heavy])
    await bus.join(ids(clients[:7]), "few")
    assert (await bus.count("all"), await bus.count("few"), await bus.count("none")) == (400, 7, 0)

    asked = bus.nats.stats["out_msgs"]
    found = [socket async for socket in bus.members("all")]
    assert bus.nats.stats["out_msgs"] - asked >= 4, "it took several pages of each edge"
    assert len(found) == 400, "nobody twice"
    assert {socket.id for socket in found} == set(ids(clients))
    assert all({"all", *heavy} <= socket.rooms for socket in found)
    by_edge = [sum(socket.edge == edge.id for socket in found) for edge in stage.edges]
    assert by_edge == [200, 200]

    assert {socket.id async for socket in bus.members("few")} == set(ids(clients[:7]))
    assert [socket async for socket in bus.members("none")] == []
    assert [socket.id async for socket in bus.members(clients[9].id)] == [clients[9].id]
    async for _ in bus.members("all"):
        break  # leaving early is no error


# -- when the bus is not whole -----------------------------------------------------------------------------------------


async def test_without_an_edge_calls_fail_at_once_and_casts_go_nowhere(nats, prefix):
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.broadcast("room", {"n": 1})
        for call in (
            bus.join(NOBODY, "room"),
            bus.leave_all("room"),
            bus.count("room"),
            bus.get(NOBODY),
            bus.disconnect("room"),
            anext(bus.members("room")),
        ):
            with pytest.raises(BusUnavailable, match="no edge is running"):
                await asyncio.wait_for(call, 2)
        with pytest.raises(ValueError, match="nothing to do"):
            await bus.move("room")


async def test_what_an_edge_refuses_is_raised(nats, prefix, start_edge):
    await start_edge(nats.urls)
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        with pytest.raises(RemoteError, match="which is meant") as caught:
            await bus.move("source", join="both", leave="both")
        assert caught.value.code == "bad_request"
        with pytest.raises(ValueError, match="at most 60"):
            await bus.count("room", timeout=100)
