"""A client changes an order's status, and all who subscribed to the order hear it."""

from __future__ import annotations

import logging

from orders import Order, Orders

from roomcast import Bus, NotFound, Request

log = logging.getLogger("orders")


def offer(bus: Bus, orders: Orders) -> None:
    """Answer ``io.socket.put('/orders/42/status', {status})``, and whoever emits ``orders.update-status``."""

    @bus.route("PUT /orders/:orderId/status")
    @bus.action("orders.update-status")
    async def update_status(req: Request, order_id: str, status: str) -> Order:
        log.info("order %s becomes %s", order_id, status)
        order = await orders.update(order_id, status)
        if order is None:
            raise NotFound("no such order")
        await bus.broadcast(f"order-{order_id}", "orderUpdated", order)
        return order
