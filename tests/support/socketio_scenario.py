"""What holds for every client of Socket.IO, across two edges: the tests that all kinds of client run."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.msg import Msg

from roomcast import Bus, BusTimeout, RemoteError
from support.edges import EdgeProcess
from support.front import Front
from support.socketio_clients import Kind, SocketIo
from support.tokens import SECRET, signed
from support.until import until

OPEN_ROOMS = "chat-*"
SETTINGS: dict[str, Any] = {"client_rooms": OPEN_ROOMS, "outbox_limit": 65536, "ping_interval": 0.5, "ping_timeout": 5}
HEARTBEAT = b"\x81\x81"
"""How the frame of a pong begins, or of a ping where the client pings: no other message of a client has one byte."""


class Stage:
    """Two edges, a proxy before each client, and a service's Bus."""

    def __init__(self, edges: list[EdgeProcess], bus: Bus, prefix: str, kind: Kind, front: Front) -> None:
        self.edges = edges
        self.bus = bus
        self.kind = kind
        self.front = front
        """Stands before both edges and prefers the first."""
        self.asked: list[dict[str, Any]] = []
        """The bodies of the requests that services got."""
        self._prefix = prefix

    async def client(self, edge: int = 0, **options: Any) -> SocketIo:
        """A client that knows one edge only."""
        return await self.kind.open(f"http://127.0.0.1:{self.edges[edge].port}", **options)

    async def guest(self, **options: Any) -> SocketIo:
        """A client before which the proxy stands: it gets to the other edge when it must come back."""
        self.front.prefer(self.edges[0])
        return await self.kind.open(self.front.url, **options)

    async def serve(self, action: str, answer: Callable[[dict[str, Any]], Any]) -> None:
        """A service for an action; what ``answer`` returns is sent as JSON."""

        async def on_request(message: Msg) -> None:
            body = json.loads(message.data)
            self.asked.append(body)
            await message.respond(json.dumps(answer(body)).encode())

        await self.bus.nats.subscribe(f"{self._prefix}.action.{action}", cb=on_request)
        await self.bus.flush()

    async def called(self, client: SocketIo, event: str) -> Any:
        """What the client replies to a call; None while it does not reply."""
        with contextlib.suppress(BusTimeout):
            return await self.bus.call(client.id, event, 1, timeout=0.5)
        return None

    async def is_on(self, client: SocketIo, edge: EdgeProcess) -> None:
        """Wait until an edge says that it holds the client's socket."""

        async def there() -> bool:
            found = await self.bus.get(client.id)
            return found is not None and found.edge == edge.id

        await until(there, 10, f"the socket is on edge {edge.id}")

    async def is_back(self, client: SocketIo, edge: EdgeProcess, before: str) -> None:
        """Wait until a guest is back by itself: the same id and rooms, on this edge, nothing recovered."""
        await client.sees("connect", 2, 20)
        assert client.id == before, "the socket is the same"
        await self.is_on(client, edge)
        assert await self.bus.rooms(client.id) == {"chat-7", "team"}
        await self.bus.broadcast("team", "back", 1)
        await client.hears("back", 1)
        first, second = client.all("connect")
        if self.kind.carries_session == "pid":
            assert first["pid"] != second["pid"]
            assert not second.get("recovered")
        assert client.all("disconnect")[0]["reason"] in self.kind.transport_closed

    async def returning(self, client: SocketIo, edge: int) -> SocketIo:
        """Another client that takes up a client's session."""
        if self.kind.carries_session == "pid":
            return await self.client(edge, auth={"pid": client.all("connect")[0]["pid"]})
        return await self.client(edge, query=f"session={client.session}")

    async def settled_guest(self) -> SocketIo:
        """A guest on the first edge, with a room of its own wish and one of a service's."""
        client = await self.guest()
        assert await client.ask("bus:join", {"room": "chat-7"}) == {"room": "chat-7"}
        await self.bus.join(client.id, "team")
        await self.is_on(client, self.edges[0])
        self.front.prefer(self.edges[1])
        return client


@asynccontextmanager
async def staged(
    nats_urls: list[str], prefix: str, start_edge: Callable[..., Awaitable[EdgeProcess]], kind: Kind
) -> AsyncIterator[Stage]:
    """Two edges, and all that stands around them."""
    edges = [await start_edge(nats_urls, **SETTINGS), await start_edge(nats_urls, **SETTINGS)]
    async with Bus.connect(nats_urls[0], prefix=prefix) as bus, Front(edges) as front:
        yield Stage(edges, bus, prefix, kind, front)


class Scenario:
    """Subclass it in a module that has the fixture ``kind``."""

    @pytest.fixture
    async def stage(self, nats, prefix, start_edge, kind):
        async with staged(nats.urls, prefix, start_edge, kind) as stage:
            yield stage

    # -- what is cast --------------------------------------------------------------------------------------------------

    async def test_hears_broadcasts_blasts_and_direct_messages(self, stage):
        here, there = await stage.client(0), await stage.client(1)
        bus = stage.bus
        await bus.join([here.id, there.id], "room")
        await bus.broadcast("room", {"text": "Hello!"})
        await bus.broadcast("room", "newMessage", {"text": "Hi", "ä€😀": [1, None, 2.5]}, here.id)
        await bus.broadcast(here.id, "direct", "to one")
        await bus.blast("alert", [1, 2])
        await bus.blast({"default": True})
        await bus.broadcast("room", "ende 🎉 with spaces.and.dots", None)
        ends = [("alert", [[1, 2]]), ("message", [{"default": True}]), ("ende 🎉 with spaces.and.dots", [None])]
        default = ("message", [{"text": "Hello!"}])
        for client in (here, there):
            await client.hears("ende 🎉 with spaces.and.dots", None)
        assert here.events == [default, ("direct", ["to one"]), *ends]
        assert there.events == [default, ("newMessage", [{"text": "Hi", "ä€😀": [1, None, 2.5]}]), *ends]

    # -- what it is asked ----------------------------------------------------------------------------------------------

    async def test_replies_to_calls(self, stage):
        client = await stage.client(1)
        client.reply("confirm", {"yes": True})
        client.reply("refuse", {"error": {"code": "busy", "message": "not now"}})
        assert await until(lambda: stage.called(client, "confirm"), 10, "the handler is there") == {"yes": True}
        with pytest.raises(RemoteError, match="busy: not now"):
            await stage.bus.call(client.id, "refuse", {"a": 1})
        assert await client.ask("bus:ping") == {}

    # -- who it is -----------------------------------------------------------------------------------------------------

    async def test_a_token_is_needed_and_the_client_hears_why(self, nats, prefix, start_edge, kind):
        edge = await start_edge(nats.urls, auth="jwt", jwt_secret=SECRET, log_level="debug")
        url, bad = f"http://127.0.0.1:{edge.port}", signed("eve", "another secret, as long as it must be")
        carries = kind.carries_session == "pid"  # and so has a message for its auth

        async def opened(token: str, wait: bool = True) -> SocketIo:
            if carries:
                return await kind.open(url, auth={"token": token} if token else None, wait=wait)
            return await kind.open(url, query=f"token={token}" if token else "", wait=wait)

        for token, message, close in (
            ("", "a token is needed", 4500),
            (bad, "the token does not verify", 4500),
            (signed("ann", exp=1), "the token has expired", 4501),
        ):
            client = await opened(token, wait=False)
            error = await client.sees("connect_error")
            assert error["message"] == message
            if carries:
                assert error["data"] == {"code": "unauthorized", "close": close}
            assert client.all("connect") == []
        async with Bus.connect(nats.url, prefix=prefix) as bus:
            client = await opened(token := signed("ann", rooms=["news"]))
            socket = await bus.get(client.id)
            assert (socket.user, socket.rooms) == ("ann", {"user.ann", "news"})
            fresh = signed("ann", data={"plan": "gold"}, exp=2_000_000_000)
            assert await client.ask("bus:token", {"token": fresh}) == {"expires": 2_000_000_010}
            assert (await bus.get(client.id)).data == {"plan": "gold"}
            await bus.disconnect("user.ann", reason="bye")
            await until(lambda: client.gave_up, 10, "it is told not to come back")
        for secret in (bad, token, fresh, SECRET):
            assert secret not in edge.log

    # -- what it emits -------------------------------------------------------------------------------------------------

    async def test_emits_with_and_without_acknowledgement_and_with_several_arguments(self, stage):
        await stage.serve("sum", lambda body: {"sum": sum(body["args"])})
        await stage.serve("whoami", lambda body: body["socket"])
        client = await stage.client(1)
        assert await client.ask("sum", 1, 2, 39) == {"sum": 42}
        assert stage.asked[-1]["data"] == 1
        assert stage.asked[-1]["args"] == [1, 2, 39]

        await client.emit("sum", 4, 5)
        await until(lambda: len(stage.asked) == 2, what="the service hears what wants no answer")
        assert stage.asked[-1]["args"] == [4, 5]

        told = await client.ask("whoami", {"a": "b"})
        assert (told["id"], told["edge"]) == (client.id, stage.edges[1].id), "services see the id that the client sees"
        assert (await stage.bus.get(client.id)).id == client.id

    async def test_errors_come_as_acknowledgements(self, stage):
        await stage.serve("order", lambda _: {"error": {"code": "not_found", "message": "no such order"}})
        client = await stage.client()
        answer = await client.ask("nobody.serves.this", {})
        assert answer["error"]["code"] == "no_service"
        answer = await client.ask("bus:unknown", {})
        assert answer["error"]["code"] == "bad_request"
        assert await client.ask("order", 1) == {"error": {"code": "not_found", "message": "no such order"}}
        assert await client.ask("bus:ping") == {}, "it is still connected"

    async def test_binary_gets_a_clear_error(self, stage):
        client = await stage.client()
        answer = await client.ask("upload", {"name": "x"}, b"\x00\xff" * 1000)
        assert answer["error"]["code"] == "bad_request"
        assert "binary" in answer["error"]["message"]
        assert await client.ask("bus:ping") == {}, "nothing else was hurt"
        assert client.all("disconnect") == []

    # -- rooms ---------------------------------------------------------------------------------------------------------

    async def test_joins_and_leaves_the_rooms_that_are_granted(self, stage):
        client, other = await stage.client(0), await stage.client(1)
        assert await client.ask("bus:join", {"room": "chat-1"}) == {"room": "chat-1"}
        assert await other.ask("bus:join", {"rooms": ["chat-1", "chat-2"]}) == {"rooms": ["chat-1", "chat-2"]}
        answer = await client.ask("bus:join", {"room": "secret"})
        assert answer["error"]["code"] == "forbidden"
        assert await stage.bus.rooms(client.id) == {"chat-1"}
        await stage.bus.broadcast("chat-1", "one", 1)
        for each in (client, other):
            await each.hears("one", 1)
        assert await client.ask("bus:leave", {"room": "chat-1"}) == {"room": "chat-1"}
        await stage.bus.broadcast("chat-1", "two", 2)
        await stage.bus.blast("end", 0)
        for each in (client, other):
            await each.hears("end", 0)
        assert client.events == [("one", [1]), ("end", [0])]
        assert other.events == [("one", [1]), ("two", [2]), ("end", [0])]

    # -- namespaces, auth, query ---------------------------------------------------------------------------------------

    async def test_another_namespace_gets_the_protocols_error(self, stage):
        client = await stage.client(path="/admin", wait=False)
        error = await client.sees("connect_error")
        assert error["message"] == "Invalid namespace"
        assert client.all("connect") == []

    async def test_auth_and_query_are_heard(self, stage):
        first = await stage.client(auth={"token": "not looked at", "x": [1]}, query="a=b")
        await stage.bus.join(first.id, "team")
        second = await stage.client(1, query=f"session={first.session}")
        assert second.id == first.id, "the session of the query"
        assert await stage.bus.rooms(second.id) == {"team"}
        if stage.kind.carries_session == "pid":
            third = await stage.client(0, auth={"pid": second.all("connect")[0]["pid"]}, query="session=nonsense")
            assert third.id == first.id, "the pid of the auth, which comes before the query's"
            assert await stage.bus.rooms(third.id) == {"team"}

    # -- the ways in which a connection ends ---------------------------------------------------------------------------

    async def test_a_drop_is_survived(self, stage):
        client = await stage.settled_guest()
        before = client.id
        stage.front.cut()
        await stage.is_back(client, stage.edges[1], before)

    async def test_kill_9_of_the_edge_is_survived(self, stage):
        client = await stage.settled_guest()
        before = client.id
        await stage.edges[0].kill()
        await stage.is_back(client, stage.edges[1], before)

    async def test_a_drain_is_survived(self, stage):
        client = await stage.settled_guest()
        before = client.id
        assert await stage.edges[0].stop() == 0
        await stage.is_back(client, stage.edges[1], before)

    async def test_an_edge_that_hangs_is_noticed_and_left(self, stage):
        client = await stage.settled_guest()
        before = client.id
        stage.edges[0].signal(signal.SIGSTOP)
        # No ping comes. The reason is the client's own: some call it a timeout, some a lost transport.
        await client.sees("disconnect", 1, 20)
        await until(lambda: len(client.all("connect")) == 2, 20, "it is back")
        assert client.id == before
        await stage.is_on(client, stage.edges[1])

    async def test_who_is_too_slow_is_sent_away_and_comes_back(self, stage):
        client = await stage.settled_guest()
        before = client.id
        stage.front.prefer(stage.edges[0])
        stage.front.stall()

        async def is_ended() -> bool:
            for _ in range(32):
                await stage.bus.broadcast("team", "flood", "x" * 60_000)
            await stage.bus.flush()
            return await stage.edges[0].metric("roomcast_slow_sockets_closed_total") == 1

        await until(is_ended, 30, "the edge ends the slow client")
        stage.front.resume()
        await stage.is_back(client, stage.edges[0], before)

    async def test_who_is_kicked_stays_away(self, stage):
        client = await stage.settled_guest()
        connections = stage.front.accepted
        await stage.bus.disconnect(client.id, reason="bye")
        assert (await client.sees("disconnect"))["reason"] == stage.kind.server_disconnect
        assert client.gave_up
        assert await stage.bus.get(client.id) is None
        assert stage.front.accepted == connections

    async def test_who_is_replaced_stays_away(self, stage):
        client = await stage.settled_guest()
        connections = stage.front.accepted
        rival = await stage.returning(client, 1)
        assert (await client.sees("disconnect"))["reason"] == stage.kind.server_disconnect
        assert client.gave_up
        assert rival.id == client.id
        await stage.is_on(rival, stage.edges[1])
        assert await stage.bus.rooms(rival.id) == {"chat-7", "team"}
        assert stage.front.accepted == connections

    async def test_who_leaves_is_gone(self, stage):
        client = await stage.client()
        await stage.bus.join(client.id, "team")
        await client.close()

        async def gone() -> bool:
            return await stage.bus.get(client.id) is None

        await until(gone, what="the socket is gone")
        assert await stage.bus.count("team") == 0

    async def test_pings_keep_a_client_that_has_nothing_to_say(self, stage):
        client = await stage.guest()
        await until(lambda: stage.front.sent.count(HEARTBEAT) >= 4, 10, "its heart beats")
        assert client.all("disconnect") == []
        assert await client.ask("bus:ping") == {}
