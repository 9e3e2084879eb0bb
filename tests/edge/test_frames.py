"""Frames: byte for byte what the websockets library writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from roomcast_edge.frames import PING, close_frame, text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_a_text_frame_of_each_kind_of_length(size: int):
    payload = bytes(range(256)) * (size // 256 + 1)
    assert text_frame(payload[:size]) == Frame(Opcode.TEXT, payload[:size]).serialize(mask=False)


@given(st.binary(max_size=300))
def test_a_text_frame_of_any_bytes(payload: bytes):
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@given(st.sampled_from([1000, 1002, 1012, 4000, 4999]), st.text(max_size=200))
def test_a_close_frame_holds_the_code_and_what_fits_of_the_reason(code: int, reason: str):
    data = close_frame(code, reason)
    assert len(data) <= 127
    told = Close.parse(data[2:])
    assert data == Frame(Opcode.CLOSE, told.serialize()).serialize(mask=False)
    assert told.code == code
    assert reason.startswith(told.reason)
    if told.reason != reason:
        assert len((told.reason + reason[len(told.reason)]).encode()) > 123, "no more would have fitted"


def test_a_ping():
    assert Frame(Opcode.PING, b"").serialize(mask=False) == PING
