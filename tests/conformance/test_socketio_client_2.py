"""The npm package socket.io-client 2, as it is, across two edges."""

from __future__ import annotations

import jwt
import pytest

from roomcast import Bus
from support.socketio_clients import Node
from support.socketio_scenario import Scenario

SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture
async def kind(node_modules):
    async with Node("socket.io-client-2", carries_session="session") as node:
        yield node


class TestSocketIoClient2(Scenario):
    """All of the scenario, and what only this client shows."""

    async def test_the_client_pings_and_is_answered(self, stage):
        client = await stage.client()
        await client.sees("ping", 3)
        assert client.all("disconnect") == []

    async def test_a_client_that_returns_no_session_comes_back_as_a_new_socket(self, stage):
        client = await stage.guest(returns=False)
        before = client.id
        await stage.bus.join(client.id, "team")
        stage.front.cut()
        await client.sees("connect", 2)
        assert client.id != before
        assert await stage.bus.rooms(client.id) == frozenset()

    async def test_who_is_refused_is_told_why_and_stays_away(self, nats, prefix, start_edge, kind):
        edge = await start_edge(nats.urls, auth="jwt", jwt_secret=SECRET)
        address = f"http://127.0.0.1:{edge.port}"
        stranger = await kind.open(address, query="token=made-up", wait=False)
        assert (await stranger.sees("connect_error"))["message"] == "the token does not verify"
        assert (await stranger.sees("disconnect"))["reason"] == "io server disconnect"
        assert stranger.gave_up
        assert stranger.all("connect") == []
        token = jwt.encode({"sub": "ann", "rooms": ["team"]}, SECRET, "HS256")
        client = await kind.open(address, query=f"token={token}")
        async with Bus.connect(nats.url, prefix=prefix) as bus:
            found = await bus.get(client.id)
            assert (found.user, found.rooms) == ("ann", {"team", "user.ann"})

    async def test_its_dialect_is_told_apart(self, stage):
        client = await stage.client()
        assert await stage.edges[0].metric('roomcast_sockets{dialect="socketio2"}') == 1
        assert (await stage.bus.get(client.id)).id == client.id
