"""Every metric of an edge: plain numbers on the hot path, turned into Prometheus's families at a scrape."""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from roomcast import __version__

LATENCY_BOUNDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds: 100 µs to 10 s."""


class Histogram:
    """Counts in buckets; an observation is one bisection."""

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        rows, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            rows.append((bound, float(so_far)))
        return rows


class Metrics(Collector):
    """The numbers of one edge. Counters are Counters keyed by their one label's value."""

    def __init__(self) -> None:
        self.casts_received: Counter[str] = Counter()
        self.handshakes: Counter[str] = Counter()
        self.closes: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self.resumes: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.invalid: Counter[str] = Counter()
        self.deliveries = 0
        self.sent_bytes = 0
        self.slow_sockets_closed = 0
        self.negative_skew = 0
        self.nats_reconnects = 0
        self.fanout = Histogram()
        self.publish_to_write = Histogram()
        self.move = Histogram()
        self.record_write = Histogram()
        self.action = Histogram()
        self.loop_lag = Histogram()
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.sockets_by_dialect: Callable[[], dict[str, int]] = dict

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Register a number that is read at each scrape."""
        self.gauges[name] = (text, read)

    def collect(self) -> Iterable[Metric]:
        """All families, for a scrape."""
        yield InfoMetricFamily(
            "roomcast_build",
            "The version that runs.",
            {"version": __version__, "python": platform.python_version()},
        )
        sockets = GaugeMetricFamily("roomcast_sockets", "Connected sockets, by dialect.", labels=["dialect"])
        for dialect, count in self.sockets_by_dialect().items():
            sockets.add_metric([dialect], count)
        yield sockets
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(f"roomcast_{name}", text, read())
        yield from self._labelled()
        for name, text, value in (
            ("deliveries", "Casts handed to sockets, one for each socket and cast.", self.deliveries),
            ("sent_bytes", "Bytes of frames handed to sockets.", self.sent_bytes),
            (
                "slow_sockets_closed",
                "Sockets closed since they took their frames too slowly.",
                self.slow_sockets_closed,
            ),
            (
                "publish_to_write_skewed",
                "Casts whose Roomcast-Sent lay in the future: clocks differ.",
                self.negative_skew,
            ),
            ("nats_reconnects", "Times the connection to NATS was made again.", self.nats_reconnects),
        ):
            yield CounterMetricFamily(f"roomcast_{name}", text, value)
        for name, text, histogram in (
            ("fanout_seconds", "From a cast's arrival until its last socket was written.", self.fanout),
            (
                "publish_to_write_seconds",
                "From Roomcast-Sent until the last socket was written.",
                self.publish_to_write,
            ),
            ("move_seconds", "Applying one bulk change to this edge's members.", self.move),
            ("record_write_seconds", "Writing one socket's record to the KV bucket.", self.record_write),
            ("action_seconds", "A client's request until a service answered.", self.action),
            ("loop_lag_seconds", "How late the event loop ran a timer.", self.loop_lag),
        ):
            yield HistogramMetricFamily(
                f"roomcast_{name}", text, buckets=histogram.buckets(), sum_value=histogram.total
            )

    def _labelled(self) -> Iterable[Metric]:
        for name, text, label, counter in (
            ("casts_received", "Casts taken from NATS.", "kind", self.casts_received),
            ("handshakes", "Websocket handshakes, by how they ended.", "outcome", self.handshakes),
            ("closes", "Connections closed, by the code that this edge chose.", "code", self.closes),
            ("changes", "Changes of membership made.", "kind", self.changes),
            ("resumes", "Sessions that came back, by how it ended.", "outcome", self.resumes),
            ("actions", "Requests of clients to services.", "outcome", self.actions),
            ("invalid", "Messages that were refused or dropped.", "reason", self.invalid),
        ):
            family = CounterMetricFamily(f"roomcast_{name}", text, labels=[label])
            for value, count in sorted(counter.items()):
                family.add_metric([value], count)
            yield family
