"""The orders example as a Sails user would run it: clients of all dialects, two copies of the service, two edges."""

from __future__ import annotations

import asyncio

import pytest

from support.orders import copies, locked
from support.socketio_clients import Node, SailsNode
from support.until import until
from support.websocket_client import Client

DEADLINE = 1.5
"""Seconds that a service has to answer."""


@pytest.fixture
async def edges(nats, start_edge):
    return [await start_edge(nats.urls, action_timeout=DEADLINE) for _ in range(2)]


async def test_clients_of_all_dialects_and_a_kill_in_mid_request(nats, prefix, edges, node_modules, tmp_path):
    addresses = [f"http://127.0.0.1:{edge.port}" for edge in edges]
    async with SailsNode() as sails, Node() as node, copies(nats.url, prefix, tmp_path, 2) as served:
        buyer = await sails.connect(addresses[0])
        buyer.tell("on", event="orderUpdated")
        clerk = await node.open(addresses[1])
        screen = await Client.open(edges[1].url)

        order = (await buyer.request("get", "/orders/42"))["body"]
        assert (order["id"], order["status"]) == ("42", "placed")
        assert await clerk.ask("orders.subscribe", {"orderId": "42"}) == order
        assert (await screen.emit("orders.subscribe", {"orderId": "42"}))["data"] == order

        jwr = await buyer.request("put", "/orders/42/status", {"status": "shipped"})
        shipped = jwr["body"]
        assert (jwr["statusCode"], shipped["status"]) == (200, "shipped")
        await buyer.hears("orderUpdated", shipped)
        await clerk.hears("orderUpdated", shipped)
        assert await screen.hears_event("orderUpdated") == shipped

        missing = await buyer.request("get", "/orders/7")
        assert (missing["statusCode"], missing["body"]) == (404, {"code": "not_found", "message": "no such order"})
        wrong = await buyer.request("put", "/orders/42/status", {})
        assert (wrong["statusCode"], wrong["body"]["message"]) == (400, "status is missing")

        began = asyncio.get_running_loop().time()
        with locked(tmp_path):
            asking = asyncio.create_task(buyer.request("put", "/orders/42/status", {"status": "lost"}))
            [victim] = await until(
                lambda: [copy for copy in served if "becomes lost" in copy.log], what="a copy works on the request"
            )
            await victim.kill()
            failed = await asking
        took = asyncio.get_running_loop().time() - began
        assert (failed["statusCode"], failed["body"]["code"]) == (504, "timeout")
        assert took < DEADLINE + 1

        for status in ("paid", "sent", "done"):  # the other copy does it all
            jwr = await buyer.request("put", "/orders/42/status", {"status": status})
            assert jwr["statusCode"] == 200
            await clerk.hears("orderUpdated", jwr["body"])
        assert "lost" not in [order["status"] for _, [order] in clerk.events]
        await screen.close()
