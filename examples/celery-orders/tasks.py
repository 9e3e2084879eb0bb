"""A Celery task that tells the sockets: ``celery -A tasks worker``."""

import os
import tempfile

from celery import Celery

from roomcast import SyncBus

app = Celery("tasks", broker=os.environ.get("CELERY_BROKER_URL", "filesystem://"))
folder = os.environ.get("CELERY_FOLDER", tempfile.gettempdir())
app.conf.broker_transport_options = {"data_folder_in": folder, "data_folder_out": folder, "polling_interval": 0.1}

bus = SyncBus.connect()  # at NATS_URL, when it is first used: in each worker process, after its fork


@app.task
def ship(order_id: str, omit: str | None = None) -> None:
    """Ship an order; ``omit`` is the ``X-Socket-Id`` of the request that wants it."""
    bus.broadcast(f"order-{order_id}", "orderUpdated", {"id": order_id, "status": "shipped"}, omit=omit)
