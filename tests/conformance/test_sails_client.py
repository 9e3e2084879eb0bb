"""The npm package sails.io.js, as it is: requests that reach routes, the JWRs that come back, events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from roomcast import BadRequest, Bus, Forbidden, NotFound, Request
from support.edges import EdgeProcess
from support.front import Front
from support.socketio_clients import SailsNode
from support.until import until

VERBS = ["get", "post", "put", "patch", "delete"]


class Service:
    """Routes that tell what they were asked, and refuse as they are told."""

    def __init__(self, bus: Bus) -> None:
        self.asked: list[Request] = []
        self.over = asyncio.Event()
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
            bus.route(f"{method} /echo/:id")(self.echo)
        bus.route("GET /")(self.root)
        bus.route("GET /page")(self.page)
        bus.route("GET /nothing")(self.nothing)
        bus.route("POST /refuse/:why")(self.refuse)
        bus.route("GET /slow")(self.slow)
        bus.action("get")(self.root)

    async def echo(self, req: Request) -> dict[str, Any]:
        self.asked.append(req)
        return {"data": req.data, "method": req.method, "path": req.path, "id": req.params["id"], "by": req.headers}

    async def root(self, req: Request) -> dict[str, Any]:
        return {"path": req.path, "args": req.args}

    async def page(self, req: Request, limit: int, open: bool = False) -> list[Any]:
        return [limit, open]

    async def nothing(self, req: Request) -> None: ...

    async def refuse(self, req: Request, why: str) -> None:
        if why == "internal":
            raise KeyError("a secret")
        raise {"not_found": NotFound, "forbidden": Forbidden, "bad_request": BadRequest}[why](f"{why} it is")

    async def slow(self, req: Request) -> None:
        await self.over.wait()


@pytest.fixture
async def sails(node_modules) -> AsyncIterator[SailsNode]:
    async with SailsNode() as node:
        yield node


@pytest.fixture
async def edge(nats, start_edge) -> EdgeProcess:
    return await start_edge(nats.urls, action_timeout=0.5, client_rooms="open-*")


@pytest.fixture
async def bus(nats, prefix) -> AsyncIterator[Bus]:
    async with Bus.connect(nats.url, prefix=prefix, name="sails", version="1.0.0") as bus:
        yield bus


@pytest.fixture
async def service(bus) -> AsyncIterator[Service]:
    service = Service(bus)
    async with bus.serving():
        yield service
        service.over.set()


def address(edge: EdgeProcess) -> str:
    return f"http://127.0.0.1:{edge.port}"


@pytest.mark.parametrize("package", ["socket.io-client-2.0", "socket.io-client-2"])
async def test_requests_reach_routes_and_come_back_as_jwrs(node_modules, edge, bus, service, package):
    async with SailsNode(package) as node:
        socket = await node.connect(address(edge), headers={"X-All": "of this socket"})
        assert (await bus.get(socket.id)).id == socket.id, "services see the id that the client sees"
        for verb in VERBS:
            jwr = await socket.request(verb, "/echo/a%20b?q=1", {"n": [1, None]})
            assert (jwr["statusCode"], jwr["headers"], jwr["failed"]) == (200, {}, False)
            assert jwr["body"] == {
                "data": {"q": "1", "n": [1, None]},
                "method": verb.upper(),
                "path": "/echo/a%20b",
                "id": "a b",
                "by": {"x-all": "of this socket"},
            }
        assert {request.socket.id for request in service.asked} == {socket.id}


async def test_request_has_methods_headers_and_data(edge, service, sails):
    socket = await sails.connect(address(edge))
    for method in ("HEAD", "options", "PATCH"):
        asked = {"method": method, "url": "/echo/7/", "headers": {"X-One": "1", "Retry": 2}, "data": {"a": "b"}}
        body = (await socket.request("request", asked))["body"]
        assert (body["method"], body["id"], body["data"]) == (method.upper(), "7", {"a": "b"})
        assert body["by"] == {"x-one": "1", "retry": "2"}
    assert (await socket.request("get", "/"))["body"] == {"path": "/", "args": [{}]}
    assert (await socket.request("get", "/nothing"))["body"] is None
    assert (await socket.request("get", "/page?limit=20&open=true"))["body"] == [20, True], "numbers of a query"
    assert (await socket.request("get", "/page", {"limit": 3}))["body"] == [3, False]


@pytest.mark.parametrize(
    ("verb", "url", "status", "code"),
    [
        ("get", "/nobody/serves/this", 404, "no_service"),
        ("get", "/echo", 404, "no_service"),
        ("post", "/refuse/not_found", 404, "not_found"),
        ("post", "/refuse/forbidden", 403, "forbidden"),
        ("post", "/refuse/bad_request", 400, "bad_request"),
        ("get", "/page?limit=many", 400, "bad_request"),
        ("post", "/refuse/internal", 500, "internal"),
        ("get", "/slow", 504, "timeout"),
        ("get", "/echo/%FF", 400, "bad_request"),
        ("get", f"/echo/{'x' * 300}", 400, "bad_request"),
        ("get", "/" + "ä/" * 5000, 400, "bad_request"),
    ],
)
async def test_errors_have_their_numbers(edge, service, sails, verb, url, status, code):
    socket = await sails.connect(address(edge))
    jwr = await socket.request(verb, url)
    assert (jwr["statusCode"], jwr["body"]["code"], jwr["failed"]) == (status, code, True)
    assert jwr["body"]["message"]
    assert "secret" not in jwr["body"]["message"]
    assert (await socket.request("get", "/nothing"))["statusCode"] == 200, "it is still connected"
    assert socket.all("disconnect") == []


async def test_events_are_heard_until_they_are_not(edge, bus, sails):
    socket, other = await sails.connect(address(edge)), await sails.connect(address(edge))
    for each in (socket, other):
        for event in ("message", "orderUpdated", "end"):
            each.tell("on", event=event)
        # What is asked behind them is answered once they are on.
        assert await each.ask("bus:join", "open-1") == {"room": "open-1"}
    await bus.broadcast("open-1", {"text": "hi"})
    await bus.broadcast("open-1", "orderUpdated", {"id": 1}, other.id)
    await socket.hears("orderUpdated", {"id": 1})
    socket.tell("off", event="orderUpdated")
    assert await socket.ask("bus:ping") == {}
    await bus.broadcast("open-1", "orderUpdated", {"id": 2})
    await bus.blast("end", None)
    for each in (socket, other):
        await each.hears("end", None)
    assert socket.events == [("message", [{"text": "hi"}]), ("orderUpdated", [{"id": 1}]), ("end", [None])]
    assert other.events == [("message", [{"text": "hi"}]), ("orderUpdated", [{"id": 2}]), ("end", [None])]


async def test_requests_before_the_connection_wait_for_it(edge, service, sails):
    socket = await sails.connect(address(edge), wait=False)
    jwr = await socket.request("get", "/echo/1")
    assert jwr["body"]["id"] == "1"


async def test_what_is_no_request_of_sails_is_an_action(edge, service, sails):
    socket = await sails.connect(address(edge))
    assert await socket.ask("get", "key") == {"path": "", "args": ["key"]}
    assert await socket.ask("get", {"url": "https://example.org/"}) == {
        "path": "",
        "args": [{"url": "https://example.org/"}],
    }


async def test_a_lost_connection_ends_what_is_asked_and_a_new_socket_comes_back(nats, start_edge, bus, service, sails):
    edge = await start_edge(nats.urls)
    socket = await sails.connect(address(edge), reconnection=True)
    before = socket.id
    await bus.join(before, "open-1")
    socket.tell("ask", ref=0, verb="get", args=["/slow"])
    assert (await socket.request("get", "/echo/1"))["statusCode"] == 200
    await edge.kill()
    lost = await socket.sees("jwr", 2)
    assert (lost["ref"], lost["statusCode"]) == (0, 0)
    await edge.start()
    await socket.sees("connect", 2, 20)
    assert socket.id != before, "a new socket, as with Sails"
    assert (await socket.request("get", "/echo/2"))["body"]["id"] == "2"


async def test_who_returns_with_its_session_is_the_same_socket(nats, start_edge, bus, service, sails):
    edges = [await start_edge(nats.urls), await start_edge(nats.urls)]
    async with Front(edges) as front:
        socket = await sails.connect(front.url, reconnection=True, returns=True)
        before = socket.id
        await bus.join(before, "open-1")
        front.prefer(edges[1])
        await edges[0].kill()
        await socket.sees("connect", 2, 20)
        assert socket.id == before
        assert await bus.rooms(before) == {"open-1"}
        front.cut()
        await socket.sees("connect", 3, 20)
        assert socket.id == before
        assert (await socket.request("get", "/echo/2"))["body"]["id"] == "2"


async def test_who_leaves_is_gone(edge, bus, sails):
    socket = await sails.connect(address(edge))
    await socket.close()

    async def gone() -> bool:
        return await bus.get(socket.id) is None

    await until(gone, what="the socket is gone")


async def test_who_is_disconnected_stays_away(edge, bus, sails):
    socket = await sails.connect(address(edge), reconnection=True)
    await bus.disconnect(socket.id)
    end = await socket.sees("disconnect")
    assert (end["reason"], end["active"]) == ("io server disconnect", False)
