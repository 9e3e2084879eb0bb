"""What travels on the bus: the data's JSON, raw header blocks, and answers from strangers."""

from __future__ import annotations

import dataclasses
import datetime
import uuid

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast.envelope import (
    MAX_CAST_BYTES,
    STATUS_OF_CODE,
    cast_headers,
    encode_data,
    error_body,
    error_headers,
    excepted_rooms,
    header_value,
    headers,
    parse_answer,
    sent_ns,
)
from roomcast.errors import BusTimeout, BusUnavailable, RemoteError, RoomcastError, SocketNotFound
from roomcast.names import decode_room, encode_room

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
rooms = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


def lines_of(block: bytes) -> list[bytes]:
    """The lines of a block that is whole: the version first, an empty line last."""
    assert block.startswith(b"NATS/1.0\r\n")
    assert block.endswith(b"\r\n\r\n")
    return block[:-4].split(b"\r\n")


# -- data ------------------------------------------------------------------------------------------------------------


@given(json_values)
def test_data_is_json_both_ways(data: object) -> None:
    assert orjson.loads(encode_data(data)) == data


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    at: datetime.datetime


def test_dataclasses_datetimes_and_uuids_are_data() -> None:
    order = Order(uuid.UUID(int=7), datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC))
    assert orjson.loads(encode_data(order)) == {"id": str(order.id), "at": "2024-05-01T00:00:00+00:00"}


@pytest.mark.parametrize("data", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bytes_are_a_type_error_that_says_what_to_do(data: object) -> None:
    with pytest.raises(TypeError, match="base64"):
        encode_data(data)


@pytest.mark.parametrize("data", [object(), {1: 2}, {"a": {"b": object()}}, 2**70, "\ud800", {"k": b"x"}])
def test_what_json_cannot_say_is_a_type_error(data: object) -> None:
    with pytest.raises(TypeError, match="JSON"):
        encode_data(data)


def test_default_says_more() -> None:
    assert encode_data({"z": 1j}, default=str) == b'{"z":"1j"}'


@pytest.mark.parametrize("limit", [16, MAX_CAST_BYTES])
def test_the_limit_is_bytes_of_json(limit: int) -> None:
    assert len(encode_data("x" * (limit - 2), limit=limit)) == limit
    with pytest.raises(ValueError, match=f"at most {limit} bytes.* has {limit + 1}"):
        encode_data("x" * (limit - 1), limit=limit)


# -- headers ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1), st.lists(rooms, max_size=8))
def test_a_casts_headers_are_read_back(sent: int, excepted: list[str]) -> None:
    block = cast_headers(sent, excepted)
    assert len(lines_of(block)) == (3 if excepted else 2)
    assert sent_ns(block) == sent
    assert [decode_room(room) for room in excepted_rooms(block)] == excepted
    assert excepted_rooms(block) == [encode_room(room) for room in excepted]


@given(st.dictionaries(st.sampled_from(["traceparent", "A", "Nats-Service-Error"]), text, max_size=3))
@example({"A": "x\r\nRoomcast-Except: all", "traceparent": "\x0b\x85\u2028"})
def test_no_value_can_add_a_line(fields: dict[str, str]) -> None:
    block = headers(fields)
    assert len(lines_of(block)) == 1 + len(fields)
    for name, value in fields.items():
        assert header_value(block, f"\r\n{name}:".encode()).decode() == " ".join(value.split())


@given(st.binary(max_size=60))
@example(b"NATS/1.0\r\nRoomcast-Sent:")
@example(b"NATS/1.0\r\nRoomcast-Sent: -1\r\n\r\n")
@example(b"NATS/1.0\r\nRoomcast-Sent: 99999999999999999999999\r\n\r\n")
@example("NATS/1.0\r\nRoomcast-Sent: ٣\r\nRoomcast-Except: \udcff\r\n\r\n".encode(errors="surrogateescape"))
def test_a_strangers_block_never_raises(block: bytes) -> None:
    assert 0 <= sent_ns(block) < 10**20
    assert all(isinstance(room, str) for room in excepted_rooms(block))


@pytest.mark.parametrize("code", [*STATUS_OF_CODE, "never heard of"])
def test_an_error_travels_in_body_and_headers(code: str) -> None:
    status = STATUS_OF_CODE.get(code, 500)
    block = error_headers(code, "no\r\nsuch room")
    assert lines_of(block)[1:] == [b"Nats-Service-Error: no such room", b"Nats-Service-Error-Code: %d" % status]
    assert orjson.loads(error_body(code, "why")) == {"error": {"code": code, "message": "why"}}


# -- answers ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=40) | json_values.map(orjson.dumps) | json_values.map(lambda e: orjson.dumps({"error": e})))
def test_any_answer_is_an_object_or_an_error_of_ours(payload: bytes) -> None:
    try:
        body = parse_answer(payload, "k3f9x2a7.8Hd72kQpX0aLmT5v")
    except RoomcastError:
        return
    assert isinstance(body, dict)
    assert body.get("error") is None


@pytest.mark.parametrize(
    ("code", "socket_id", "expected"),
    [
        ("not_found", "k3f9x2a7.8Hd72kQpX0aLmT5v", SocketNotFound),
        ("not_found", "", RemoteError),
        ("unavailable", "", BusUnavailable),
        ("timeout", "", BusTimeout),
        ("bad_request", "", RemoteError),
    ],
)
def test_each_code_is_its_error(code: str, socket_id: str, expected: type[RoomcastError]) -> None:
    with pytest.raises(expected, match=socket_id or "the reason") as caught:
        parse_answer(error_body(code, "the reason"), socket_id)
    assert type(caught.value) is expected
    if isinstance(caught.value, RemoteError):
        assert (caught.value.code, caught.value.message) == (code, "the reason")
