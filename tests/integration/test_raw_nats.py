"""Any language's way in: a stock NATS client, plain subjects and JSON, without the SDK."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.client import Client as StockClient

from support.arena import Arena, arena
from support.until import until

EVENTS = ["message", "newMessage", "with=20space", "=C3=BC", "connected", "bus", "-_-"]


@pytest.fixture
async def stage(nats, prefix, start_edge) -> AsyncIterator[Arena]:
    """Two edges on one NATS."""
    async with arena([nats.urls, nats.urls], nats.url, prefix, start_edge, cast_limit=100_000) as made:
        yield made


@pytest.fixture
async def stock(nats) -> AsyncIterator[StockClient]:
    """nats-py as it comes."""
    client = StockClient()
    await client.connect(nats.url)
    yield client
    await client.close()


class Api:
    """``bus.api.…`` as ``nats req`` asks it."""

    def __init__(self, client: StockClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def ask(self, verb: str, body: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The body and the headers of an answer; ``body`` may be bytes as they are."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self._client.request(f"{self._prefix}.api.{verb}", payload, timeout=5)
        answer = json.loads(reply.data)
        assert isinstance(answer, dict), answer
        return answer, reply.headers or {}

    async def refused(self, verb: str, body: Any) -> tuple[str, str]:
        """The code and the number of a refusal, which both its body and its headers tell."""
        answer, headers = await self.ask(verb, body)
        assert set(answer) == {"error"}, answer
        assert set(answer["error"]) == {"code", "message"}
        assert headers["Nats-Service-Error"], "NATS's own tools show this one"
        return answer["error"]["code"], headers["Nats-Service-Error-Code"]


# -- casts -------------------------------------------------------------------------------------------------------------


async def test_a_raw_publish_reaches_the_room(stage: Arena, stock: StockClient, prefix: str):
    one, two, three = await stage.clients(3)
    await stage.bus.join([one.id, two.id], ["chat-general", "order.42", "a b"])
    await stage.bus.join(three.id, "a b")
    await stock.publish(f"{prefix}.room.chat-general.newMessage", b'{"text":"Hello!"}')
    await stock.publish(f"{prefix}.room.order.42.status", b' [1, 2.50, {"\\u00fc": null}] ')
    await stock.publish(f"{prefix}.room.a=20b.message", b'"text"', headers={"Roomcast-Except": "order.42 nobody"})
    await stock.publish(f"{prefix}.blast.alert", b"0", headers={"Roomcast-Except": one.id, "Roomcast-Sent": "soon"})
    await stock.publish(f"{prefix}.room.{one.id}.direct", b"true")
    await stock.publish(f"{prefix}.blast.last", b"null")
    for client in (one, two, three):
        await client.hears_event("last")
    both = [("newMessage", {"text": "Hello!"}), ("status", [1, 2.5, {"ü": None}])]
    assert one.events == [*both, ("direct", True), ("last", None)]
    assert two.events == [*both, ("alert", 0), ("last", None)]
    assert three.events == [("message", "text"), ("alert", 0), ("last", None)]


NOT_JSON = [
    b"",
    b"Hello!",
    b"{",
    b"NaN",
    b"'text'",
    b"{}{}",
    b'"\xff"',
    b"[1,]",
    b"\x00",
    b"[" * 5000,
    b"\xef\xbb\xbf{}",
]
NO_EVENT = [
    "connect",
    "disconnect",
    "connect_error",
    "bus=3Ajoin",
    "bus=3A",
    "bus=3ax",
    "a=2",
    "=XX",
    "==",
    "ü",
    "a=41",
]


async def test_what_is_no_cast_reaches_nobody_and_is_counted(stage: Arena, stock: StockClient, prefix: str):
    edge = stage.edges[0]
    client = await stage.client(0)
    await stage.bus.join(client.id, "room")
    targets = [f"{prefix}.room.room", f"{prefix}.blast", f"{prefix}.room.{client.id}"]
    for target in targets:
        for payload in (*NOT_JSON, b'"' + b"x" * 100_000 + b'"'):
            await stock.publish(f"{target}.message", payload)
        for event in NO_EVENT:
            await stock.publish(f"{target}.{event}", b"{}")
    await stock.publish(f"{prefix}.room.{edge.id}.a=2.message", b"{}")
    await stock.publish(f"{prefix}.blast.message", b"1", headers={"Roomcast-Except": "room=2"})
    await stock.publish(f"{prefix}.blast.last", b"2")
    await client.hears_event("last")
    assert client.events == [("message", 1), ("last", 2)]
    counted = {
        reason: await edge.metric(f'roomcast_invalid_total{{reason="{reason}"}}')
        for reason in ("payload", "size", "event", "room", "except")
    }
    assert counted == {"payload": 3 * len(NOT_JSON), "size": 3, "event": 3 * len(NO_EVENT), "room": 1, "except": 1}
    assert "Traceback" not in edge.log


async def test_a_flood_of_bad_casts_is_counted_and_logged_in_a_few_lines(stage: Arena, stock: StockClient, prefix: str):
    edge = stage.edges[0]
    client = await stage.client(0)
    await stage.bus.join(client.id, "room")
    for number in range(1000):
        await stock.publish(f"{prefix}.room.room.event{number % 50}", b"not JSON\r\n%d" % number)
        await stock.publish(f"{prefix}.room.room.bus=3A{number}", b"{}")
    await stock.publish(f"{prefix}.room.room.last", b"null")
    await client.hears_event("last")
    assert [event for event, _ in client.events] == ["last"]
    assert await edge.metric("roomcast_invalid_total") == 2000
    lines = [line for line in edge.log.splitlines() if "cast dropped" in line]
    assert 2 <= len(lines) <= 8, lines


async def test_a_subject_cannot_break_a_line_of_the_log(stage: Arena, stock: StockClient, prefix: str):
    edge = stage.edges[0]
    client = await stage.client(0)
    await stage.bus.join(client.id, "room")
    await stock.publish(f"{prefix}.room.room.bad\x1b[31m\u2028\x85\x0bINFO", b"{}")
    await stock.publish(f"{prefix}.room.room.last", b"{}")
    await client.hears_event("last")
    [line] = [line for line in edge.log.splitlines() if "INFO" in line and "bad" in line]
    assert "cast dropped" in line
    assert "\x1b" not in line


# -- the API -----------------------------------------------------------------------------------------------------------


async def test_the_api_by_plain_requests(stage: Arena, stock: StockClient, prefix: str):
    api = Api(stock, prefix)
    clients = await stage.clients(3)
    zero, one = (edge.id for edge in stage.edges)
    for client in clients:
        answer, headers = await api.ask("change", {"id": client.id, "join": ["team-alpha", "a b"], "leave": ["never"]})
        assert answer["changed"] is True
        assert not headers
    direct = await stock.request(f"{prefix}.socket.{clients[0].id}", b'{"join":"one room as a text"}')
    assert json.loads(direct.data) == {"changed": True, "edge": zero}

    answer, _ = await api.ask("move", {"from": "team-alpha", "join": ["events"]})
    assert (answer["matched"], answer["changed"], answer["missing"]) == (3, 3, [])
    assert answer["edges"] == {zero: {"matched": 2, "changed": 2}, one: {"matched": 1, "changed": 1}}
    move = {"id": "my-own_id", "from": "team-alpha", "leave": ["events"]}
    first, _ = await api.ask("move", move)
    await api.ask("change", {"id": clients[0].id, "join": "events"})
    again, _ = await api.ask("move", move)
    assert again == first, "a retry with the same id is the same move"
    assert await api.ask("count", {"room": "events"}) == ({"count": 1, "missing": []}, {})
    assert await api.refused("move", {**move, "join": ["other"]}) == ("conflict", "409")

    answer, _ = await api.ask("get", {"id": clients[0].id})
    assert answer["socket"]["rooms"] == ["a b", "events", "one room as a text", "team-alpha"]
    members, cursor = [], None
    while True:
        page, _ = await api.ask("members", {"room": "a b", "cursor": cursor})
        members += page["members"]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert sorted(member["id"] for member in members) == sorted(client.id for client in clients)

    answer, _ = await api.ask("change", {"id": clients[1].id, "disconnect": {"reason": "enough"}})
    assert await clients[1].is_closed() == 4502
    answer, _ = await api.ask("move", {"from": "team-alpha", "disconnect": "all of you"})
    assert answer["changed"] == 2
    assert [await client.is_closed() for client in clients] == [4502] * 3


async def test_refusals_say_why(stage: Arena, stock: StockClient, prefix: str):
    api = Api(stock, prefix)
    client = await stage.client(0)
    long = "x" * 256
    wrong: list[tuple[str, Any]] = [
        *[(verb, body) for verb in ("change", "move", "members", "count") for body in (b"{", b"\xff", [], 5, "text")],
        *[("move", body) for body in ({}, {"from": "a"}, {"from": 5, "join": "b"}, {"from": "", "join": "b"})],
        *[("move", {"from": "a", "join": rooms}) for rooms in (5, long, [5], [None], {"b": 1}, ["a"] * 3 + [""])],
        ("move", {"from": "a", "join": [str(number) for number in range(101)]}),
        ("move", {"from": "a", "join": "b", "leave": ["b"]}),
        ("move", {"from": "a", "leave_all": "yes"}),
        ("move", {"from": "a", "join": "b", "id": "not an id"}),
        ("move", {"from": "a", "join": "b", "id": 5}),
        ("move", {"from": "a", "join": "b", "confirm": "$SYS.anything"}),
        ("move", {"from": "a", "join": "b", "confirm": "_INBOX.a b"}),
        ("move", {"from": "a", "disconnect": "x" * 124}),
        *[("count", {"room": "a", "timeout": timeout}) for timeout in (0, -1, 1e9, "5", None, True)],
        *[("count", {"room": room}) for room in (5, "", long, None)],
        *[("members", {"room": "a", "cursor": cursor}) for cursor in (5, "x", [], {}, {"edges": 5})],
        ("change", {"id": client.id, "join": 5}),
    ]
    for verb, body in wrong:
        assert await api.refused(verb, body) == ("bad_request", "400"), (verb, body)
    for unknown in (None, 5, "", "room", "a0000000.AAAAAAAAAAAAAAAA", client.id + "x", "*.>", "a b"):
        for verb in ("change", "get"):
            assert await api.refused(verb, {"id": unknown, "join": "a"}) == ("not_found", "404"), unknown
    assert all("Traceback" not in edge.log for edge in stage.edges)


async def test_no_request_makes_an_edge_fail(stage: Arena, stock: StockClient, prefix: str):
    # Whatever the fields hold, the answer is an object: what was asked for, or a refusal that is the caller's fault.
    api = Api(stock, prefix)
    client = await stage.client(0)
    await stage.bus.join(client.id, "room")
    source = random.Random(3)
    odd = [
        *[None, True, 0, -1, 1e300, 2**70, "", "room", "*", ">", "a.b", "\x00", "\ud83d\ude00", "x" * 300, "_INBOX.a"],
        *[[], ["room"], [["room"]], [None], [1], {}, {"reason": 5}, {"edges": ["a"], "after": 1, "missing": []}],
        *[{"edges": [1], "after": "", "missing": 0}, {"edges": ["*"], "after": "", "missing": []}, client.id],
    ]
    keys = ["id", "from", "join", "leave", "leave_all", "room", "cursor", "confirm", "op", "event", "answer"]

    async def one(number: int) -> None:
        verb = source.choice(["change", "get", "call", "move", "members", "count"])
        body = {key: source.choice(odd) for key in source.sample(keys, source.randint(0, 6))} | {"timeout": 0.5}
        if verb in ("members", "count"):
            body.setdefault("room", "room")
        answer, _ = await api.ask(verb, body)
        assert answer.get("error", {}).get("code") != "internal", (number, verb, body, answer)

    for start in range(0, 600, 20):
        await asyncio.gather(*[one(start + number) for number in range(20)])
    for edge in stage.edges:
        assert "Traceback" not in edge.log, edge.log[-3000:]
        assert (await edge.get("/readyz"))[0] == 200


async def test_nats_own_discovery_shows_the_api(stage: Arena, stock: StockClient, prefix: str):
    async def told(subject: str) -> list[dict[str, Any]]:
        inbox = stock.new_inbox()
        answers: list[dict[str, Any]] = []

        async def take(message: Any) -> None:
            answers.append(json.loads(message.data))

        subscription = await stock.subscribe(inbox, cb=take)
        await stock.publish(subject, b"", reply=inbox)
        mine: list[dict[str, Any]] = []

        def both() -> bool:
            mine[:] = [row for row in answers if row["metadata"].get("prefix") == prefix]
            return len(mine) == 2

        await until(both, what="both edges answer")
        await subscription.unsubscribe()
        return mine

    pings, infos = await told("$SRV.PING.roomcast"), await told("$SRV.INFO")
    for answers in (pings, infos):
        assert {row["metadata"]["edge"] for row in answers} == {edge.id for edge in stage.edges}
        assert {row["name"] for row in answers} == {"roomcast"}
    for row in infos:
        subjects = {endpoint["subject"]: endpoint["queue_group"] for endpoint in row["endpoints"]}
        verbs = ("change", "get", "call", "move", "members", "count")
        assert subjects == {f"{prefix}.api.{verb}": "edges" for verb in verbs}
