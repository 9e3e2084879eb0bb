"""The view with a real edge and real websockets, without an event loop."""

import app
import django
from django.test import Client

django.setup()


def test_a_view_tells_the_others(roomcast_sync_bus, roomcast_sync_client):
    page, other = roomcast_sync_client(), roomcast_sync_client()
    roomcast_sync_bus.join([page.id, other.id], "order-42")

    response = Client().put("/orders/42/status", '{"status": "shipped"}', headers={"X-Socket-Id": page.id})
    assert response.json() == {"id": "42", "status": "shipped"}

    assert other.heard("orderUpdated") == {"id": "42", "status": "shipped"}
    assert page.caught_up(app.bus) == [], "the page that asked was omitted"


def test_a_view_without_the_header_tells_all(roomcast_sync_bus, roomcast_sync_client):
    page = roomcast_sync_client()
    roomcast_sync_bus.join(page.id, "order-42")
    Client().put("/orders/42/status", '{"status": "placed"}')
    page.heard("orderUpdated")
