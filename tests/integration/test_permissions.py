"""A user of NATS whose permissions lack a subject hears so at once, with the subject's name, and not by a timeout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from roomcast import Bus, PermissionDenied, Request
from support.nats_servers import NatsServer
from support.until import until
from support.websocket_client import Client

PREFIX = "guarded"
CONFIG = f"""
authorization {{
  users: [
    {{ user: all, password: all }}
    {{ user: edge, password: edge, permissions: {{
        publish: {{ deny: ["{PREFIX}.action.secret.>", "{PREFIX}.auth"] }} }} }}
    {{ user: service, password: service, permissions: {{
        publish: {{ allow: ["_INBOX.>", "{PREFIX}.room.open.>", "{PREFIX}.api.count", "{PREFIX}.action.>"] }}
        subscribe: {{ allow: ["_INBOX.>", "$SRV.>", "{PREFIX}.action.open.>"] }} }} }}
  ]
}}
"""
AT_ONCE = 1.0
"""Seconds, where the deadline of a request is five."""


@pytest.fixture
def guarded() -> Iterator[NatsServer]:
    """A NATS server with permissions."""
    with NatsServer(CONFIG) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """The one that the permissions name."""
    return PREFIX


class Told:
    """A restricted service, and what its ``on_error`` heard."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.bus: Bus

    def subjects(self) -> list[str]:
        """The subjects that it was denied, as ``on_error`` heard."""
        return [error.subject for error in self.errors if isinstance(error, PermissionDenied)]


def url_of(server: NatsServer, user: str) -> str:
    """Where this user connects."""
    return server.url.replace("//", f"//{user}:{user}@")


@asynccontextmanager
async def restricted(server: NatsServer) -> AsyncIterator[Told]:
    told = Told()
    async with Bus.connect(url_of(server, "service"), prefix=PREFIX, on_error=told.errors.append) as bus:
        told.bus = bus
        yield told


async def test_a_cast_to_a_forbidden_subject(guarded: NatsServer):
    async with restricted(guarded) as told:
        await told.bus.broadcast("open", 1)
        await told.bus.flush()
        await told.bus.broadcast("closed", "ev.ent", 1)
        with pytest.raises(PermissionDenied) as denied:
            await told.bus.flush()
        subject = f"{PREFIX}.room.closed.ev=2Eent"
        assert (denied.value.operation, denied.value.subject) == ("publish", subject)
        assert subject in str(denied.value)
        assert told.subjects() == [subject]
        await told.bus.flush()  # it is said once
        await told.bus.blast(1)
        await told.bus.broadcast("open", 1)
        with pytest.raises(PermissionDenied, match=rf"{PREFIX}\.blast\.message"):
            await told.bus.flush()


async def test_a_request_on_a_forbidden_subject_fails_at_once(guarded: NatsServer, start_edge):
    edge = await start_edge([url_of(guarded, "all")])
    client = await Client.open(edge.url)
    async with restricted(guarded) as told:
        bus = told.bus
        assert await bus.count("open") == 0, "this one is allowed"
        for ask, subject in (
            (lambda: bus.join(client.id, "x"), f"{PREFIX}.socket.{client.id}"),
            (lambda: bus.rooms(client.id), f"{PREFIX}.socket.{client.id}"),
            (lambda: bus.call(client.id, "x"), f"{PREFIX}.socket.{client.id}"),
            (lambda: bus.move("a", join="b"), f"{PREFIX}.api.move"),
            (lambda: bus.disconnect("user.ann"), f"{PREFIX}.api.move"),
            (lambda: anext(bus.members("a")), f"{PREFIX}.api.members"),
        ):
            began = time.monotonic()
            with pytest.raises(PermissionDenied) as denied:
                await ask()
            assert time.monotonic() - began < AT_ONCE
            assert denied.value.subject == subject
            assert subject in told.subjects()
        results = await bus.join([client.id, client.id], "x")
        assert all(isinstance(result.error, PermissionDenied) for result in results)
        await bus.flush()  # who asked has heard it
        allowed = asyncio.ensure_future(bus.count("open"))
        with pytest.raises(PermissionDenied):
            await bus.rooms(client.id)
        assert await allowed == 0, "others under way go on"
    await client.close()


async def test_an_action_that_the_edge_may_not_ask_for_fails_at_once(guarded: NatsServer, start_edge):
    edge = await start_edge([url_of(guarded, "edge")])
    client = await Client.open(edge.url)
    async with Bus.connect(url_of(guarded, "all"), prefix=PREFIX, name="vault") as bus:

        @bus.action("secret.plans")
        async def plans(req: Request) -> str:
            return "all of them"

        @bus.action("open.plans")
        async def others(req: Request) -> str:
            return "some"

        async with bus.serving():
            began = time.monotonic()
            error = (await client.emit("secret.plans"))["error"]
            assert time.monotonic() - began < AT_ONCE
            assert error["code"] == "unavailable"
            assert "action" not in error["message"], "how NATS is set up is for the log"
            await until(
                lambda: f"publish on {PREFIX}.action.secret.plans" in edge.log, what="the log names the subject"
            )
            assert (await client.emit("open.plans"))["data"] == "some"
    await client.close()


async def test_an_edge_that_may_not_ask_who_may_connect_lets_nobody_in(guarded: NatsServer, start_edge):
    edge = await start_edge([url_of(guarded, "edge")], auth="bus")
    raw = await asyncio.wait_for(refusal(edge.url), AT_ONCE + 1)
    assert raw == 1013
    assert f"{PREFIX}.auth" in edge.log
    assert "Traceback" not in edge.log


async def refusal(url: str) -> int:
    """The code with which a client is sent away."""
    from websockets.asyncio.client import connect

    async with connect(url, proxy=None) as ws:
        await ws.wait_closed()
        return ws.close_code or 0


@pytest.mark.parametrize("kind", ["action", "route", "auth", "lifecycle"])
async def test_serving_what_may_not_be_heard(guarded: NatsServer, kind: str):
    async with restricted(guarded) as told:

        async def handler(_: object) -> None: ...

        bus = told.bus
        bus.action("open.door")(handler)
        if kind == "action":
            bus.action("closed.door")(handler)
            subject = f"{PREFIX}.action.closed.door"
        elif kind == "route":
            bus.route("GET /x/:id")(handler)
            subject = f"{PREFIX}.route.GET.x.*"
        elif kind == "auth":
            bus.authenticate(handler)
            subject = f"{PREFIX}.auth"
        else:
            bus.on_connect(handler)
            subject = f"{PREFIX}.event.connect"
        with pytest.raises(PermissionDenied) as denied:
            async with bus.serving():
                raise AssertionError("nobody may serve this")
        assert (denied.value.operation, denied.value.subject) == ("subscribe", subject)
        assert subject in told.subjects()


async def test_serving_what_may_be_heard(guarded: NatsServer):
    async with restricted(guarded) as told, Bus.connect(url_of(guarded, "all"), prefix=PREFIX) as asker:

        @told.bus.action("open.door")
        async def door(req: Request) -> str:
            return "come in"

        async with told.bus.serving():
            reply = await asker.nats.request(f"{PREFIX}.action.open.door", b"{}", timeout=5)
            assert reply.data == b'"come in"'
        assert told.errors == []
