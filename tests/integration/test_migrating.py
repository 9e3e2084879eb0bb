"""The page that leads here from elsewhere: each call of ours in its tables, and each piece of Python, is run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from roomcast import Bus, Request
from support.until import until
from support.websocket_client import Client

PAGE = (Path(__file__).parent.parent.parent / "docs" / "migrating.md").read_text()
CALLS = re.findall(r"^\| .*`[^`]*` \| `([^`]*bus\.[^`]*|req\.[^`]*)` \|$", PAGE, re.MULTILINE)
PIECES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_is_read():
    tables = PAGE.count("### Each call\n")
    assert tables == 4
    rows = [part.partition("\n#")[0].count("\n|") - 2 for part in PAGE.split("### Each call\n")[1:]]
    assert len(CALLS) == sum(rows), "each row's right side is a call"
    assert len(PIECES) == PAGE.count("```python")


async def run(code: str, names: dict[str, Any]) -> Any:
    """Run code in which ``await`` may stand anywhere; the value of what is one expression."""
    mode = "exec" if "\n" in code else "eval"
    value = eval(compile(code, "migrating.md", mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    return await value if inspect.isawaitable(value) else value


class Call:
    """One call of the tables, taken apart: ``bus.verb(target, …)``."""

    def __init__(self, code: str) -> None:
        self.code = code
        found = [node for node in ast.walk(ast.parse(code, mode="eval")) if isinstance(node, ast.Call)]
        self.verb = found[0].func.attr if found else code  # type: ignore[attr-defined]
        self._given = [*found[0].args, *[keyword.value for keyword in found[0].keywords]] if found else []

    @property
    def names(self) -> list[str]:
        """The variables that are passed: ``req``, ``socket_id``, ``data``."""
        return [node.id for node in self._given if isinstance(node, ast.Name)]

    @property
    def values(self) -> list[Any]:
        """The literals that are passed."""
        return [ast.literal_eval(node) for node in self._given if not isinstance(node, ast.Name)]


class Stage:
    """One who asks, one who is there beside, and what they hear."""

    def __init__(self, bus: Bus, url: str, asker: Client, other: Client) -> None:
        self.bus = bus
        self.url = url
        self.asker = asker
        self.other = other
        self.both = [asker, other]
        request = Request.from_json({"socket": {"id": asker.id, "edge": asker.id.partition(".")[0]}})
        self.names = {"bus": bus, "req": request, "socket_id": asker.id, "data": {"n": 1}}

    async def rooms(self, client: Client) -> frozenset[str]:
        return await self.bus.rooms(client.id)

    async def enter(self, *rooms: str) -> None:
        await self.bus.join([client.id for client in self.both], list(rooms))

    async def cast(self, call: Call) -> None:
        """``broadcast`` and ``blast``: who should hear it hears it once, with its event and its data."""
        values, direct = call.values, "socket_id" in call.names[:1] and "omit" not in call.code
        if call.verb == "broadcast" and not direct:
            target = values.pop(0)
            await self.enter(*([target] if isinstance(target, str) else target))
        event = values.pop(0) if values and isinstance(values[0], str) else "message"
        heard = (event, self.names["data"] if "data" in call.names else values[0])
        omits = "req" in call.names or "omit" in call.code
        await run(call.code, self.names)
        await self.bus.blast("end", None)
        for client, hears in ((self.asker, not omits), (self.other, not direct)):
            assert await client.hears_event("end") is None
            assert client.events == [*[heard] * hears, ("end", None)], call.code

    async def change(self, call: Call) -> None:
        """Changes of membership: of the one who asks, or of all in a room."""
        single = call.verb in ("join", "leave")
        source, *others = call.values
        rooms = {source} if single else {*(others[0] if others and isinstance(others[0], list) else others)}
        leaves = call.verb not in ("join", "add_room_members_to_rooms")
        changed = [self.asker] if single else self.both
        await self.enter(*({*rooms} if leaves else ()), *(() if single else (source,)), "stays")
        await run(call.code, self.names)
        for client in self.both:
            there = await self.rooms(client)
            assert "stays" in there
            if call.verb == "leave_all":
                assert source not in there
            else:
                assert (rooms <= there) == (leaves != (client in changed)), call.code

    async def disconnect(self, call: Call) -> None:
        """The one who asks is gone, or all in a room."""
        await self.enter("a")
        await run(call.code, self.names)
        gone = self.both if call.values else [self.asker]
        for client in gone:
            await until(lambda client=client: client.close_code, what=call.code)
            assert client.close_code == 4502
        assert self.other in gone or self.other.close_code is None

    async def call(self, call: Call) -> None:
        """A client is asked, and replies."""
        async with connect(self.url, proxy=None) as ws:
            client_id = json.loads(await ws.recv())["data"]["id"]
            asking = asyncio.create_task(run(call.code, {**self.names, "socket_id": client_id}))
            heard = json.loads(await ws.recv())
            assert (heard["event"], heard["data"]) == (call.values[0], self.names["data"])
            await ws.send(json.dumps({"id": heard["id"], "data": "yes"}))
            assert await asking == "yes"

    async def question(self, call: Call) -> None:
        """What has a value."""
        await self.enter("a")
        value = await run(call.code, self.names)
        if call.verb in ("get_id", "get", "parse_socket"):
            assert getattr(value, "id", value) == self.asker.id
        elif call.verb == "members":
            assert {member.id for member in value} == {client.id for client in self.both}
        else:
            assert value == {"rooms": {"a"}, "count": 2, "req.is_socket": True}[call.verb]


async def test_each_call_of_the_tables_does_what_it_says(nats, prefix, start_edge):
    edge = await start_edge(nats.urls)
    kinds = {"broadcast": Stage.cast, "blast": Stage.cast, "disconnect": Stage.disconnect, "call": Stage.call}
    kinds |= dict.fromkeys(("get_id", "get", "parse_socket", "members", "rooms", "count"), Stage.question)
    kinds |= {"req.is_socket": Stage.question}
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        for code in CALLS:
            call = Call(code)
            stage = Stage(bus, edge.url, await Client.open(edge.url), await Client.open(edge.url))
            await kinds.get(call.verb, Stage.change)(stage, call)
            for client in stage.both:
                await client.close()
                await bus.disconnect(client.id)


class Sessions:
    """What a piece takes for the sessions of its web framework."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    async def forget(self, user: str) -> None:
        self.forgotten.append(user)

    async def user_of(self, cookie: str) -> str | None:
        return cookie.removeprefix("sails.sid=") if cookie else None


class Orders:
    """What the pieces take for the database."""

    async def update(self, order_id: str, status: str) -> dict[str, str]:
        return {"id": order_id, "status": status}

    async def count(self, data: Any) -> int:
        return 1


async def test_each_piece_of_python_serves(nats, prefix, start_edge, monkeypatch):
    monkeypatch.setenv("NATS_URL", nats.url)
    edge = await start_edge(nats.urls, auth="bus")
    async with Bus.connect(nats.url, prefix=prefix, name="moved", version="1.0.0") as bus:
        names: dict[str, Any] = {"bus": bus, "orders": Orders(), "sessions": Sessions()}
        for piece in PIECES:
            await run(piece, names)
        names["realtime"].close()
        async with bus.serving():
            client, other = [
                await Client.open(edge.url, headers={"Cookie": f"sails.sid={user}"}) for user in ("a", "b")
            ]
            for each in (client, other):
                assert (await each.emit("orders.subscribe", {"orderId": "42"}))["data"] == {"subscribed": True}
                await bus.join(each.id, "chat")
            assert (await client.emit("orders.count"))["data"] == 1
            await client.emit("chat.say", {"text": "Hi"})
            assert await other.hears_event("chatMessage") == {"text": "Hi"}
            reply = await bus.nats.request(f"{prefix}.route.PUT.orders.42.status", b'{"data":{"status":"sent"}}')
            assert reply.data == b'{"id":"42","status":"sent"}'
            assert await other.hears_event("orderUpdated") == {"id": "42", "status": "sent"}
            assert (await bus.get(client.id)).user == "a"
            await client.close()
            await until(lambda: names["sessions"].forgotten == ["a"], what="the service hears that the client has left")
            async with connect(edge.url, proxy=None) as stranger:
                with pytest.raises(ConnectionClosed, match="sign in first"):
                    await stranger.recv()
            await other.close()
