"""Who may connect, by real clients: tokens and what carries them, a service that is asked, expiry and renewal."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from roomcast import Bus, Grant, Handshake, Lifecycle, NotFound, Request, Unauthorized
from support.edges import EdgeProcess
from support.nats_servers import NatsServer
from support.raw_client import RawClient, text
from support.tokens import SECRET, KeyPair, forged, signed, write_jwks
from support.until import until
from support.websocket_client import Client

Carried = dict[str, Any]


def bearer(token: str) -> Carried:
    """The options of a client that carries a token in a header."""
    return {"headers": {"Authorization": f"Bearer {token}"}}


async def refused(url: str, **options: Any) -> tuple[int, str]:
    """The close code and the reason that a client hears that is not let in, and nothing before them."""
    headers = options.pop("headers", None)
    async with connect(url, proxy=None, additional_headers=headers, **options) as ws:
        with pytest.raises(ConnectionClosed) as closed:
            told = await asyncio.wait_for(ws.recv(), 10)
            raise AssertionError(f"it was let in: {told!r}")
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def left_nothing(bus: Bus, edge: EdgeProcess, prefix: str) -> None:
    """Nobody is in, and the bucket has no record."""
    assert await edge.metric("roomcast_sockets") == 0
    stream = await bus.nats.jetstream().stream_info(f"KV_{prefix}", subjects_filter=f"$KV.{prefix}.socket.>")
    assert not stream.state.subjects
    assert "Traceback" not in edge.log


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "carried",
    [
        lambda token: ("", bearer(token)),
        lambda token: ("", {"subprotocols": ["roomcast.v1", f"roomcast.token.{token}"]}),
        lambda token: (f"?token={token}", {}),
    ],
    ids=["header", "subprotocol", "query"],
)
async def test_a_token_is_carried_and_grants(nats: NatsServer, prefix: str, start_edge, carried):
    edge = await start_edge(nats.urls, auth="jwt", jwt_secret=SECRET, client_rooms="lobby", log_level="debug")
    token = signed("ann", rooms=["news"], client_rooms=["chat-*"], data={"plan": "gold"})
    query, options = carried(token)
    async with Bus.connect(nats.url, prefix=prefix, name="who") as bus:

        @bus.action("who")
        async def who(req: Request) -> Any:
            return [req.user, req.socket.data if req.socket else None]

        async with bus.serving():
            client = await Client.open(edge.url + query, **options)
            assert client.ws.subprotocol in (None, "roomcast.v1"), "no token is said back"
            assert (await client.emit("who"))["data"] == ["ann", {"plan": "gold"}]
            socket = await bus.get(client.id)
            assert socket is not None
            assert (socket.user, socket.data, socket.rooms) == ("ann", {"plan": "gold"}, {"user.ann", "news"})
            await bus.broadcast("user.ann", "hello", 1)
            assert await client.hears_event("hello") == 1
            assert "data" in await client.emit("bus:join", {"room": "chat-7"})
            for room in ("lobby", "user.ann", "user.bob", client.id):  # the settings are for those without patterns
                assert (await client.emit("bus:join", {"room": room}))["error"]["code"] == "forbidden"
            await client.close()
        bad, options = carried(signed("ann", "another secret that is long enough to be one"))
        assert await refused(edge.url + bad, **options) == (4500, "the token does not verify")
        old, options = carried(signed("ann", exp=int(time.time()) - 60))
        assert await refused(edge.url + old, **options) == (4501, "the token has expired")
        await until(lambda: edge.log.count("a token is refused") >= 1, what="a debug line")
        for secret in (token, SECRET, client.session, client.session.split(".")[2]):
            assert secret not in edge.log


async def test_who_is_refused_leaves_nothing_and_hears_why(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(
        nats.urls, auth="jwt", jwt_secret=SECRET, jwt_issuer="us", jwt_audience="chat", jwt_leeway=0
    )
    right = {"iss": "us", "aud": "chat"}
    told: list[Lifecycle] = []
    async with Bus.connect(nats.url, prefix=prefix, name="presence") as bus:

        @bus.on_connect
        async def connected(event: Lifecycle) -> None:
            told.append(event)

        async with bus.serving():
            for token, code in (
                ("", 4500),
                ("rubbish", 4500),
                (forged({"alg": "none"}, {"sub": "root", **right}), 4500),
                (signed(**{**right, "aud": "mail"}), 4500),
                (signed(**{**right, "iss": "them"}), 4500),
                (signed(**right, rooms="news"), 4500),
                (signed(**right, nbf=int(time.time()) + 60), 4500),
                (signed(**right, exp=int(time.time()) - 1), 4501),
            ):
                assert (await refused(edge.url, **bearer(token)))[0] == code, token
            await left_nothing(bus, edge, prefix)
            client = await Client.open(edge.url, **bearer(signed(**right)))
            await until(lambda: told, what="the one session that begins")
            assert [event.id for event in told] == [client.id]
            assert told[0].user == "ann"
            await client.close()
        assert await edge.metric('roomcast_handshakes_total{outcome="denied"}') == 8


async def test_keys_are_replaced_while_the_edge_runs(nats: NatsServer, start_edge, tmp_path: Path):
    path, old, new = tmp_path / "keys.json", KeyPair("RS256", "old"), KeyPair("EdDSA", "new")
    write_jwks(path, old.jwk)
    edge = await start_edge(nats.urls, auth="jwt", jwt_keys=path)
    client = await Client.open(edge.url, **bearer(old.sign()))
    assert (await refused(edge.url, **bearer(new.sign())))[0] == 4500
    write_jwks(path, new.jwk)

    async def let_in() -> bool:
        try:
            other = await Client.open(edge.url, **bearer(new.sign("bob")))
        except ConnectionClosed:
            return False
        await other.close()
        return True

    await until(let_in, 8, "the new key is good")
    assert (await refused(edge.url, **bearer(old.sign())))[0] == 4500
    path.write_text("{")
    await until(lambda: "the keys of before are kept" in edge.log or let_in(), 5, "the broken file is looked at")
    assert await let_in()
    assert (await client.emit("bus:ping"))["data"] == {}, "whoever is in stays"
    await client.close()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"jwt_secret": "short"}, "less than 32 bytes"),
        ({}, "--auth jwt needs --jwt-secret, or --jwt-keys"),
        ({"jwt_keys": "/nowhere/keys.json"}, "/nowhere/keys.json: No such file"),
        ({"auth": "none", "jwt_secret": SECRET}, "--auth is none"),
    ],
)
async def test_settings_that_let_nobody_in_end_in_one_line(nats: NatsServer, prefix: str, settings: Carried, line: str):
    edge = await EdgeProcess(nats.urls, prefix, **{"auth": "jwt", **settings}).start(ready=False)
    assert edge.process is not None
    assert await asyncio.wait_for(edge.process.wait(), 30) == 2
    assert line in edge.log
    assert len(edge.log.splitlines()) == 1, edge.log
    assert "short" not in edge.log.replace("shorter", "")
    await edge.close()


# -- expiry and renewal ------------------------------------------------------------------------------------------------


async def test_a_socket_ends_when_its_token_does_unless_it_sends_another(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, auth="jwt", jwt_secret=SECRET, jwt_leeway=0)
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        expires = int(time.time()) + 3
        ending, renewing = [await Client.open(edge.url, **bearer(signed(exp=expires))) for _ in range(2)]
        later = int(time.time()) + 600
        token = signed(exp=later, rooms=["late"], client_rooms=["x-*"], data=2)
        assert (await renewing.emit("bus:token", {"token": token}))["data"] == {"expires": later}
        assert await ending.is_closed(10) == 4501
        assert expires <= time.time() < expires + 1.5
        assert (await renewing.emit("bus:join", {"room": "x-1"}))["data"] == {"room": "x-1"}
        socket = await bus.get(renewing.id)
        assert socket is not None
        assert (socket.rooms, socket.data) == ({"user.ann", "late", "x-1"}, 2)
        again = await Client.open(edge.url, ending.session, **bearer(signed(exp=later)))
        assert not again.resumed, "nothing is left of a session that has expired"
        soon = int(time.time()) + 2
        assert (await again.emit("bus:token", {"token": signed(exp=soon)}))["data"] == {"expires": soon}
        assert await again.is_closed(10) == 4501, "a token may also make it shorter"
        await renewing.close()


async def test_a_renewal_that_is_refused_changes_nothing(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, auth="jwt", jwt_secret=SECRET, jwt_leeway=0)
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        expires = int(time.time()) + 5
        client = await Client.open(edge.url, **bearer(signed(exp=expires, rooms=["a"])))
        for data, code in (
            ({"token": signed("bob", rooms=["b"])}, "forbidden"),
            ({"token": signed(None)}, "forbidden"),
            ({"token": "rubbish"}, "unauthorized"),
            ({"token": signed(exp=int(time.time()) - 9)}, "unauthorized"),
            ({"token": ""}, "bad_request"),
            ({}, "bad_request"),
            ("text", "bad_request"),
            (None, "bad_request"),
        ):
            assert (await client.emit("bus:token", data))["error"]["code"] == code, data
        assert await bus.rooms(client.id) == {"user.ann", "a"}
        assert await client.is_closed(10) == 4501
        assert time.time() >= expires
        assert "Traceback" not in edge.log


async def test_where_nobody_asks_for_tokens_none_is_taken(nats: NatsServer, start_edge):
    edge = await start_edge(nats.urls)
    client = await Client.open(edge.url, **bearer("rubbish"))
    assert (await client.emit("bus:token", {"token": signed()}))["error"]["code"] == "unauthorized"
    assert (await client.emit("bus:ping"))["data"] == {}
    await client.close()


async def test_a_session_is_its_users_alone(nats: NatsServer, prefix: str, start_edge):
    edges = [await start_edge(nats.urls, auth="jwt", jwt_secret=SECRET) for _ in range(2)]
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        ann = await Client.open(edges[0].url, **bearer(signed("ann", data=1)))
        await bus.join(ann.id, "secret plans")
        thieves = [
            await Client.open(edge.url, ann.session, **bearer(signed(name))) for edge in edges for name in ("bob", None)
        ]
        for thief in thieves:
            assert not thief.resumed
            assert thief.id != ann.id
            assert "secret plans" not in await bus.rooms(thief.id)
        assert (await ann.emit("bus:ping"))["data"] == {}, "and nobody is thrown out"
        ann.drop()
        back = await Client.open(edges[1].url, ann.session, **bearer(signed("ann", data=2, rooms=["new"])))
        assert back.resumed
        socket = await bus.get(back.id)
        assert socket is not None
        assert (socket.rooms, socket.data) == ({"user.ann", "secret plans", "new"}, 2), "the fresh grant counts"
        for client in (*thieves, back):
            await client.close()


async def test_a_person_is_disconnected_everywhere(nats: NatsServer, prefix: str, start_edge):
    edges = [await start_edge(nats.urls, auth="jwt", jwt_secret=SECRET) for _ in range(2)]
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        mine = [await Client.open(edges[n % 2].url, **bearer(signed("4.2"))) for n in range(3)]
        other = await Client.open(edges[0].url, **bearer(signed("4")))
        result = await bus.disconnect("user.4.2", reason="signed out")
        assert (result.matched, result.changed) == (3, 3)
        assert {edge: row.changed for edge, row in result.edges.items()} == {edges[0].id: 2, edges[1].id: 1}
        for client in mine:
            assert await client.is_closed() == 4502
            assert client.close_reason == "signed out"
        assert await bus.count("user.4.2") == 0
        assert (await other.emit("bus:ping"))["data"] == {}
        assert (await bus.disconnect("user.4.2")).matched == 0
        await other.close()


# -- a service is asked ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def doorkeeper(nats: NatsServer, prefix: str) -> AsyncIterator[tuple[Bus, list[Handshake]]]:
    """A service that grants by the token: a user's name, or what is to go wrong."""
    asked: list[Handshake] = []
    async with Bus.connect(nats.url, prefix=prefix, name="door") as bus:

        @bus.authenticate
        async def admit(handshake: Handshake) -> Grant | None:
            asked.append(handshake)
            match handshake.token:
                case "nobody":
                    return None
                case "banned":
                    raise Unauthorized("you are banned until Monday")
                case "unknown":
                    raise NotFound("no such user")
                case "broken":
                    raise RuntimeError("the password of the database is hunter2")
                case "rubbish":
                    return {"user": "root"}  # type: ignore[return-value]
            return Grant(user=handshake.token or None, rooms=["news"], data={"via": "door"})

        async with bus.serving():
            yield bus, asked


async def test_a_service_grants_and_refuses(nats: NatsServer, prefix: str, start_edge, caplog):
    edge = await start_edge(nats.urls, auth="bus", proxies=1, log_level="debug")
    async with doorkeeper(nats, prefix) as (bus, asked):
        for token, why in (
            ("nobody", (4500, "refused")),
            ("banned", (4500, "you are banned until Monday")),
            ("unknown", (4500, "no such user")),
            ("broken", (1013, "nobody can say who may connect")),
            ("rubbish", (1013, "nobody can say who may connect")),
        ):
            assert await refused(edge.url, **bearer(token)) == why
        await left_nothing(bus, edge, prefix)
        asked.clear()
        url = f"{edge.url}?lang=de&lang=en&x=%C3%BC"
        headers = {"Authorization": "Bearer ann", "X-Forwarded-For": "6.6.6.6, 1.2.3.4", "Cookie": "sid=7"}
        client = await Client.open(url, headers=headers)
        [told] = asked
        assert (told.token, told.path, told.address) == ("ann", "/ws", "1.2.3.4")
        assert told.query == {"lang": "de", "x": "ü"}
        assert told.headers["cookie"] == "sid=7"
        assert told.auth == {}
        socket = await bus.get(client.id)
        assert socket is not None
        assert (socket.user, socket.rooms, socket.data) == ("ann", {"user.ann", "news"}, {"via": "door"})
        await client.close()
        assert "the service on" in edge.log
        assert "hunter2" not in edge.log
        assert "hunter2" in caplog.text, "the cause is in the service's log"


async def test_a_service_renews(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, auth="bus", action_timeout=1)
    async with doorkeeper(nats, prefix) as (_, asked):
        client = await Client.open(edge.url, **bearer("ann"))
        assert (await client.emit("bus:token", {"token": "ann"}))["data"] == {"expires": None}
        for token, code in (("bob", "forbidden"), ("banned", "unauthorized"), ("broken", "unavailable")):
            assert (await client.emit("bus:token", {"token": token}))["error"]["code"] == code
        assert asked[-1] == Handshake(token="broken"), "a token alone"
    assert (await client.emit("bus:token", {"token": "ann"}))["error"]["code"] == "unavailable"
    await client.close()


async def test_without_a_service_clients_come_back_later(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, auth="bus", action_timeout=1)
    for _ in range(3):
        assert await refused(edge.url) == (1013, "nobody can say who may connect")
    assert f"no service answers on {prefix}.auth: nobody listens" in edge.log
    assert edge.log.count("a client is sent away") == 1, "not a line for each client"
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.nats.subscribe(f"{prefix}.auth")  # which never answers
        await bus.flush()
        began = time.monotonic()
        assert (await refused(edge.url))[0] == 1013
        assert time.monotonic() - began < 3
        await left_nothing(bus, edge, prefix)


RUBBISH: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"ann"',
    b"{",
    b"\xff",
    b'{"user":7}',
    b'{"user":""}',
    b'{"user":["ann"]}',
    b'{"user":"ann","rooms":"news"}',
    b'{"user":"ann","rooms":[null]}',
    b'{"user":"ann","expires":"soon"}',
    b'{"user":"ann","expires":-1}',
    b'{"user":"ann","client_rooms":7}',
    b'{"user":"ann","data":' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"error":7}',
    b'{"error":{"code":"internal"}}',
    b'{"error":{"code":["x"]}}',
]


async def test_rubbish_from_a_service_lets_nobody_in(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, auth="bus", action_timeout=1)
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        answers = iter(RUBBISH)

        async def answer(message: Any) -> None:
            await message.respond(next(answers))

        await bus.nats.subscribe(f"{prefix}.auth", cb=answer)
        await bus.flush()
        for rubbish in RUBBISH:
            code, _ = await refused(edge.url)
            assert code in (1013, 4500), rubbish
        assert next(answers, None) is None, "each was asked for"
        await left_nothing(bus, edge, prefix)


async def test_a_grant_that_is_too_large_to_be_kept_lets_nobody_in(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, auth="bus")
    async with Bus.connect(nats.url, prefix=prefix) as bus:

        async def answer(message: Any) -> None:
            await message.respond(json.dumps({"data": "x" * (bus.nats.max_payload - 20)}).encode())

        await bus.nats.subscribe(f"{prefix}.auth", cb=answer)
        await bus.flush()
        assert (await refused(edge.url))[0] == 1013
        assert "bytes; NATS takes" in edge.log
        assert "Traceback" not in edge.log
        assert await edge.metric("roomcast_sockets") == 0


async def test_what_a_client_makes_up_is_passed_on_or_refused(nats: NatsServer, prefix: str, start_edge):
    edge = await start_edge(nats.urls, auth="bus")
    async with doorkeeper(nats, prefix) as (_, asked):
        raw = await RawClient.dial(edge.port)
        assert (await raw.upgrade("/ws?x=%FF%00&token=%ED%A0%80", X_Name="Zo\xeb\xff"))[0] == 101
        await raw.message()
        assert asked[-1].query["x"] == "\ufffd\x00"
        raw.drop()
        deep = await RawClient.dial(edge.port)
        assert (await deep.upgrade("/socket.io/?EIO=4&transport=websocket"))[0] == 101
        await deep.frame()
        deep.send(text(b'40{"a":' + b"[" * 300 + b"]" * 300 + b"}"))
        assert await deep.closing() == (4500, "the auth is nested too deeply")
        assert "Traceback" not in edge.log
        assert "a client is sent away" not in edge.log
        deep.drop()


# -- whatever a stranger sends -----------------------------------------------------------------------------------------


TARGETS = ["/ws", "?", "token=", "&", "session=", "%", "%00", "%ff", "=", ".", "x" * 300, "//", "#", "@", "é", "a.b.c"]
FIELDS = ["Authorization", "Roomcast_Session", "Sec_WebSocket_Protocol", "Origin", "X_Forwarded_For", "Host", "Upgrade"]
FIELDS += ["Sec_WebSocket_Key", "Sec_WebSocket_Version", "Connection", "Content_Length", "Transfer_Encoding"]
VALUES = ["", " ", "Bearer", "Bearer ", "Bearer a.b.c", "\xff" * 20, "x" * 9000, "roomcast.v1, ,,roomcast.token.", "é"]
VALUES += ["\t", ",", "0"]


def odd_fields(rng: random.Random) -> dict[str, str | None]:
    """Headers of a request, most of them well, some not."""
    return {rng.choice(FIELDS): rng.choice([*VALUES, None]) for _ in range(rng.randrange(4))}


@pytest.mark.parametrize("auth", ["jwt", "bus"])
async def test_no_handshake_that_was_made_up_gets_through(nats: NatsServer, prefix: str, start_edge, auth: str):
    more = {"jwt_secret": SECRET} if auth == "jwt" else {}
    edge = await start_edge(nats.urls, auth=auth, proxies=1, log_level="debug", **more)
    rng = random.Random(7)

    async def admit(handshake: Handshake) -> Grant | None:
        json.dumps(handshake.to_json(), ensure_ascii=False).encode()
        return None

    async with Bus.connect(nats.url, prefix=prefix, name="door") as bus:
        bus.authenticate(admit)
        async with bus.serving():
            for _ in range(300):
                client = await RawClient.dial(edge.port)
                if rng.random() < 0.2:
                    client.send(rng.randbytes(rng.randrange(200)) + b"\r\n\r\n")
                    status, _ = await client.response()
                else:
                    target = "/ws?" + "".join(rng.choices(TARGETS, k=rng.randrange(8)))
                    status, _ = await client.upgrade(target, **odd_fields(rng))
                if status == 101:
                    code, _ = await client.closing()
                    assert code == 4500
                else:
                    assert status in (0, 400, 404, 405, 413, 414, 426, 431, 501, 505), status
                client.drop()
            good = await RawClient.dial(edge.port)
            assert (await good.upgrade(f"/ws?token={signed()}"))[0] == 101
            assert (auth == "jwt") == ((await good.frame())[0] == 1), "who is good is let in still"
            good.drop()
        await until(lambda: no_sockets(edge), what="all are gone")
        assert "Traceback" not in edge.log


async def no_sockets(edge: EdgeProcess) -> bool:
    """Whether it holds none."""
    return await edge.metric("roomcast_sockets") == 0
