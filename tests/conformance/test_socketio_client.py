"""The npm package socket.io-client 4, as it is, across two edges."""

from __future__ import annotations

import json

import pytest

from support.npm import HOME
from support.socketio_clients import Node
from support.socketio_scenario import Scenario


@pytest.fixture
async def kind(node_modules):
    async with Node() as node:
        yield node


class TestSocketIoClient(Scenario):
    """All of the scenario, and what only this client shows."""

    async def test_the_server_pings(self, stage):
        client = await stage.client()
        await client.sees("ping", 3)
        assert client.all("disconnect") == []

    async def test_recovered_stays_false(self, stage):
        client = await stage.settled_guest()
        await stage.bus.broadcast("team", "text", "which the client takes for an offset")
        await client.hears("text", "which the client takes for an offset")
        stage.front.cut()
        again = await client.sees("connect", 2)
        first = client.all("connect")[0]
        assert [first["recovered"], again["recovered"]] == [False, False]
        assert first["id"] == again["id"]

    async def test_the_client_is_told_why(self, stage):
        client = await stage.settled_guest()
        await stage.edges[0].stop()
        end = await client.sees("disconnect")
        assert (end["reason"], end["code"], end["active"]) == ("transport close", 1012, True)
        assert "come back" in end["why"]
        await client.sees("connect", 2, 20)

    async def test_who_was_kicked_may_connect_again_as_a_new_socket(self, stage):
        client = await stage.client()
        before = client.id
        await stage.bus.disconnect(client.id)
        await client.sees("disconnect")
        client.tell("open")
        await client.sees("connect", 2)
        assert client.id != before

    async def test_binary_that_wants_no_answer_closes_the_transport_with_the_reason(self, stage):
        client = await stage.client()
        client.tell("emit", args=["upload"], bytes=[0, 255])
        end = await client.sees("disconnect")
        assert (end["reason"], end["code"]) == ("transport close", 1003)
        assert "binary" in end["why"]
        await client.sees("connect", 2)
        assert await client.ask("bus:ping") == {}


def test_the_lock_file_names_versions_and_no_registry():
    lock = json.loads((HOME / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert lock["packages"]["node_modules/socket.io-client"]["version"].startswith("4.")
