"""The socketio2 dialect: what it says otherwise than socketio, told apart by its version, and a fuzzed decoder."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Attachments, Dialects, Emit, Leave, Refusal, Reply, Say
from roomcast_edge.dialects.json import JsonDialect
from roomcast_edge.dialects.socketio import SocketIoDialect
from roomcast_edge.dialects.socketio2 import SocketIo2Dialect
from roomcast_edge.frames import PING, text_frame
from support.socketio_packets import ACK, BINARY_EVENT, CONNECT, EVENT, ack_ids, anything, encode, names, others, values

dialect = SocketIo2Dialect(25.0, 20.0, 65536)


def texts_of(frames: bytes) -> list[str]:
    """The texts of several frames in a row."""
    found = []
    while frames:
        size, start = frames[1], 2
        if size == 126:
            size, start = int.from_bytes(frames[2:4], "big"), 4
        found.append(frames[start : start + size].decode())
        assert frames.startswith(text_frame(found[-1].encode()))
        frames = frames[start + size :]
    return found


# -- which dialect a request is in -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query", "name"),
    [
        ("/socket.io/", {"EIO": ["3"]}, "socketio2"),
        ("/socket.io/", {"EIO": ["4"]}, "socketio"),
        ("/socket.io/", {"EIO": ["3", "4"]}, "socketio2"),
        ("/ws", {}, "json"),
        ("/ws", {"EIO": ["3"]}, "json"),
    ],
)
def test_the_path_and_the_version_tell_the_dialect(path: str, query: dict[str, list[str]], name: str):
    chosen = Dialects([JsonDialect(), SocketIoDialect(25.0, 20.0, 65536), dialect]).of(path, query)
    assert chosen is not None
    assert chosen.name == name
    assert chosen.check({**query, "transport": ["websocket"]}, "") is None


@pytest.mark.parametrize("query", [{}, {"EIO": ["5"]}, {"EIO": [""]}, {"eio": ["3"]}])
def test_another_version_is_refused(query: dict[str, list[str]]):
    chosen = Dialects([SocketIoDialect(25.0, 20.0, 65536), dialect]).of("/socket.io/", query)
    assert chosen is not None
    refused = chosen.check({**query, "transport": ["websocket"]}, "")
    assert refused is not None
    assert orjson.loads(refused.body)["code"] == 5


def test_another_path_is_no_dialects():
    assert Dialects([dialect]).of("/socket.io", {"EIO": ["3"]}) is None


# -- what the server says ----------------------------------------------------------------------------------------------


def test_the_greeting_opens_connects_and_brings_the_session():
    opened, connected, session = texts_of(dialect.greeting("k3f9x2a7.8Hd72kQpX0aLmT5v", "secret", False))
    assert opened[0] == "0"
    assert json.loads(opened[1:]) == {
        "sid": "k3f9x2a7.8Hd72kQpX0aLmT5v",
        "upgrades": [],
        "pingInterval": 25000,
        "pingTimeout": 20000,
    }, "a client's id is the sid of the open packet"
    assert connected == "40"
    assert json.loads(session[2:]) == ["bus:session", "secret"]
    assert dialect.opening() == b"", "nothing before the session is known"
    assert dialect.connects_at_once


def test_who_is_refused_is_told_why_in_a_way_that_it_hears():
    opened, error, disconnect = texts_of(dialect.denial(CloseCode.REFUSED, 'no "token"'))
    assert json.loads(opened[1:])["pingInterval"] == 25000, "before it, such a client hears nothing"
    assert (error[:2], json.loads(error[2:])) == ("44", 'no "token"')
    assert disconnect == "41"
    assert dialect.denial(CloseCode.TRY_LATER, "come back") == b""


def test_the_server_asks_by_a_ping_of_websockets():
    assert dialect.ping == PING
    assert not dialect.pings_always


# -- what the client says ----------------------------------------------------------------------------------------------


def test_the_client_pings():
    assert dialect.decode(b"2") == Say(text_frame(b"3"))
    assert dialect.decode(b"2probe") == Say(text_frame(b"3probe"))


@given(names, st.lists(values, max_size=4), ack_ids)
def test_an_event_is_its_name_and_its_arguments(event: str, args: list[Any], ack: int | None):
    assert dialect.decode(encode(EVENT, "/", ack, [event, *args])) == Emit(event, tuple(args), ack)


@given(st.integers(0, 10**15 - 1), values)
def test_a_call_is_an_event_with_an_id_and_its_acknowledgement_the_reply(number: int, data: Any):
    [call] = texts_of(dialect.call("confirm", number, orjson.dumps(data)))
    assert call.startswith(f'42{number}["confirm",')
    error = data["error"] if isinstance(data, dict) and set(data) == {"error"} else None
    if not isinstance(error, dict):
        assert dialect.decode(encode(ACK, "/", number, [data])) == Reply(number, data)


@pytest.mark.parametrize("text", [b"40", b"40/,", b"40/?token=1,"])
def test_the_default_namespace_is_connected_already(text: bytes):
    assert dialect.decode(text) is None


@given(others, st.sampled_from(["", "?token=1"]))
def test_another_namespace_gets_the_protocols_error(namespace: str, query: str):
    answer = dialect.decode(encode(CONNECT, namespace + query))
    assert isinstance(answer, Say)
    assert texts_of(answer.frame) == [f'44{namespace},"Invalid namespace"']


def test_attachments_in_base64_are_passed_over():
    found = dialect.decode(encode(BINARY_EVENT, "/", 7, ["upload", {"_placeholder": True, "num": 0}], 1))
    assert isinstance(found, Attachments)
    assert dialect.decode(b"b4AP8=") is None


def test_a_client_leaves_for_good_or_for_now():
    assert dialect.decode(b"41") == Leave(for_good=True)
    assert dialect.decode(b"1") == Leave(for_good=False)
    assert not dialect.leaves_by(1000)


@pytest.mark.parametrize("text", [b"", b"4", b"5", b"6", b"x", b"42{}", b"43[]", b'44"no"'])
def test_what_is_malformed_closes_the_transport(text: bytes):
    with pytest.raises(Refusal) as caught:
        dialect.decode(text)
    assert caught.value.close is CloseCode.PROTOCOL_ERROR


@given(anything)
@example(b"40/" + b"\xff,")
@example(b"b\xff")
def test_no_input_raises_anything_but_a_refusal(text: bytes):
    with contextlib.suppress(Refusal):
        decoded = dialect.decode(text)
        assert decoded is None or isinstance(decoded, Emit | Reply | Leave | Say | Attachments)
        if isinstance(decoded, Say):
            texts_of(decoded.frame)  # UTF-8
