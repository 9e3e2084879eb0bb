"""Services answer clients: actions with typed inputs, refusals, copies that share the work, routes that overlap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from roomcast import Bus, NotFound, Request
from support.nats_servers import NatsServer
from support.websocket_client import Client

ORDERS = {"42": {"id": "42", "status": "placed"}}


def offer_orders(bus: Bus, served_by: list[str], name: str) -> None:
    """The pattern of the field: one action subscribes the asking socket to a room, another broadcasts to it."""

    @bus.action("orders.subscribe")
    async def subscribe(req: Request, order_id: str) -> dict[str, str]:
        served_by.append(name)
        await bus.join(req, f"order-{order_id}")
        if order_id not in ORDERS:
            raise NotFound("no such order")
        return ORDERS[order_id]

    @bus.action("orders.update")
    async def update(req: Request, order_id: str, status: str, notify: bool = True) -> dict[str, str]:
        order = {**ORDERS[order_id], "status": status}
        if notify:
            await bus.broadcast(f"order-{order_id}", "orderUpdated", order, req)
        return order

    @bus.action("who am i")
    async def who(req: Request) -> dict[str, Any]:
        return {"id": bus.get_id(req), "args": req.args, "is_socket": req.is_socket, "user": req.user}

    @bus.route("GET /orders/:id")
    async def one(req: Request, id: str) -> str:
        return f"order {id}"

    @bus.route("GET /orders/new")
    async def new(req: Request) -> str:
        return "a form"


@asynccontextmanager
async def services(url: str, prefix: str, copies: int) -> AsyncIterator[list[str]]:
    served_by: list[str] = []
    async with AsyncExitStack() as stack:
        for number in range(copies):
            bus = await stack.enter_async_context(Bus.connect(url, prefix=prefix, name="orders", version="1.0.0"))
            offer_orders(bus, served_by, f"copy {number}")
            await stack.enter_async_context(bus.serving())
        yield served_by


async def test_one_action_subscribes_and_another_broadcasts(nats: NatsServer, prefix: str, start_edge) -> None:
    edges = [await start_edge(nats.urls), await start_edge(nats.urls)]
    async with services(nats.url, prefix, 2):
        buyer, clerk = [await Client.open(edge.url) for edge in edges]
        for client in (buyer, clerk):
            assert (await client.emit("orders.subscribe", {"orderId": "42"}))["data"] == ORDERS["42"]
        answer = await clerk.emit("orders.update", {"order_id": "42", "status": "shipped"})
        assert answer["data"]["status"] == "shipped"
        assert await buyer.hears_event("orderUpdated") == answer["data"]
        await clerk.emit("who am i")  # behind whatever the broadcast might have brought
        assert clerk.events == [], "the socket that asked is left out"
        assert (await clerk.emit("who am i", {"x": 1}))["data"] == {
            "id": clerk.id,
            "args": [{"x": 1}],
            "is_socket": True,
            "user": None,
        }
        await buyer.close()
        await clerk.close()


async def test_refusals_say_what_is_wrong_and_no_more(nats: NatsServer, prefix: str, start_edge) -> None:
    edge = await start_edge(nats.urls)
    async with services(nats.url, prefix, 1):
        client = await Client.open(edge.url)
        asked = {
            "not_found": ("orders.subscribe", {"orderId": "7"}, "no such order"),
            "bad_request": ("orders.subscribe", {"orderId": 42}, "orderId"),
            "internal": ("orders.update", {"orderId": "7", "status": "x"}, "["),
            "no_service": ("orders.delete", {}, "orders.delete"),
        }
        for code, (event, data, hint) in asked.items():
            error = (await client.emit(event, data))["error"]
            assert error["code"] == code
            assert hint in error["message"]
            assert "KeyError" not in error["message"], "the cause is for the log"
        missing = (await client.emit("orders.update", {"orderId": "42"}))["error"]
        assert missing == {"code": "bad_request", "message": "status is missing"}
        await client.close()


async def test_copies_share_the_work_and_nats_shows_it(nats: NatsServer, prefix: str, start_edge) -> None:
    edge = await start_edge(nats.urls)
    async with services(nats.url, prefix, 2) as served_by, Bus.connect(nats.url, prefix=prefix) as bus:
        client = await Client.open(edge.url)
        answers = await asyncio.gather(*[client.emit("orders.subscribe", {"orderId": "42"}) for _ in range(40)])
        assert [answer["data"]["id"] for answer in answers] == ["42"] * 40
        assert len(served_by) == 40, "each request was worked on once"
        assert set(served_by) == {"copy 0", "copy 1"}
        inbox, counted = bus.nats.new_inbox(), []
        replies = await bus.nats.subscribe(inbox)
        await bus.nats.publish("$SRV.STATS.orders", b"", reply=inbox)
        while len(counted) < 2:
            stats = json.loads((await replies.next_msg(timeout=5)).data)
            if stats["metadata"]["prefix"] == prefix:
                [row] = [each for each in stats["endpoints"] if each["name"] == "orders-subscribe"]
                counted.append(row["num_requests"])
        assert sum(counted) == 40
        await client.close()


@pytest.mark.parametrize(("path", "answer"), [("7", '"order 7"'), ("new", '"a form"'), ("a=2Eb", '"order a.b"')])
async def test_the_more_literal_route_answers(nats: NatsServer, prefix: str, path: str, answer: str) -> None:
    async with services(nats.url, prefix, 2), Bus.connect(nats.url, prefix=prefix) as bus:
        reply = await bus.nats.request(f"{prefix}.route.GET.orders.{path}", b"{}", timeout=5)
        assert reply.data.decode() == answer


async def test_what_cannot_be_served_is_said_at_once(nats: NatsServer, prefix: str) -> None:
    async def handler(req: Request) -> None: ...

    async with Bus.connect(nats.url, prefix=prefix, name="orders") as bus:
        bus.action("twice")(handler)
        for register, wrong, error in (
            (bus.action("twice"), handler, ValueError),
            (bus.action("x"), lambda req: None, TypeError),
            (bus.action("y" * 256), handler, ValueError),
        ):
            with pytest.raises(error):
                register(wrong)
        for route in ("orders", "GET orders", "GET /a/:1", "GET /:a/:a", "g et /x"):
            with pytest.raises(ValueError, match=r"route|parameter"):
                bus.route(route)(handler)


async def test_data_that_is_nested_too_deeply_is_refused(nats: NatsServer, prefix: str, start_edge) -> None:
    edge = await start_edge(nats.urls)
    client = await Client.open(edge.url)
    data: Any = "x"
    for _ in range(300):
        data = [data]
    error = (await client.emit("orders.subscribe", data))["error"]
    assert error == {"code": "bad_request", "message": "the data is nested too deeply"}
    assert (await client.emit("bus:ping"))["data"] == {}, "the connection stands"
    assert "Traceback" not in edge.log
    await client.close()
