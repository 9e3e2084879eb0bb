"""What is read off an edge at each scrape: how many sockets, rooms and bytes there are, and how it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily

from roomcast.requests import Requests
from roomcast_edge.admin import Health
from roomcast_edge.dialects import Dialect
from roomcast_edge.index import Index
from roomcast_edge.interest import Interest
from roomcast_edge.keeper import Keeper
from roomcast_edge.lease import Lease
from roomcast_edge.link import Link
from roomcast_edge.listener import Listener
from roomcast_edge.socket import EdgeSocket


@dataclass(frozen=True, slots=True)
class Gauges:
    """The parts of an edge that are looked at. Called in the thread of the scrape, beside the loop."""

    dialects: Sequence[Dialect]
    index: Index[EdgeSocket]
    interest: Interest
    listener: Listener
    keeper: Keeper
    requests: Requests
    lease: Lease
    link: Link
    health: Health
    draining: Callable[[], bool]

    def __call__(self) -> Iterable[GaugeMetricFamily]:
        """All gauges, as they are now."""
        counts = dict.fromkeys((dialect.name for dialect in self.dialects), 0)
        waiting = slow = 0
        for socket in list(self.index.sockets.values()):  # once for all: there may be many
            counts[socket.dialect.name] += 1
            if socket.blocked:
                slow += 1
                waiting += socket.pending_bytes()
        sockets = GaugeMetricFamily(
            "roomcast_sockets", "Sockets that are members here, by dialect.", labels=["dialect"]
        )
        for dialect, count in counts.items():
            sockets.add_metric([dialect], count)
        yield sockets
        now = time.monotonic()
        for name, text, value in (
            ("connections", "TCP connections of clients, those in a handshake too.", self.listener.connections),
            ("slow_sockets", "Sockets whose client takes less than is sent, now.", slow),
            ("outbox_bytes", "Bytes that wait for slow sockets.", waiting),
            ("rooms", "Rooms that have a member here, sockets' own rooms aside.", len(self.index.rooms)),
            ("subscriptions", "Rooms that this edge hears from NATS.", len(self.interest)),
            (
                "records_lagging",
                "Records that bulk changes touched and that are not rewritten yet.",
                self.keeper.lagging,
            ),
            ("requests_under_way", "Requests to NATS that wait for an answer.", self.requests.under_way),
            ("nats_connected", "1 while the connection to NATS stands.", self.link.connected),
            (
                "lease_age_seconds",
                "Since this edge last wrote to the KV bucket; at most 5 to 7.",
                now - self.lease.renewed_at,
            ),
            (
                "loop_silent_seconds",
                "Since the event loop last turned; above 1 it is stuck now.",
                now - self.health.pulse,
            ),
            ("ready", "1 while /readyz says that new clients may come.", self.health.ready()[0]),
            ("draining", "1 from the signal to stop until the end.", self.draining()),
        ):
            yield GaugeMetricFamily(f"roomcast_{name}", text, float(value))
