"""A client subscribes to an order's updates, and gets the order as it is now."""

from __future__ import annotations

from orders import Order, Orders

from roomcast import BadRequest, Bus, NotFound, Request


def offer(bus: Bus, orders: Orders) -> None:
    """Answer ``io.socket.get('/orders/42')``, and whoever emits ``orders.subscribe``."""

    @bus.route("GET /orders/:orderId")
    @bus.action("orders.subscribe")
    async def subscribe(req: Request, order_id: str) -> Order:
        if not req.is_socket:
            raise BadRequest("WebSocket required")
        await bus.join(req, f"order-{order_id}")  # before reading: what changes from now on is heard
        order = await orders.find(order_id)
        if order is None:
            await bus.leave(req, f"order-{order_id}")
            raise NotFound("no such order")
        return order
