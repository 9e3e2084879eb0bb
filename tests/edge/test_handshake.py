"""What a client asks for in its HTTP request: each carrier of a token and a session, and their order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from roomcast_edge.handshake import Handshake, offered_protocols, read_handshake, split_target


@pytest.mark.parametrize("carriers", list(itertools.product([False, True], repeat=3)))
def test_the_safest_carrier_counts(carriers: tuple[bool, bool, bool]):
    in_header, in_protocol, in_query = carriers
    headers, target = Headers(), "/ws"
    if in_header:
        headers["Authorization"] = "Bearer token-header"
        headers["Roomcast-Session"] = "session-header"
    if in_protocol:
        headers["Sec-WebSocket-Protocol"] = "roomcast.v1, roomcast.token.token-protocol"
        headers["Sec-WebSocket-Protocol"] = "roomcast.session.session-protocol"
    if in_query:
        target = "/ws?x=1&token=token-query&session=session-query"
    place = next((name for name, there in zip(("header", "protocol", "query"), carriers, strict=True) if there), "")
    told = read_handshake(*split_target(target), headers, "10.0.0.1")
    expected = (f"token-{place}", f"session-{place}") if place else ("", "")
    query = split_target(target)[1]
    assert told == Handshake("/ws", *expected, address="10.0.0.1", headers=headers, query=query)


@pytest.mark.parametrize(
    ("authorization", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("BEARER a.b-c_d", "a.b-c_d"),
        ("Basic abc", ""),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("abc", ""),
        ("", ""),
    ],
)
def test_only_a_bearer_is_a_token(authorization: str, token: str):
    assert read_handshake("/ws", {}, Headers(Authorization=authorization)).token == token


def test_a_query_is_decoded():
    told = read_handshake(*split_target("/ws?session=a.b%2Ec&token=%C3%BC%20+"), Headers())
    assert (told.session, told.token) == ("a.b.c", "ü  ")
    assert read_handshake(*split_target("/ws?token=first&token=second&session="), Headers()).token == "first"


latin = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"))


@given(
    st.text() | st.text(alphabet="/?[]:@#%&=;*.wshtp0"),
    st.dictionaries(st.sampled_from(["Authorization", "Roomcast-Session", "Sec-WebSocket-Protocol", "Host"]), latin),
)
def test_no_request_is_too_odd_to_read(target: str, fields: dict[str, str]):
    headers = Headers(fields)
    told = read_handshake(*split_target(target), headers)
    assert isinstance(told.token, str)
    assert isinstance(told.session, str)
    assert split_target(target)[0] == told.path
    assert all(protocol == protocol.strip() != "" for protocol in offered_protocols(headers))


@given(st.lists(st.text(alphabet="abc.v1-", min_size=1), max_size=5))
def test_offered_protocols_are_read_from_one_line_or_several(protocols: list[str]):
    one, several = Headers(), Headers()
    one["Sec-WebSocket-Protocol"] = " , ".join(protocols)
    for protocol in protocols:
        several["Sec-WebSocket-Protocol"] = protocol
    assert offered_protocols(one) == offered_protocols(several) == protocols
