"""Answers: the code of the protocol for each thing that can go wrong, and the error that it becomes again."""

from __future__ import annotations

import pytest
from nats import errors as nats_errors

from roomcast.envelope import error_body, parse_answer
from roomcast.errors import (
    BusTimeout,
    BusUnavailable,
    ConnectionLost,
    OutcomeUnknown,
    PermissionDenied,
    RemoteError,
    RoomcastError,
)
from roomcast_edge.answers import Refused, error_of
from roomcast_edge.kv import KvRefused, KvUnavailable, KvUnknown
from roomcast_edge.records import UnknownVersion


@pytest.mark.parametrize(
    ("error", "code", "raised"),
    [
        (KvUnknown("unheard"), "timeout", BusTimeout),
        (BusTimeout("late"), "timeout", BusTimeout),
        (ConnectionLost("cut"), "timeout", BusTimeout),
        (TimeoutError(), "timeout", BusTimeout),
        (KvUnavailable("no leader; this text says unknown and means nothing by it"), "unavailable", BusUnavailable),
        (BusUnavailable("away"), "unavailable", BusUnavailable),
        (nats_errors.ConnectionReconnectingError(), "unavailable", BusUnavailable),
        (PermissionDenied("publish", "$KV.bus.>"), "unavailable", BusUnavailable),
        (UnknownVersion("upgrade"), "unavailable", BusUnavailable),
        (KvRefused("too large"), "too_large", RemoteError),
        (Refused("conflict", "another"), "conflict", RemoteError),
        (ValueError("join names nothing"), "bad_request", RemoteError),
        (RuntimeError("a fault"), "internal", RemoteError),
    ],
)
def test_each_error_has_its_code_and_becomes_one_of_its_kind_again(
    error: Exception, code: str, raised: type[RoomcastError]
):
    told, message = error_of(error)
    assert (told, bool(message)) == (code, True)
    with pytest.raises(raised) as again:
        parse_answer(error_body(told, message))
    assert isinstance(again.value, OutcomeUnknown) == (code == "timeout"), "what is unknown stays so on its way"
