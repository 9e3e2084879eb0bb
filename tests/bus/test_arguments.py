"""The positional manner of ``broadcast`` and ``blast``: what is the event, what the data, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.arguments import MISSING, Cast, omitted_id, read_cast
from roomcast.handlers import Request
from roomcast.membership import Socket, parse_socket, socket_id
from roomcast.names import check_event

ID = "k3f9x2a7.8Hd72kQpX0aLmT5v"
SOCKET = Socket(ID)

events = st.text("abé. ", min_size=1, max_size=10)
no_text = st.none() | st.integers() | st.lists(st.integers(), max_size=3) | st.dictionaries(st.text(), st.integers())
any_data = no_text | st.text(max_size=10)
targets = st.sampled_from([None, ID, SOCKET, SimpleNamespace(socket=SOCKET), {"socket": SOCKET}])


def cast_of(
    *args: Any, event: str | None = None, data: Any = MISSING, omit: Any = None, except_rooms: Any = ()
) -> Cast:
    return read_cast(args, event=event, data=data, omit=omit, except_rooms=except_rooms)


@given(events, any_data, targets, st.lists(st.sampled_from("abc"), unique=True))
def test_every_way_to_write_a_cast_means_the_same(event: str, data: Any, omit: Any, excepted: list[str]) -> None:
    expected = Cast(check_event(event), data, (*excepted, *([ID] if omit is not None else [])))
    assert cast_of(event, data, omit, except_rooms=excepted) == expected
    assert cast_of(event, data, omit=omit, except_rooms=excepted) == expected
    assert cast_of(event, data=data, omit=omit, except_rooms=excepted) == expected
    assert cast_of(event=event, data=data, omit=omit, except_rooms=excepted) == expected
    if not isinstance(data, str):
        assert cast_of(data, omit, event=event, except_rooms=excepted) == expected


@given(no_text, targets)
def test_what_is_no_text_is_the_data_of_a_message(data: Any, omit: Any) -> None:
    expected = Cast("message", data, () if omit is None else (ID,))
    assert cast_of(data, omit) == cast_of(data=data, omit=omit) == expected


@given(st.text(min_size=1))
def test_a_lone_text_is_a_type_error_that_says_what_to_write(text: str) -> None:
    with pytest.raises(TypeError, match="data="):
        cast_of(text)
    with pytest.raises(TypeError):
        cast_of(text, event="an event")
    assert cast_of(data=text) == Cast("message", text, ())


@pytest.mark.parametrize(
    ("args", "named", "says"),
    [
        ((), {}, "no data"),
        ((), {"event": "e"}, "no data"),
        (("e", 1), {"event": "e"}, "event is given twice"),
        (("e", 1), {"data": 1}, "data is given twice"),
        ((1,), {"data": 1}, "data is given twice"),
        (("e", 1, ID), {"omit": ID}, "omit is given twice"),
        (("e", 1, ID, "more"), {}, "too many"),
        ((1, None, "more"), {}, "too many"),
        (("e", 1), {"omit": 7}, "expected a Socket"),
        (("e", 1), {"except_rooms": 7}, "except_rooms must be"),
    ],
)
def test_what_cannot_be_meant_is_a_type_error(args: tuple[Any, ...], named: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        cast_of(*args, **named)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("connect", 1), {}),
        (("bus:join", 1), {}),
        ((1,), {"event": "disconnect"}),
        (("", 1), {}),
        (("x" * 256, 1), {}),
        ((1,), {"except_rooms": [""]}),
        ((1,), {"except_rooms": [f"r{i}" for i in range(101)]}),
        ((1,), {"omit": "x" * 256}),
    ],
)
def test_a_bad_name_is_a_value_error(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"255|reserved|at most"):
        cast_of(*args, **named)


def test_none_is_data() -> None:
    assert cast_of(None) == cast_of("message", None) == Cast("message", None, ())


def test_a_request_that_came_over_no_socket_omits_nobody() -> None:
    assert omitted_id(SimpleNamespace(socket=None)) is None
    assert cast_of({"a": 1}, SimpleNamespace(socket=None)).except_rooms == ()


class HttpRequest:
    """What all frameworks' requests have: headers whose names ignore case."""

    def __init__(self, **headers: str) -> None:
        self._headers = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        self.headers = self

    def get(self, name: str) -> str | None:
        return self._headers.get(name.lower())


def test_an_http_request_names_the_socket_to_omit_by_its_header() -> None:
    assert omitted_id(HttpRequest(x_socket_id=ID)) == ID
    assert omitted_id(HttpRequest()) is None
    assert omitted_id(Request(headers={"X-Socket-Id": ID})) == ID


@pytest.mark.parametrize(
    "named", ["", "order-42", "user.42", f"{ID} order-42", f" {ID}", f"{ID}\n", "a" * 300, "\ud800"]
)
def test_a_forged_header_keeps_a_cast_from_no_room(named: str) -> None:
    assert omitted_id(HttpRequest(x_socket_id=named)) is None
    if 0 < len(named.encode(errors="replace")) < 256 and named != "\ud800":
        assert omitted_id(named) is None, "as a text that came from such a header"


def test_a_header_is_good_for_nothing_but_omitting() -> None:
    for request in (HttpRequest(x_socket_id=ID), Request(headers={"X-Socket-Id": ID})):
        assert parse_socket(request) is None
        with pytest.raises(TypeError, match="forged"):
            socket_id(request)
