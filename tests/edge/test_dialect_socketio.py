"""The socketio dialect: equal to naive encoders and parsers written after the specification, and a fuzzed decoder."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Attachments, Connect, Emit, Leave, Refusal, Reply, Say
from roomcast_edge.dialects.socketio import MAX_ATTACHMENTS, SocketIoDialect
from roomcast_edge.frames import text_frame
from support.socketio_packets import (
    ACK,
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    ack_ids,
    anything,
    encode,
    names,
    objects,
    others,
    parse,
    payload,
    texts,
    values,
)

dialect = SocketIoDialect(25.0, 20.0, 65536)


def refused(text: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        dialect.decode(text)
    return caught.value


# -- what the client says ----------------------------------------------------------------------------------------------


@given(names, st.lists(values, max_size=4), ack_ids)
def test_an_event_is_its_name_and_its_arguments(event: str, args: list[Any], ack: int | None):
    assert dialect.decode(encode(EVENT, "/", ack, [event, *args])) == Emit(event, tuple(args), ack)
    assert dialect.decode(b"42/," + encode(EVENT, "/", ack, [event, *args])[2:]) == Emit(event, tuple(args), ack)


@given(objects)
def test_a_client_connects_with_what_it_says_of_itself(auth: dict[str, Any]):
    assert dialect.decode(encode(CONNECT, data=auth)) == Connect(auth)


def test_a_client_connects_with_nothing_said():
    assert dialect.decode(b"40") == Connect({})
    assert dialect.decode(b"40/,") == Connect({})
    assert dialect.decode(b'40/?token=1,{"a":1}') == Connect({"a": 1}), "the specification's own way to pass a query"


@given(others, st.just(...) | objects)
def test_another_namespace_gets_the_protocols_error(namespace: str, auth: Any):
    answer = dialect.decode(encode(CONNECT, namespace, data=auth))
    assert isinstance(answer, Say)
    assert parse(answer.frame) == (CONNECT_ERROR, namespace, None, {"message": "Invalid namespace"})


@given(others, names, ack_ids, st.sampled_from([DISCONNECT, EVENT, BINARY_EVENT]))
def test_nothing_else_is_said_in_another_namespace(namespace: str, event: str, ack: int | None, kind: int):
    attachments = 1 if kind == BINARY_EVENT else -1
    assert refused(encode(kind, namespace, ack, [event], attachments)).close is CloseCode.PROTOCOL_ERROR


@given(st.integers(0, MAX_ATTACHMENTS), names, ack_ids)
def test_binary_is_refused_and_its_attachments_are_counted(count: int, event: str, ack: int | None):
    holders = [{"_placeholder": True, "num": number} for number in range(count)]
    found = dialect.decode(encode(BINARY_EVENT, "/", ack, [event, *holders], count))
    assert isinstance(found, Attachments)
    assert (found.count, found.refusal.reply_id, found.refusal.close) == (count, ack, CloseCode.BINARY)
    assert found.refusal.code == "bad_request"
    found = dialect.decode(encode(BINARY_ACK, "/", ack, holders, count))
    assert isinstance(found, Attachments)
    assert (found.count, found.refusal.reply_id) == (count, None), "an acknowledgement is not answered"


def test_a_client_leaves_for_good_or_for_now():
    assert dialect.decode(b"41") == Leave(for_good=True)
    assert dialect.decode(b"41/,") == Leave(for_good=True)
    assert dialect.decode(b"1") == Leave(for_good=False)
    assert not dialect.leaves_by(1000)
    assert not dialect.leaves_by(1005)


def test_pings_and_pongs():
    assert payload(dialect.ping) == "2"
    assert dialect.decode(b"3") is None
    assert dialect.decode(b"2") == Say(text_frame(b"3"))
    assert dialect.decode(b"2probe") == Say(text_frame(b"3probe"))


@pytest.mark.parametrize(
    "text",
    [
        *[b"", b"4", b"0", b"5", b"6", b"7", b"x", b" 42", b"47", b"4x", b"-1"],
        *[b"42", b"42{}", b"42[]", b"42[1]", b'42[""]', b"42[null]", b'42"text"', b'42["a"', b'42["a"]x', b"42["],
        *[b"40[]", b"40x", b'40"a"', b"40null", b"40{", b"43[]", b"431{}", b"43", b'44{"message":"no"}'],
        *[b'45["a"]', b'45-["a"]', b"45", b"46[]", b'451001-["a"]', b'459999999999-["a"]', b'45-1-["a"]'],
        *[b'421-["a"]', b"401-{}", b"411-", b'42/chat,["a"]', b"41/chat", b'42999999999999999999["a"]'],
        *[b'42-1["a"]', b"42[" * 2000, b"42" + b"[" * 2000, b'42["\\ud800"]', b'42["a",1e999]', b'42["a",NaN]'],
    ],
)
def test_what_is_malformed_closes_the_transport(text: bytes):
    refusal = refused(text)
    assert (refusal.reply_id, refusal.close, refusal.code) == (None, CloseCode.PROTOCOL_ERROR, "bad_request")


@pytest.mark.parametrize("text", [b"2\xff", b"40/\xff", b'42["\xff"]', b'42["a","\xc3"]', b'40{"\xff":1}'])
def test_what_is_not_utf8_is_said_so_and_not_said_back(text: bytes):
    assert refused(text).close is CloseCode.NOT_UTF8


@given(anything)
@example(b"4" + b"9" * 10_000)
@example(b"42" + b"/" * 10_000)
def test_no_input_raises_anything_but_a_refusal(text: bytes):
    with contextlib.suppress(Refusal):
        decoded = dialect.decode(text)
        assert decoded is None or isinstance(decoded, Emit | Reply | Connect | Leave | Say | Attachments)
        if isinstance(decoded, Say):
            payload(decoded.frame)  # UTF-8


# -- what the server says ----------------------------------------------------------------------------------------------


@given(names, values)
def test_a_cast_is_an_event_with_one_argument(event: str, data: Any):
    assert parse(dialect.cast(event, orjson.dumps(data))) == (EVENT, "/", None, [event, data])


@given(names, values, st.integers(0, 3))
def test_a_cast_keeps_the_publishers_json_as_it_is(event: str, data: Any, indent: int):
    written = json.dumps(data, indent=indent or None, ensure_ascii=bool(indent % 2))
    frame = dialect.cast(event, written.encode())
    assert written in payload(frame)
    assert parse(frame) == (EVENT, "/", None, [event, json.loads(written)])


@given(names, values, st.integers(1, 2**48))
def test_a_call_is_an_event_that_asks_for_an_acknowledgement(event: str, data: Any, number: int):
    assert parse(dialect.call(event, number, orjson.dumps(data))) == (EVENT, "/", number, [event, data])


@pytest.mark.parametrize(
    ("args", "reply"),
    [
        ([], Reply(7)),
        ([{"a": 1}, "more"], Reply(7, {"a": 1})),
        ([{"error": {"code": "busy", "message": "not now"}}], Reply(7, None, ("busy", "not now"))),
        ([{"error": {}}], Reply(7, None, ("internal", "the client refused"))),
        ([{"error": "a text"}], Reply(7, {"error": "a text"})),
        ([{"error": {}, "data": 1}], Reply(7, {"error": {}, "data": 1})),
    ],
)
def test_an_acknowledgement_is_the_reply_to_a_call(args: list[Any], reply: Reply):
    assert dialect.decode(encode(ACK, "/", 7, args)) == reply


@given(st.integers(0, 10**15), values, texts, texts)
def test_an_acknowledgement_has_one_argument(ack: int, data: Any, code: str, message: str):
    assert parse(dialect.answer(ack, orjson.dumps(data))) == (ACK, "/", ack, [data])
    error = {"error": {"code": code, "message": message}}
    assert parse(dialect.error(ack, code, message)) == (ACK, "/", ack, [error])


def test_the_open_packet():
    text = payload(dialect.opening())
    assert text[0] == "0"
    opened = json.loads(text[1:])
    sid = opened.pop("sid")
    assert opened == {"upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 65536}
    assert sid != json.loads(payload(dialect.opening())[1:])["sid"]


sessions = st.from_regex(r"[a-z0-9]{8}\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]{22}", fullmatch=True)


@given(sessions, st.booleans())
def test_the_pid_brings_the_session_back_and_is_new_each_time(session: str, resumed: bool):
    socket_id = session.rpartition(".")[0]
    kind, namespace, ack, first = parse(dialect.greeting(socket_id, session, resumed))
    *_, second = parse(dialect.greeting(socket_id, session, resumed))
    assert (kind, namespace, ack) == (CONNECT, "/", None)
    assert first["sid"] == second["sid"] == socket_id
    assert first["pid"] != second["pid"], "the same pid would be recovery, of missed events too"
    for greeting in (first, second):
        assert dialect.session_of({"pid": greeting["pid"], "offset": "1"}) == session


@given(objects)
def test_an_auth_without_a_pid_has_no_session(auth: dict[str, Any]):
    auth.pop("pid", None)
    assert dialect.session_of(auth) == ""
    assert dialect.session_of({"pid": None}) == dialect.session_of({"pid": 7}) == ""


@pytest.mark.parametrize("code", list(CloseCode))
def test_a_disconnect_is_said_to_those_whose_session_is_over(code: CloseCode):
    farewell = dialect.farewell(code)
    if farewell:
        assert parse(farewell) == (DISCONNECT, "/", None, None)
        assert not code.come_back, "a client that hears DISCONNECT does not come back"
    assert bool(farewell) == (code in (1008, 4500, 4501, 4502, 4503))


# -- the HTTP request --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ({}, 5, "Unsupported protocol version"),
        ({"EIO": ["3"], "transport": ["websocket"]}, 5, "Unsupported protocol version"),
        ({"EIO": ["5"], "transport": ["websocket"]}, 5, "Unsupported protocol version"),
        ({"EIO": ["4"]}, 0, "Transport unknown"),
        ({"EIO": ["4"], "transport": ["polling"]}, 0, "Transport unknown"),
        ({"EIO": ["4"], "transport": ["webtransport"]}, 0, "Transport unknown"),
        ({"EIO": ["4"], "transport": ["websocket"], "sid": ["abc"]}, 1, "Session ID unknown"),
    ],
)
def test_a_request_that_is_no_websocket_of_engine_io_4(query: dict[str, list[str]], code: int, message: str):
    for origin in ("", "https://example.org"):
        refusal = dialect.check(query, origin)
        assert refusal is not None
        assert (refusal.status, json.loads(refusal.body)) == (400, {"code": code, "message": message})
        headers = dict(refusal.headers)
        assert headers["Access-Control-Allow-Origin"] == (origin or "*")
        assert headers.get("Access-Control-Allow-Credentials") == ("true" if origin else None), "* takes none"
        assert headers["Vary"] == "Origin"


def test_a_websocket_of_engine_io_4_is_welcome():
    assert dialect.check({"EIO": ["4"], "transport": ["websocket"], "t": ["x"]}, "https://example.org") is None
