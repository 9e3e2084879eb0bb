"""What the fan-out counts: stages of a cast's way, batches, clocks that differ, casts held back and dropped."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from roomcast.nats_client import LightSubscription
from roomcast_edge.casts import Casts
from roomcast_edge.dialects.json import JsonDialect
from roomcast_edge.index import Index
from roomcast_edge.metrics import Metrics
from roomcast_edge.outbox import FanOut, Outbox
from roomcast_edge.socket import EdgeSocket

AHEAD = 60.0
"""Seconds by which a publisher's clock is ahead."""
ROOM = cast(LightSubscription, SimpleNamespace(key="room"))


class Transport:
    """Takes everything, in its time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.writes = 0

    def write(self, _: bytes) -> None:
        self.writes += 1
        time.sleep(self._seconds)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Bench:
    """A fan-out to the members of one room, on transports that take so many seconds for a write."""

    def __init__(self, members: int = 2, seconds: float = 0.0) -> None:
        self.metrics = Metrics()
        self.fanout = FanOut(self.metrics)
        self.transports = [Transport(seconds) for _ in range(members)]
        boxes = [Outbox(cast(Any, each), JsonDialect(), 1 << 20, lambda: None, plain=False) for each in self.transports]
        index = cast(Index[EdgeSocket], SimpleNamespace(rooms={"room": boxes}, sockets={}))
        self.casts = Casts("bus", index, self.fanout, self.metrics, lambda *_: None, 1 << 18)

    def cast(self, sent: float | None = None, event: bytes = b"news") -> None:
        """Take one cast, which says when it was sent (seconds since the epoch)."""
        headers = b"" if sent is None else b"NATS/1.0\r\nRoomcast-Sent: %d\r\n\r\n" % (sent * 1e9)
        self.casts.sink(ROOM, b"bus.room.room." + event, b"", b"1", headers)


async def test_the_stages_of_a_casts_way_add_up():
    bench = Bench(seconds=0.02)
    bench.cast(time.time() - 5)
    bench.fanout.flush()
    fanout, transit, both = (bench.metrics.fanout, bench.metrics.transit, bench.metrics.publish_to_write)
    assert [sum(each.counts) for each in (fanout, transit, both)] == [1, 1, 1]
    assert 0.04 <= fanout.total < 1
    assert 5 <= transit.total < 6
    assert both.total == pytest.approx(fanout.total + transit.total)


async def test_each_cast_of_a_pass_counts_and_those_that_say_when_they_were_sent():
    bench = Bench()
    for number in range(30):
        bench.cast(time.time() - 0.003 if number % 3 else None)
    bench.fanout.flush()
    assert sum(bench.metrics.fanout.counts) == 30
    assert sum(bench.metrics.publish_to_write.counts) == sum(bench.metrics.transit.counts) == 20
    bench.fanout.flush()
    assert sum(bench.metrics.fanout.counts) == 30, "an empty pass counts nothing"


@pytest.mark.parametrize("casts", [1, 3])
async def test_a_clock_that_is_ahead_counts_as_no_time_and_is_told(casts: int):
    bench = Bench()
    for _ in range(casts):
        bench.cast(time.time() + AHEAD)
    bench.fanout.flush()
    metrics = bench.metrics
    assert metrics.negative_skew == casts
    assert metrics.publish_to_write.counts[0] == metrics.transit.counts[0] == casts
    assert metrics.publish_to_write.total == metrics.transit.total == 0


async def test_deliveries_by_writes_is_the_size_of_a_batch():
    bench = Bench(members=3)
    for _ in range(4):
        bench.cast()
    bench.fanout.flush()
    assert (bench.metrics.deliveries, bench.metrics.socket_writes) == (12, 3)
    bench.cast()
    bench.fanout.settle()  # a membership changes in between
    bench.cast()
    bench.fanout.flush()
    assert (bench.metrics.deliveries, bench.metrics.socket_writes) == (18, 6)
    assert bench.metrics.socket_writes == sum(each.writes for each in bench.transports)


async def test_casts_that_are_held_back_and_dropped_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("roomcast_edge.casts.MAX_HELD", 3)
    bench = Bench()
    bench.casts.hold()
    for _ in range(5):
        bench.cast()
    assert (bench.metrics.casts_held, bench.metrics.casts_dropped["held_too_many"]) == (3, 2)
    bench.casts.drop()
    bench.cast()
    bench.casts.release()
    bench.fanout.flush()
    assert (bench.metrics.casts_held, bench.metrics.casts_dropped["held_too_long"]) == (4, 3)
    assert bench.metrics.deliveries == 2


async def test_what_was_heard_on_a_node_that_was_left_is_not_delivered_again():
    bench = Bench()
    bench.casts.leave(4.0)
    now = time.time()
    for sent in (now - 10, now - 3, now - 1, None, now + 1):  # the second and the third were heard there
        bench.cast(sent)
    bench.fanout.flush()
    assert bench.metrics.deliveries == 3 * 2
