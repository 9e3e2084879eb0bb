"""However many clients of however many dialects hear a cast, it is encoded once per dialect."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, cast

import pytest

from roomcast_edge.dialects import Dialect
from roomcast_edge.dialects.json import JsonDialect
from roomcast_edge.dialects.socketio import SocketIoDialect
from roomcast_edge.metrics import Metrics
from roomcast_edge.outbox import FanOut, Outbox


class Transport:
    """Takes everything."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class CountingJson(JsonDialect):
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.encoded: Counter[str] = Counter()

    def cast(self, event: str, payload: bytes) -> bytes:
        self.encoded[event] += 1
        return super().cast(event, payload)


class CountingSocketIo(SocketIoDialect):
    """Counts what it encodes."""

    def __init__(self) -> None:
        super().__init__(25, 20, 65536)
        self.encoded: Counter[str] = Counter()

    def cast(self, event: str, payload: bytes) -> bytes:
        self.encoded[event] += 1
        return super().cast(event, payload)


@pytest.fixture
def dialects() -> list[Any]:
    return [CountingJson(), CountingSocketIo()]


def boxes_of(dialects: list[Dialect], each: int) -> list[Outbox]:
    """Outboxes of all dialects by turns, as the members of a room come."""

    def nothing() -> None:
        raise AssertionError("nobody is slow")

    made = [Outbox(cast(Any, Transport()), dialect, 1 << 20, nothing, plain=False) for dialect in dialects * each]
    assert len(made) == len(dialects) * each
    return made


def heard(box: Outbox) -> list[tuple[str, Any]]:
    """Events and data of what a member was sent."""
    found = []
    data = b"".join(cast(Any, box)._transport.written)
    while data:
        text, data = data[2 : 2 + data[1]], data[2 + data[1] :]
        message = json.loads(text.removeprefix(b"42"))
        found.append((message["event"], message["data"]) if isinstance(message, dict) else (message[0], message[1]))
    return found


async def test_one_cast_to_both_dialects(dialects):
    fanout, members = FanOut(Metrics()), boxes_of(dialects, 50)
    fanout.cast(members, "news", b'{"a":1}', 0)
    await asyncio.sleep(0)
    for dialect in dialects:
        assert dialect.encoded == {"news": 1}
    assert all(heard(box) == [("news", {"a": 1})] for box in members)


async def test_casts_in_one_pass_to_overlapping_rooms(dialects):
    fanout, members = FanOut(Metrics()), boxes_of(dialects, 20)
    first, second = members[:30], members[10:]
    for number in range(5):
        fanout.cast(first, f"first{number}", b"1", 0)
    fanout.cast(second, "second", b"2", 0)
    fanout.cast(first, "third", b"3", 0)
    await asyncio.sleep(0)
    events = [*[f"first{number}" for number in range(5)], "second", "third"]
    for dialect in dialects:
        assert dialect.encoded == dict.fromkeys(events, 1)
    assert [event for event, _ in heard(members[15])] == events
    assert [event for event, _ in heard(members[0])] == [*events[:5], "third"]
    assert [event for event, _ in heard(members[-1])] == ["second"]


async def test_who_is_in_a_room_of_one_dialect_costs_nothing_in_the_other(dialects):
    fanout, members = FanOut(Metrics()), boxes_of(dialects[:1], 5)
    fanout.cast(members, "news", b"1", 0)
    await asyncio.sleep(0)
    assert [dialect.encoded["news"] for dialect in dialects] == [1, 0]
