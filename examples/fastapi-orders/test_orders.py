"""The service with a real NATS, a real edge and real websockets: ``pip install 'roomcast[testing]'``, ``pytest``."""

import httpx
import pytest
from main import app, lifespan

from roomcast import RemoteError


@pytest.fixture
async def http(roomcast_cluster, roomcast_bus):
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


async def test_subscribers_hear_of_an_update(http, roomcast_bus, roomcast_client):
    page, other = await roomcast_client(), await roomcast_client()
    assert (await page.emit("orders.subscribe", {"orderId": "42"}))["id"] == "42"
    await other.emit("orders.subscribe", {"orderId": "42"})

    response = await http.put("/orders/42/status", json={"status": "shipped"}, headers={"X-Socket-Id": page.id})
    assert response.status_code == 200

    assert await other.heard("orderUpdated") == {"id": "42", "status": "shipped"}
    assert await page.caught_up(roomcast_bus) == [], "the page that asked was omitted"


async def test_an_order_that_does_not_exist(http, roomcast_bus, roomcast_client):
    page = await roomcast_client()
    with pytest.raises(RemoteError) as refusal:
        await page.emit("orders.subscribe", {"orderId": "43"})
    assert refusal.value.code == "not_found"
    assert await roomcast_bus.rooms(page.id) == set()


async def test_a_page_that_comes_back_is_still_subscribed(http, roomcast_client):
    page = await roomcast_client()
    await page.emit("orders.subscribe", {"orderId": "42"})
    await page.reconnect()
    assert page.resumed
    await http.put("/orders/42/status", json={"status": "delivered"})
    await page.heard("orderUpdated", {"id": "42", "status": "delivered"})
