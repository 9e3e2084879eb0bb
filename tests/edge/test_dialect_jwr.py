"""What sails.io.js asks and hears: which emits are requests for routes, what they carry, and a fuzzed reader."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast.envelope import STATUS_OF_CODE
from roomcast_edge.dialects import Emit, Refusal
from roomcast_edge.dialects.jwr import METHODS, JwrId, as_request
from roomcast_edge.dialects.socketio import SocketIoDialect
from support.socketio_packets import EVENT, encode, names, parse, texts, values

dialect = SocketIoDialect(25.0, 20.0, 65536)

methods = st.sampled_from(sorted(METHODS))


def asked(event: str, **request: Any) -> Emit:
    """What a request means."""
    return as_request(Emit(event, (request,), 7))


@given(methods, st.dictionaries(names, values, max_size=3))
def test_what_sails_io_js_writes_is_a_request(method: str, data: dict[str, Any]):
    packet = encode(EVENT, "/", 7, [method, {"method": method, "headers": {}, "data": data, "url": "/orders/42"}])
    emit = dialect.decode(packet)
    assert isinstance(emit, Emit)
    assert emit.route is not None
    assert (str(emit.route), emit.args, emit.reply_id) == (f"{method.upper()} /orders/42", (data,), 7)


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("get", ()),
        ("get", ("/orders",)),
        ("get", ({"url": 7},)),
        ("get", ({"key": "/orders"},)),
        ("get", ({"url": "https://example.org/"},)),
        ("get", ({"url": "orders", "method": "post"},)),
        ("get", ({"url": "orders", "method": ["get"]},)),
        ("get", ({"url": "/orders"}, 1)),
        ("GET", ({"url": "/orders"},)),
        ("orders.get", ({"url": "/orders"},)),
    ],
)
def test_any_other_emit_stays_as_it_is(event: str, args: tuple[Any, ...]):
    emit = Emit(event, args, 7)
    assert as_request(emit) is emit
    assert not isinstance(emit.reply_id, JwrId)


@pytest.mark.parametrize(
    ("url", "data", "path", "seen"),
    [
        ("/orders", {}, "/orders", {}),
        ("/", None, "/", {}),
        ("/orders?limit=5&open=", {}, "/orders", {"limit": "5", "open": ""}),
        ("/orders?id=1&id=2", {}, "/orders", {"id": ["1", "2"]}),
        ("/orders?a=1&b=2", {"a": 3}, "/orders", {"a": 3, "b": "2"}),
        ("/orders?a=1", [1, 2], "/orders", [1, 2]),
        ("/a%20b?c=%C3%A4+d#e", None, "/a%20b", {"c": "ä d"}),
    ],
)
def test_the_query_is_data_that_the_data_overrides(url: str, data: Any, path: str, seen: Any):
    emit = asked("get", url=url, data=data)
    assert emit.route is not None
    assert (emit.route.path, emit.args) == (path, (seen,))


@pytest.mark.parametrize(("url", "path"), [("orders/42", "orders/42"), ("x?y=/z", "x"), ("", "/")])
def test_beside_its_method_any_url_counts(url: str, path: str):
    emit = asked("get", url=url, method="GET")
    assert emit.route is not None
    assert emit.route.path == path


def test_headers_are_texts_with_names_in_lower_case():
    emit = asked("put", url="/", headers={"X-A": "b", "n": 1, "yes": True, "no": None, "list": [1]})
    assert emit.route is not None
    assert emit.route.headers == {"x-a": "b", "n": "1", "yes": "true", "list": "[1]"}
    for odd in (None, "text", [1]):
        other = asked("put", url="/", headers=odd)
        assert other.route is not None
        assert other.route.headers == {}


def test_a_url_that_is_none_is_refused_by_a_jwr():
    with pytest.raises(Refusal) as caught:
        asked("get", url="/?a=%FF")
    refusal = caught.value
    *_, [told] = parse(dialect.error(refusal.reply_id, refusal.code, refusal.message))
    assert told["statusCode"] == 400


@given(values)
def test_an_answer_is_a_jwr(body: Any):
    written = json.dumps(body, indent=1).encode()
    kind, *_, reply_id, [told] = parse(dialect.answer(JwrId(7), written))
    assert (kind, reply_id, told) == (3, 7, {"statusCode": 200, "headers": {}, "body": body})


@given(st.sampled_from(sorted(STATUS_OF_CODE)), texts)
def test_a_refusal_is_a_jwr_with_its_number(code: str, message: str):
    *_, reply_id, [told] = parse(dialect.error(JwrId(7), code, message))
    status = 404 if code == "no_service" else STATUS_OF_CODE[code]
    assert (reply_id, told) == (7, {"statusCode": status, "headers": {}, "body": {"code": code, "message": message}})


def test_a_code_of_the_services_own_is_500():
    *_, [told] = parse(dialect.error(JwrId(7), "sold_out", "no more"))
    assert (told["statusCode"], told["body"]["code"]) == (500, "sold_out")


@given(methods, values | st.fixed_dictionaries({"url": texts, "method": methods}, optional={"headers": values}))
@example("get", {"url": "/?" + "&" * 100_000})
def test_no_request_raises_anything_but_a_refusal(method: str, request: Any):
    with contextlib.suppress(Refusal):
        emit = as_request(Emit(method, (request,), 7))
        orjson.dumps(emit.args)
