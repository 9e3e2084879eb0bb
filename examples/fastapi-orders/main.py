"""Orders by HTTP, and their updates by websocket: ``uvicorn main:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from roomcast import Bus, NotFound
from roomcast import Request as SocketRequest

ORDERS = {"42": {"id": "42", "status": "placed"}}


class Status(BaseModel):
    status: str


def offer(bus: Bus) -> None:
    """What clients ask over their websocket."""

    @bus.action("orders.subscribe")
    async def subscribe(req: SocketRequest, order_id: str) -> dict[str, str]:
        await bus.join(req, f"order-{order_id}")  # before reading: what changes from now on is heard
        if order_id not in ORDERS:
            await bus.leave(req, f"order-{order_id}")
            raise NotFound("no such order")
        return ORDERS[order_id]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Bus.connect(name="orders", version="1.0.0") as bus:  # at NATS_URL
        offer(bus)
        app.state.bus = bus
        async with bus.serving():
            yield


app = FastAPI(lifespan=lifespan)


@app.put("/orders/{order_id}/status")
async def update_status(order_id: str, update: Status, request: Request) -> dict[str, str]:
    if order_id not in ORDERS:
        raise HTTPException(404, "no such order")
    ORDERS[order_id]["status"] = update.status
    bus: Bus = request.app.state.bus
    # Whoever asked knows already: its page sends its socket's id as X-Socket-Id.
    await bus.broadcast(f"order-{order_id}", "orderUpdated", ORDERS[order_id], omit=request)
    return ORDERS[order_id]
