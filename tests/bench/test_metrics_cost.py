"""What metrics cost the fan-out: the same casts with them and without, by turns, over real connections."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

SHARE = 0.03
"""What part of the fan-out's CPU time metrics may take."""
MEMBERS = 100
ROUNDS = 400
TRIES = 4
"""Times that it may be measured: a busy machine makes a difference of its own, one way or the other."""
SUBJECT = b"bus.room.all.news"
PAYLOAD = b'{"text":"' + b"x" * 150 + b'"}'


class Bare(FanOut):
    """As the other, but without an eye on the time."""

    def _observe(self) -> None:
        self._casts = 0
        self._sent.clear()


@contextmanager
def connections(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Pairs of connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pairs = []
        for _ in range(count):
            ours = socket.create_connection(server.getsockname())
            pairs.append((ours, server.accept()[0]))
        try:
            for pair in pairs:
                for each in pair:
                    each.setblocking(False)
            yield pairs
        finally:
            for pair in pairs:
                for each in pair:
                    each.close()


def drain(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """Read all that has come."""
    for _, theirs in pairs:
        theirs.recv(1 << 20)


async def share(pairs: list[tuple[socket.socket, socket.socket]], burst: int) -> tuple[float, float]:
    """Seconds of CPU time of a pass with ``burst`` casts and metrics; and the part of them that is gone without."""
    boxes = []
    for ours, _ in pairs:
        transport = SimpleNamespace(get_extra_info=lambda _, s=ours: s, is_closing=lambda: False)
        boxes.append(Outbox(cast(asyncio.Transport, transport), JsonDialect(), 1 << 20, int))
        boxes[-1].open()
    index = cast(Index[EdgeSocket], SimpleNamespace(rooms={"all": boxes}, sockets={}))
    subscription = cast(LightSubscription, SimpleNamespace(key="all"))
    sinks: list[tuple[Any, FanOut, list[float]]] = []
    for kind in (FanOut, Bare):
        metrics = Metrics()
        fanout = kind(metrics)
        sinks.append((Casts("bus", index, fanout, metrics, lambda *_: None, 1 << 18).sink, fanout, []))
    for _ in range(ROUNDS // burst):
        headers = b"NATS/1.0\r\nRoomcast-Sent: %d\r\n\r\n" % time.time_ns()
        for sink, fanout, seconds in sinks:
            began = time.thread_time()
            for _ in range(burst):
                sink(subscription, SUBJECT, b"", PAYLOAD, headers)
            fanout.flush()
            seconds.append(time.thread_time() - began)
            await asyncio.sleep(0)  # the flush that was scheduled finds nothing to do
            drain(pairs)
    observed, bare = (statistics.median(seconds) for _, _, seconds in sinks)
    for box in boxes:
        box.close()
    return observed, (observed - bare) / observed


@pytest.mark.parametrize("burst", [1, 10])
async def test_metrics_cost_little(burst: int, capsys: pytest.CaptureFixture[str]) -> None:
    tried: list[tuple[float, float]] = []
    with connections(MEMBERS) as pairs:
        while len(tried) < TRIES and not any(abs(part) < SHARE for _, part in tried):
            tried.append(await share(pairs, burst))
    with capsys.disabled():
        shown = ", ".join(f"{part:.1%} of {seconds * 1e6:.0f} µs" for seconds, part in tried)
        print(f"\nmetrics of {burst} casts to {MEMBERS} sockets: {shown}")
    assert min(abs(part) for _, part in tried) < SHARE
