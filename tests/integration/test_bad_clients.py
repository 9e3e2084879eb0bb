"""Clients that break the rules: each gets the answer that is laid down, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from roomcast_edge.settings import Settings
from support.arena import Arena, arena
from support.raw_client import BINARY, CLOSE, CONTINUATION, NO_CODE, PING, PONG, TEXT, RawClient, frame, text
from support.until import until

LIMIT = 4096


@pytest.fixture
async def stage(nats, prefix, start_edge) -> AsyncIterator[Arena]:
    """One edge with short deadlines, and a good client in a room that is cast to all the while."""
    settings = {"message_limit": LIMIT, "handshake_timeout": 0.5, "close_timeout": 0.4, "client_rooms": "chat-*"}
    async with arena([nats.urls], nats.url, prefix, start_edge, **settings) as made:
        good = await made.client()
        await made.bus.join(good.id, "room")
        count = 0

        async def cast_on() -> None:
            nonlocal count
            while True:
                await made.bus.broadcast("room", "tick", count)
                count += 1
                await asyncio.sleep(0.002)

        casting = asyncio.create_task(cast_on())
        yield made
        casting.cancel()
        await asyncio.gather(casting, return_exceptions=True)
        [heard] = await made.heard(good)
        assert [data for _, data in heard] == list(range(count)), "the good client beside missed something"
        assert count > 0
        edge = made.edges[0]
        for sign in ("Traceback", "CRITICAL", "ERROR", "failed"):
            assert sign not in edge.log, edge.log[-3000:]
        await until(lambda: _is_alone(made), what="nothing is left of the bad ones")


async def _is_alone(stage: Arena) -> bool:
    return await stage.edges[0].metric("roomcast_sockets") == 1


HALF = b'{"event":"bus:ping","id":1,"data":"'

CLOSED = {
    "not JSON": (text(b"hello"), 1008),
    "an empty text": (text(b""), 1008),
    "JSON that is cut off": (text(b'{"event":"a"'), 1008),
    "NaN": (text(b'{"event":"a","data":NaN}'), 1008),
    "too deep": (text(b"[" * 2000), 1008),
    "an array": (text([]), 1008),
    "a number": (text(5), 1008),
    "null": (text(None), 1008),
    "no event": (text({"data": 1}), 1008),
    "an empty event": (text({"event": ""}), 1008),
    "an event that is no text": (text({"event": {}}), 1008),
    "an id that is an object": (text({"event": "a", "id": {}}), 1008),
    "an id that is true": (text({"event": "a", "id": True}), 1008),
    "a room that is not granted, without id": (text({"event": "bus:join", "data": {"room": "x"}}), 1008),
    "a reserved event, without id": (text({"event": "connect"}), 1008),
    "an event that is too long, without id": (text({"event": "x" * 256}), 1008),
    "binary": (frame(BINARY, b"{}"), 1003),
    "empty binary": (frame(BINARY), 1003),
    "binary in fragments": (frame(BINARY, b"{", fin=False), 1003),
    "too large": (text(b'"' + b"x" * LIMIT + b'"'), 1009),
    "far too large, announced only": (frame(TEXT, b"x" * 70_000)[:14], 1009),
    "a length of 2^63": (b"\x81\xff" + b"\xff" * 8 + b"abcd", 1009),
    "too large in fragments": (
        frame(TEXT, HALF, fin=False) + frame(CONTINUATION, b"x" * 1000, fin=False) * 5,
        1009,
    ),
    "fragments without an end": (frame(TEXT, HALF, fin=False) + frame(CONTINUATION, b"x", fin=False) * 5000, 1009),
    "empty fragments without an end": (frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 5000, 1009),
    "not masked": (frame(TEXT, b'{"event":"bus:ping","id":1}', masked=False), 1002),
    "not UTF-8": (text(b'{"event":"\xff"}'), 1007),
    "half a character at the end": (text('{"event":"ü'.encode()[:-1]), 1007),
    "a surrogate in UTF-8": (text(b'{"event":"\xed\xa0\x80"}'), 1007),
    "reserved bits": (frame(TEXT, b"{}", rsv=4), 1002),
    "an unknown opcode": (frame(0x3, b"{}"), 1002),
    "an unknown control opcode": (frame(0xB, b""), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"{}"), 1002),
    "a message within a message": (frame(TEXT, HALF, fin=False) + text({"event": "a"}), 1002),
    "a ping in fragments": (frame(PING, b"", fin=False), 1002),
    "a ping that is too long": (frame(PING, b"x" * 126), 1002),
    "a close of one byte": (frame(CLOSE, b"x"), 1002),
    "a close with a code that is none": (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
    "a close whose reason is not UTF-8": (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
}


async def test_what_closes_a_connection(stage: Arena):
    port = stage.edges[0].port

    async def try_it(name: str, data: bytes, code: int) -> str:
        client = await RawClient.greeted(port)
        await stage.bus.join(client.id, "room")  # it stands beside the good one, in the same room
        client.send(data)
        told, reason = await client.closing()
        await client.is_cut()
        return "" if told == code else f"{name}: {told} {reason!r} instead of {code}"

    wrong = await asyncio.gather(*[try_it(name, *case) for name, case in CLOSED.items()])
    assert not [line for line in wrong if line]
    for code in ("1002", "1003", "1007", "1008", "1009"):
        expected = sum(case[1] == int(code) for case in CLOSED.values())
        assert await stage.edges[0].metric(f'roomcast_closes_total{{code="{code}"}}') == expected


async def test_what_is_answered_with_an_error(stage: Arena):
    own = await RawClient.greeted(stage.edges[0].port)
    other = await stage.client()
    cases = [
        ({"data": 1}, "bad_request"),
        ({"event": ""}, "bad_request"),
        ({"event": 5}, "bad_request"),
        *[({"event": event}, "bad_request") for event in ("connect", "disconnect", "connect_error", "bus:", "bus:x")],
        *[
            ({"event": "bus:join", "data": data}, "bad_request")
            for data in (None, {}, 5, [], {"room": 5}, {"room": ""})
        ],
        ({"event": "bus:join", "data": {"room": "chat-" + "x" * 251}}, "bad_request"),
        ({"event": "bus:join", "data": {"rooms": ["chat-1", 5]}}, "bad_request"),
        ({"event": "bus:join", "data": {"room": ["chat-1"] * 101}}, "bad_request"),
        *[
            ({"event": "bus:join", "data": {"room": room}}, "forbidden")
            for room in ("room", "Chat-1", "a-chat-1", "user.1", other.id, own.id, "*", "chat")
        ],
        ({"event": "bus:join", "data": {"room": ["chat-1", "room"]}}, "forbidden"),
        ({"event": "x" * 256}, "bad_request"),
        ({"event": "nobody.answers", "data": {}}, "no_service"),
    ]
    for number, (message, code) in enumerate(cases):
        own.send(text({**message, "id": number}))
        answer = await own.message()
        assert (answer["id"], answer["error"]["code"]) == (number, code), (message, answer)
        assert answer["error"]["message"]
    own.send(text({"event": "bus:join", "data": {"room": "chat-1"}, "id": "granted", "unknown": "keys"}))
    assert await own.message() == {"id": "granted", "data": {"room": "chat-1"}}
    assert await stage.bus.rooms(own.id) == {"chat-1"}
    own.drop()
    await other.close()


async def test_a_grant_of_every_room_is_none_of_another_socket_or_user(nats, prefix, start_edge):
    edge = await start_edge(nats.urls, client_rooms="*")
    one, two = await RawClient.greeted(edge.port), await RawClient.greeted(edge.port)
    rooms = {two.id: False, one.id: False, "user.1": False, "user.": False, "user": True, "a\nb": True, "用户": True}
    for room, granted in rooms.items():
        one.send(text({"event": "bus:join", "data": {"room": room}, "id": 1}))
        answer = await one.message()
        assert ("data" in answer) is granted, (room, answer)
    one.drop()
    two.drop()


async def test_what_is_unusual_but_right(stage: Arena):
    client = await RawClient.greeted(stage.edges[0].port)
    whole = json.dumps({"event": "bus:ping", "id": "ü", "data": "ü😀"}, ensure_ascii=False).encode()
    parts = [whole[i : i + 1] for i in range(len(whole))]  # each byte a fragment, through the characters, with pings
    client.send(frame(TEXT, b"", fin=False))
    for number, part in enumerate(parts):
        client.send(frame(CONTINUATION, part, fin=False))
        if number % 16 == 0:
            client.send(frame(PING, b"%d" % number))
            assert await client.frame() == (PONG, b"%d" % number)
    client.send(frame(CONTINUATION, b""))
    assert await client.message() == {"id": "ü", "data": {}}
    for byte in text({"event": "bus:ping", "id": 1.5}):
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert await client.message() == {"id": 1.5, "data": {}}
    client.send(frame(PONG, b"unasked") + text({"event": "nobody.answers.and.nobody.asks"}))
    client.send(b"".join(text({"event": "bus:ping", "id": number}) for number in range(300)))
    assert [(await client.message())["id"] for _ in range(300)] == list(range(300))
    client.send(frame(CLOSE, (1000).to_bytes(2, "big") + b"bye") + text(b"after the end"))
    assert await client.closing() == (1000, "bye")
    assert await client.is_cut()


async def test_who_does_not_answer_a_close_is_cut_off(stage: Arena):
    client = await RawClient.greeted(stage.edges[0].port)
    client.send(frame(BINARY, b"x"))
    assert (await client.closing())[0] == 1003
    client.send(text({"event": "bus:ping", "id": 1}) * 100)
    assert await client.is_cut(within=3)


async def test_requests_past_the_limit_are_refused_at_once_and_none_is_lost(stage: Arena, prefix: str):
    taken: list[Msg] = []
    limit = Settings().requests_per_socket

    async def take(message: Msg) -> None:
        taken.append(message)

    await stage.bus.nats.subscribe(f"{prefix}.action.stuck", cb=take)
    await stage.bus.flush()
    client = await RawClient.greeted(stage.edges[0].port)
    client.send(b"".join(text({"event": "stuck", "id": number, "data": "x" * 3000}) for number in range(500)))
    for number in range(limit, 500):
        refused = await client.message()
        assert (refused["id"], refused["error"]["code"]) == (number, "too_many")
    await until(lambda: len(taken) == limit, what="the service has what the limit allows")
    for number, message in enumerate(taken):
        await message.respond(b"%d" % number)
    assert [(await client.message())["data"] for _ in range(limit)] == list(range(limit))
    client.send(text({"event": "stuck", "id": "again"}))
    await until(lambda: len(taken) > limit, what="there is room for more")
    client.drop()


# -- before there is a websocket ---------------------------------------------------------------------------------------


async def test_requests_that_become_no_websocket(stage: Arena):
    port = stage.edges[0].port
    cases: list[tuple[dict[str, str | None], set[int]]] = [
        ({"target": "/"}, {404}),
        ({"target": "/ws/"}, {404}),
        ({"target": "/nothing?here"}, {404}),
        ({"target": "//[/ws"}, {404}),
        ({"target": "//ws"}, {404}),
        ({"target": "*"}, {404}),
        ({"target": "http://localhost/ws"}, {101}),
        ({"target": "/ws?token=%ff%00&session=%0d%0a" + "&a" * 500}, {101}),
        ({"target": "/ws?" + "a" * 20_000}, {0, 400, 414, 431}),
        ({"method": "POST"}, {0, 400, 405}),
        ({"version": "1.0"}, {0, 400, 505}),
        ({"Upgrade": None}, {426}),
        ({"Upgrade": "h2c"}, {426}),
        ({"Connection": "close"}, {400, 426}),
        ({"Sec_WebSocket_Key": None}, {400}),
        ({"Sec_WebSocket_Key": "short"}, {400}),
        ({"Sec_WebSocket_Key": "\xff\xfe"}, {400}),
        ({"Sec_WebSocket_Version": "8"}, {400, 426}),
        ({"Content_Length": "5"}, {0, 400}),
        ({"Roomcast_Session": "\xff.\xfe.\xfd"}, {101}),
        ({"Roomcast_Session": "a0000000.AAAAAAAAAAAAAAAA.secret"}, {101}),
        ({"Authorization": "Bearer \xff"}, {101}),
        ({"Sec_WebSocket_Protocol": "\xff,,, ,"}, {0, 101, 400}),
        ({"Sec_WebSocket_Protocol": "other"}, {101}),
    ]
    for fields, expected in cases:
        client = await RawClient.dial(port)
        status, headers = await client.upgrade(**fields)  # type: ignore[arg-type]
        assert status in expected, (fields, status)
        if status == 101:
            assert (await client.message())["event"] == "connect"
            assert "sec-websocket-protocol" not in headers
            client.drop()
        else:
            assert await client.is_cut()


async def test_compression_is_not_accepted(stage: Arena):
    client = await RawClient.dial(stage.edges[0].port)
    status, headers = await client.upgrade(
        Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
        Sec_WebSocket_Protocol="other, roomcast.v1, roomcast.token.abc",
    )
    assert status == 101
    assert "sec-websocket-extensions" not in headers
    assert headers["sec-websocket-protocol"] == "roomcast.v1"
    assert (await client.message())["event"] == "connect"
    client.send(frame(TEXT, b"\xaa\x56\x2a\x00", rsv=4))
    assert (await client.closing())[0] == 1002


async def test_garbage_and_silence_instead_of_a_handshake(stage: Arena):
    port = stage.edges[0].port
    source = random.Random(5)
    garbage = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500),  # a TLS hello
        b"\r\n" * 1000,
        b"GET\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n: no name\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"GET /" + b"x" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 100_000,
        *[source.randbytes(source.randint(1, 2000)) + b"\r\n\r\n" for _ in range(30)],
    ]

    async def say(data: bytes) -> None:
        client = await RawClient.dial(port)
        client.send(data)
        status, _ = await client.response()
        assert status in (0, 400, 404, 414, 431, 505), (data[:50], status)
        assert await client.is_cut(), data[:50]

    async def dribble() -> None:
        client = await RawClient.dial(port)
        client.send(b"GET /ws HTTP/1.1\r\n")
        cut = asyncio.create_task(client.is_cut(3))
        while not cut.done():  # never quite silent, and never done
            client.send(b"X")
            await asyncio.wait({cut}, timeout=0.05)
        assert await cut

    async def be_silent() -> None:
        client = await RawClient.dial(port)
        assert await client.is_cut(3)

    await asyncio.gather(*[say(data) for data in garbage], dribble(), be_silent())
    assert await stage.edges[0].metric('roomcast_handshakes_total{outcome="timeout"}') >= 2


async def test_random_frames_never_hurt(stage: Arena):
    source = random.Random(9)
    port = stage.edges[0].port

    async def one(seed: int) -> None:
        mine = random.Random(seed)
        client = await RawClient.greeted(port)
        for _ in range(mine.randint(1, 20)):
            payload = mine.choice([b"", b"{}", b'{"event":"bus:ping","id":1}', mine.randbytes(mine.randint(0, 200))])
            client.send(
                frame(
                    mine.choice([TEXT] * 4 + [CONTINUATION, BINARY, PING, PONG, CLOSE, mine.randint(0, 15)]),
                    payload,
                    fin=mine.random() < 0.8,
                    masked=mine.random() < 0.97,
                    rsv=0 if mine.random() < 0.97 else mine.randint(1, 7),
                )
                if mine.random() < 0.95
                else mine.randbytes(mine.randint(1, 50))
            )
        client.send(frame(CLOSE, (1000).to_bytes(2, "big")))
        code, _ = await client.closing()
        assert code in (NO_CODE, 1000, 1002, 1003, 1005, 1007, 1008, 1009), code
        client.drop()

    for _ in range(5):
        await asyncio.gather(*[one(source.randint(0, 1 << 30)) for _ in range(30)])
