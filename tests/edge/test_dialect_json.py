"""The json dialect: casts equal to a naive encoder's, and a decoder that answers any bytes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast.names import encode_room
from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Emit, Refusal, Reply
from roomcast_edge.dialects.json import JsonDialect
from roomcast_edge.frames import text_frame

dialect = JsonDialect()

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def payload(frame: bytes) -> bytes:
    """The text of a frame."""
    size = frame[1]
    start = 2 if size < 126 else 4 if size == 126 else 10
    assert frame == text_frame(frame[start:])
    return frame[start:]


@given(texts.filter(bool), values)
def test_a_cast_is_what_a_naive_encoder_gives(event: str, data: Any):
    naive = orjson.dumps({"event": event, "data": data})
    assert payload(dialect.cast(event, orjson.dumps(data))) == naive


@given(texts.filter(bool), values, st.integers(0, 3))
def test_a_cast_keeps_the_publishers_json_as_it_is(event: str, data: Any, indent: int):
    written = json.dumps(data, indent=indent or None, ensure_ascii=bool(indent % 2)).encode()
    text = payload(dialect.cast(event, written))
    assert written in text
    assert json.loads(text) == {"event": event, "data": json.loads(written)}


@given(values.filter(lambda value: value is not None), values, texts, texts)
def test_answers_and_errors(reply_id: Any, data: Any, code: str, message: str):
    assert json.loads(payload(dialect.answer(reply_id, orjson.dumps(data)))) == {"id": reply_id, "data": data}
    error = {"code": code, "message": message}
    assert json.loads(payload(dialect.error(reply_id, code, message))) == {"id": reply_id, "error": error}


def test_the_greeting():
    greeting = json.loads(payload(dialect.greeting("an.id", "an.id.secret", True)))
    assert greeting == {"event": "connect", "data": {"id": "an.id", "session": "an.id.secret", "resumed": True}}


def decoded(text: bytes) -> Emit | Reply | Refusal:
    """What becomes of a message. Anything but a refusal that is raised is a failure."""
    try:
        return dialect.decode(text)
    except Refusal as refusal:
        return refusal


@given(st.binary() | texts.map(str.encode))
@example(b"\xff")
@example(b"[" * 100_000)
@example(b'{"event":' * 5000)
@example(b'{"event":"\\ud800","id":"\\udfff"}')
@example(b'{"event":"a","id":1e400}')
@example(b'{"event":"a","id":123456789012345678901234567890}')
@example(b"\xef\xbb\xbf{}")
@example(b"\x00")
@example(b"")
def test_any_bytes_are_an_emit_or_a_refusal(text: bytes):
    told = decoded(text)
    if isinstance(told, Refusal):
        assert told.close in (CloseCode.POLICY, CloseCode.NOT_UTF8)
        dialect.error(told.reply_id, told.code, told.message)
    elif isinstance(told, Emit):
        usable(told)


def usable(emit: Emit) -> None:
    """What an emit holds can be worked with: answered, named on the bus or refused there, sent on as JSON."""
    dialect.answer(emit.reply_id, b"null")
    with contextlib.suppress(ValueError):
        encode_room(emit.event)
    orjson.dumps(emit.args)


@given(st.dictionaries(st.sampled_from(["event", "data", "id", "other"]), values))
def test_any_object_is_read_as_a_naive_reader_does(body: dict[str, Any]):
    told = decoded(orjson.dumps(body))
    reply_id, event = body.get("id"), body.get("event")
    if isinstance(reply_id, bool | list | dict):
        assert isinstance(told, Refusal)
        assert told.reply_id is None, "there is nothing to answer to"
    elif "event" not in body and reply_id is not None and "data" in body:
        assert told == Reply(reply_id, body["data"], reply_id=reply_id)
    elif not isinstance(event, str) or not event:
        assert isinstance(told, Refusal)
        assert (told.code, told.reply_id) == ("bad_request", reply_id)
    else:
        assert told == Emit(event, (body.get("data"),), reply_id)
        usable(told)


@given(texts.filter(bool), values, st.integers(1, 2**53))
def test_a_call_is_an_event_with_a_number(event: str, data: Any, number: int):
    call = json.loads(payload(dialect.call(event, number, orjson.dumps(data))))
    assert call == {"event": event, "data": data, "id": number}
    assert dialect.decode(orjson.dumps({"id": number, "data": data})) == Reply(number, data, None, number)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"code": "busy", "message": "not now"}, ("busy", "not now")),
        ({"code": 7}, ("7", "the client refused")),
        ({}, ("internal", "the client refused")),
        ("no", ("internal", "no")),
        (None, None),
    ],
)
def test_a_reply_with_an_error(error: Any, told: tuple[str, str] | None):
    assert dialect.decode(orjson.dumps({"id": 1, "error": error})) == Reply(1, None, told, 1)


@pytest.mark.parametrize(
    ("text", "close"),
    [(b"hello", 1008), (b"[]", 1008), (b"", 1008), (b'"\xff"', 1007), (b"{}", 1008), (b'{"event":"\xc3', 1007)],
)
def test_why_the_connection_ends_where_no_answer_is_awaited(text: bytes, close: int):
    told = decoded(text)
    assert isinstance(told, Refusal)
    assert (told.close, told.reply_id) == (close, None)


@pytest.mark.parametrize(
    ("code", "for_good"), [(1000, True), (1005, True), (1001, False), (1006, False), (4000, False)]
)
def test_who_closes_without_a_reason_to_come_back_has_left(code: int, for_good: bool):
    assert dialect.leaves_by(code) == for_good
