"""Every metric of an edge: plain numbers on the hot path, turned into Prometheus's families at a scrape."""

from __future__ import annotations

import platform
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from roomcast import __version__
from roomcast.envelope import STATUS_OF_CODE
from roomcast_edge.closing import CloseCode

LATENCY_BOUNDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds: 100 µs to 10 s."""

STRANGERS = 50
"""Unforeseen values that a counter keeps at most until the next scrape."""
OTHER = "other"
"""The label of what is counted under a value that was not foreseen."""


class Histogram:
    """Counts in buckets; an observation is one bisection."""

    def __init__(self, name: str, text: str, bounds: Sequence[float] = LATENCY_BOUNDS) -> None:
        self.name = name
        self.text = text
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def observe_all(self, values: list[float]) -> None:
        """Count each of these values, of which there is at least one; the list is sorted in place."""
        values.sort()
        count = len(values)
        below, place = 0, bisect_left(self.bounds, values[0])
        while below < count:  # they lie close together: a few buckets
            up_to = bisect_right(values, self.bounds[place], below) if place < len(self.bounds) else count
            self.counts[place] += up_to - below
            below, place = up_to, place + 1
        self.total += sum(values)

    def family(self) -> Metric:
        """For a scrape: cumulative counts by upper bound."""
        rows, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            rows.append((bound, float(so_far)))
        return HistogramMetricFamily(f"roomcast_{self.name}", self.text, buckets=rows, sum_value=self.total)


class Tally(dict[str, int]):
    """A counter by one label. Its values are named beforehand, and any other counts as ``other``.

    So whoever chooses a code or a name, a service or a client, makes no series by it; and a rate sees the first event.
    """

    def __init__(self, name: str, text: str, label: str, values: Iterable[str]) -> None:
        super().__init__(dict.fromkeys((*values, OTHER), 0))
        self._known = frozenset(self)
        self.name = name
        self.text = text
        self.label = label

    def __missing__(self, _: str) -> int:
        if len(self) > len(self._known) + STRANGERS:
            self.fold()
        return 0

    def fold(self) -> None:
        """Count as ``other`` what was not foreseen. Now and then, so that counting itself is a plain dict's work."""
        for value in [value for value in list(self) if value not in self._known]:
            self[OTHER] += self.pop(value)

    def family(self) -> Metric:
        """For a scrape."""
        self.fold()
        family = CounterMetricFamily(f"roomcast_{self.name}", self.text, labels=[self.label])
        for value, count in self.items():
            family.add_metric([value], count)
        return family


class Metrics(Collector):
    """The numbers of one edge."""

    def __init__(self) -> None:
        self.casts_received = dict.fromkeys(("room", "socket", "blast"), 0)
        self.deliveries = 0
        self.sent_bytes = 0
        self.socket_writes = 0
        self.slow_sockets_closed = 0
        self.negative_skew = 0
        self.casts_held = 0
        self.nats_reconnects = 0

        self.casts_dropped = Tally(
            "casts_dropped",
            "Casts that were held back after a reconnect to NATS and never delivered.",
            "reason",
            ("held_too_long", "held_too_many"),
        )
        self.handshakes = Tally(
            "handshakes",
            "Requests on the clients' port, by how they ended; opened is a websocket that was greeted.",
            "outcome",
            (
                *("opened", "denied", "left", "unavailable", "shed", "address", "origin", "failed"),
                *("timeout", "malformed", "too_large", "transport", "not_found", "page"),
            ),
        )
        self.closes = Tally(
            "closes", "Connections that this edge closed, by its close code.", "code", (str(int(c)) for c in CloseCode)
        )
        self.changes = Tally(
            "changes",
            "Memberships changed, one for each socket and room; move_… came by a bulk change.",
            "kind",
            ("join", "leave", "disconnect", "move_join", "move_leave", "move_disconnect"),
        )
        self.resumes = Tally(
            "resumes",
            "Clients that came back with a session, by how it ended; all but resumed were greeted as new.",
            "outcome",
            ("resumed", "unknown", "disconnected", "forged", "malformed", "lost_race"),
        )
        self.actions = Tally(
            "actions",
            "Requests of clients to services, by the code of the answer; other is a code of the service's own.",
            "outcome",
            ("ok", *STATUS_OF_CODE),
        )
        self.invalid = Tally(
            "invalid",
            "Messages that were refused or dropped, by what was wrong with them.",
            "reason",
            (
                *("event", "size", "payload", "room", "except", "move"),  # from NATS
                *("bad_request", "forbidden", "binary", "too_large", "protocol", "frame"),  # from clients
            ),
        )
        self.kv_failures = Tally(
            "kv_failures",
            "Requests to the KV bucket that failed, retries among them; a lost compare-and-set is none.",
            "operation",
            ("write", "read", "log", "state"),
        )

        self.fanout = Histogram(
            "fanout_seconds", "From a cast's arrival at this edge until its last socket was written; one for each cast."
        )
        self.transit = Histogram(
            "transit_seconds", "From Roomcast-Sent, the publisher's clock, until the cast's arrival at this edge."
        )
        self.publish_to_write = Histogram(
            "publish_to_write_seconds", "From Roomcast-Sent until the last socket was written: transit and fan-out."
        )
        self.move = Histogram("move_seconds", "Applying one bulk change to this edge's members, slices' pauses too.")
        self.record_write = Histogram(
            "record_write_seconds", "Writing one socket's record to the KV bucket, from the change to the answer."
        )
        self.open = Histogram("open_seconds", "Opening a session, from the handshake to the greeting.")
        self.action = Histogram("action_seconds", "From a client's request until a service's answer, or none in time.")
        self.loop_lag = Histogram("loop_lag_seconds", "How late the event loop ran a timer; four times a second.")

        self.identity: dict[str, str] = {}
        """Labels of ``build_info`` beside the versions: set once, when the edge is made."""
        self._gauges: list[Callable[[], Iterable[GaugeMetricFamily]]] = []

    def gauges(self, read: Callable[[], Iterable[GaugeMetricFamily]]) -> None:
        """Register what is read at each scrape, in the scrape's own thread."""
        self._gauges.append(read)

    def collect(self) -> Iterable[Metric]:
        """All families, for a scrape."""
        yield InfoMetricFamily(
            "roomcast_build",
            "Always 1; its labels name the version and the edge, as other edges and logs name it.",
            {"version": __version__, "python": platform.python_version(), **self.identity},
        )
        for read in self._gauges:
            yield from read()
        received = CounterMetricFamily(
            "roomcast_casts_received",
            "Casts taken from NATS, by what they were cast to, whether or not they met a member.",
            labels=["kind"],
        )
        for kind, count in self.casts_received.items():
            received.add_metric([kind], count)
        yield received
        for name, text, value in (
            ("deliveries", "Casts handed to sockets, one for each socket and cast.", self.deliveries),
            ("sent_bytes", "Bytes of frames handed to sockets.", self.sent_bytes),
            (
                "socket_writes",
                "Times a socket was written; deliveries by writes is the size of a batch.",
                self.socket_writes,
            ),
            ("slow_sockets_closed", "Sockets closed since too much waited for them.", self.slow_sockets_closed),
            (
                "publish_to_write_skewed",
                "Casts whose Roomcast-Sent lay in the future, counted as 0 s: clocks differ.",
                self.negative_skew,
            ),
            ("casts_held", "Casts that waited after a reconnect until the log was caught up with.", self.casts_held),
            ("nats_reconnects", "Times the connection to NATS was made again.", self.nats_reconnects),
        ):
            yield CounterMetricFamily(f"roomcast_{name}", text, value)
        for each in vars(self).values():
            if isinstance(each, Tally | Histogram):
                yield each.family()
