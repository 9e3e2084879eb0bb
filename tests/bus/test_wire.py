"""The parser of NATS's wire protocol: any cut of the stream gives the same events, a bad message costs only itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from roomcast.wire import MAX_CONTROL_LINE, ChunkParser, LightSubscription

LIGHT, STOCK, UNKNOWN = 1, 2, 3
"""Subscription ids: one with a sink, one of nats-py's own kind, one that is gone."""


class Heard:
    """A client to the parser: it writes down what it hears, and never waits."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.reported: list[Exception] = []
        self.stats = {"in_msgs": 0, "in_bytes": 0}
        self._subs: dict[int, Any] = {LIGHT: LightSubscription(LIGHT, "s.>", "", self._sink, None), STOCK: object()}

    def _sink(self, sub: LightSubscription, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.events.append(("message", sub._id, subject, reply, data, headers))
        if data.startswith(b"raise"):
            raise LookupError(data)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self._sink(LightSubscription(sid, "", "", self._sink, None), subject, reply, data, headers or b"")

    async def _process_err(self, err_msg: str) -> None:
        self.events.append(("error", err_msg.strip("'")))

    async def _process_ping(self) -> None:
        self.events.append(("ping",))

    async def _process_pong(self) -> None:
        self.events.append(("pong",))

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self.events.append(("info", info))

    async def report(self, error: Exception) -> None:
        self.reported.append(error)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run what never waits, without an event loop."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the parser waited for something")


def hear(chunks: list[bytes]) -> Heard:
    heard = Heard()
    parser = ChunkParser(heard)
    for chunk in chunks:
        run(parser.parse(chunk))
    return heard


# Any byte may stand in a subject but those at which NATS itself splits a line.
subjects = st.binary(min_size=1, max_size=12).map(lambda raw: raw.translate(None, b" \t\r\n") or b"s")
payloads = st.binary(max_size=40) | st.sampled_from(
    [b"", b"\r\n", b"PING\r\n", b"MSG s 1 4\r\n", b"raise this", b"x" * 3000]
)
errors = st.text("abc XYZ", min_size=1, max_size=20).map(str.strip).filter(bool)
infos = st.dictionaries(st.sampled_from(["ldm", "connect_urls", "é"]), st.booleans() | st.lists(st.just("h:1")))

Operation = tuple[bytes, tuple[Any, ...] | None]
"""The bytes on the wire, and the event that they stand for."""


@st.composite
def messages(draw: st.DrawFn) -> Operation:
    sid = draw(st.sampled_from([LIGHT, STOCK, UNKNOWN]))
    subject, reply, data = draw(subjects), draw(st.just(b"") | subjects), draw(payloads)
    head = b" ".join([subject, b"%d" % sid, *([reply] if reply else [])])
    headers = b""
    if draw(st.booleans()):
        headers = b"NATS/1.0\r\n" + draw(payloads) + b"\r\n\r\n"
        wire = b"HMSG %b %d %d\r\n%b%b\r\n" % (head, len(headers), len(headers) + len(data), headers, data)
    else:
        wire = b"MSG %b %d\r\n%b\r\n" % (head, len(data), data)
    return wire, (None if sid == UNKNOWN else ("message", sid, subject, reply, data, headers))


operations = st.one_of(
    messages(),
    st.just((b"PING\r\n", ("ping",))),
    st.just((b"PONG\r\n", ("pong",))),
    st.just((b"+OK\r\n", None)),
    errors.map(lambda text: (b"-ERR '%b'\r\n" % text.encode(), ("error", text))),
    infos.map(lambda info: (b"INFO %b\r\n" % json.dumps(info).encode(), ("info", info))),
)


def expected(stream: list[Operation]) -> list[tuple[Any, ...]]:
    return [event for _, event in stream if event is not None]


@given(st.lists(operations, max_size=12), st.data())
def test_any_cut_of_the_stream_gives_the_same_events_in_order(stream: list[Operation], data: st.DataObject) -> None:
    wire = b"".join(raw for raw, _ in stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20), label="cuts"))
    chunks = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    heard = hear(chunks)
    assert heard.events == expected(stream)
    raised = [event for event in heard.events if event[0] == "message" and event[4].startswith(b"raise")]
    assert [str(error) for error in heard.reported] == [str(event[4]) for event in raised]


@given(st.lists(operations, max_size=6))
def test_a_byte_at_a_time_gives_the_same_events(stream: list[Operation]) -> None:
    wire = b"".join(raw for raw, _ in stream)
    assert hear([wire[i : i + 1] for i in range(len(wire))]).events == expected(stream)


@given(st.lists(operations, max_size=6))
def test_every_whole_message_is_delivered_before_parse_returns(stream: list[Operation]) -> None:
    heard = Heard()
    parser = ChunkParser(heard)
    for index, (raw, _) in enumerate(stream):
        run(parser.parse(raw))
        assert heard.events == expected(stream[: index + 1])


plain = messages().filter(lambda message: message[1] is not None and not message[1][4].startswith(b"raise"))


@given(st.lists(plain, max_size=8))
def test_the_stock_parser_hears_the_same(stream: list[Operation]) -> None:
    split = b"\x0b\x0c"  # where nats-py splits and the server does not
    stream = [message for message in stream if not set(split) & set(message[1][2] + message[1][3])]  # type: ignore[index]
    wire = b"".join(raw for raw, _ in stream)
    stock = Heard()
    run(Parser(stock).parse(wire))
    assert hear([wire]).events == stock.events


def test_a_message_for_nobody_is_skipped() -> None:
    heard = hear([b"MSG gone 3 2\r\nhi\r\nMSG s 1 2\r\nyo\r\n"])
    assert heard.events == [("message", LIGHT, b"s", b"", b"yo", b"")]
    assert not heard.reported


@pytest.mark.parametrize("sid", [LIGHT, STOCK])
def test_a_handler_that_raises_is_reported_and_the_next_message_delivered(sid: int) -> None:
    heard = hear([b"MSG s %d 5\r\nraise\r\nMSG s %d 4\r\nnext\r\n" % (sid, sid)])
    assert [event[4] for event in heard.events] == [b"raise", b"next"]
    assert [type(error) for error in heard.reported] == [LookupError]


def test_light_messages_are_counted() -> None:
    heard = hear([b"MSG s 1 3\r\nabc\r\nHMSG s 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"])
    assert heard.stats == {"in_msgs": 2, "in_bytes": 17}


MALFORMED = [
    b"MSG\r\n",
    b"MSG s 1\r\n",
    b"MSG s one 2\r\n",
    b"MSG s 1 two\r\n",
    b"MSG s 1 -15\r\nxx\r\n",
    b"MSG s 1 -2\r\n",
    b"HMSG s 1 2\r\n",
    b"HMSG s 1 12 2\r\nNATS/1.0\r\n\r\nhi\r\n",
    b"HMSG s 1 -1 2\r\nhi\r\n",
    b"GARBAGE\r\n",
    b"\r\n",
    b"PIN\r\n",
]


@pytest.mark.parametrize("line", MALFORMED)
@pytest.mark.parametrize("before", [b"", b"PING\r\n"])
def test_a_malformed_line_is_a_protocol_error(line: bytes, before: bytes) -> None:
    with pytest.raises(ProtocolError):
        hear([before + line])


@given(st.binary(max_size=30).map(lambda tail: b"MSG s 1 " + tail + b"\r\n") | st.binary(max_size=60))
@example(b"MSG s 1 -15\r\n")
@example(b"HMSG s 1 -9 -9\r\n")
@example(b"INFO \xff\r\n")
def test_garbage_ends_in_an_error_or_in_waiting_for_more(garbage: bytes) -> None:
    heard = Heard()
    with contextlib.suppress(ProtocolError, ValueError):  # ValueError: an INFO that is not JSON
        run(ChunkParser(heard).parse(garbage))
    assert len(heard.events) <= len(garbage), "it walks forward"


def test_a_line_without_end_is_bounded() -> None:
    heard = Heard()
    parser = ChunkParser(heard)
    chunk = b"M" * 4096
    with pytest.raises(ProtocolError):
        for _ in range(MAX_CONTROL_LINE // len(chunk) + 2):
            run(parser.parse(chunk))


def test_an_info_of_a_large_cluster_is_no_line_without_end() -> None:
    info = {"connect_urls": [f"10.0.{i // 256}.{i % 256}:4222" for i in range(2000)]}
    raw = b"INFO " + json.dumps(info).encode() + b"\r\n"
    assert 4096 < len(raw) < MAX_CONTROL_LINE
    assert hear([raw[i : i + 1000] for i in range(0, len(raw), 1000)]).events == [("info", info)]


def test_reset_forgets_what_is_half_read() -> None:
    heard = Heard()
    parser = ChunkParser(heard)
    run(parser.parse(b"MSG s 1 100\r\nhalf of it"))
    parser.reset()
    run(parser.parse(b"PING\r\n"))
    assert heard.events == [("ping",)]
