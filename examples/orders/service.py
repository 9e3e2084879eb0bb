"""The orders service: ``NATS_URL=nats://localhost:4222 python service.py orders.sqlite``. Copies share the work."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import subscribe
import update_status
from orders import Orders

from roomcast import Bus


async def main(database: Path) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    orders = Orders(database)
    prefix = os.environ.get("ROOMCAST_PREFIX", "bus")
    async with Bus.connect(prefix=prefix, name="orders", version="1.0.0") as bus:
        subscribe.offer(bus, orders)
        update_status.offer(bus, orders)
        await bus.serve()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "orders.sqlite")))
