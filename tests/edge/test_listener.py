"""Opening a session, whatever goes wrong: the connection ends, since nobody else would end it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from roomcast_edge.auth import Denied
from roomcast_edge.closing import CloseCode
from roomcast_edge.connection import Connection
from roomcast_edge.handshake import Handshake
from roomcast_edge.kv import KvUnavailable
from roomcast_edge.listener import Listener
from roomcast_edge.metrics import Metrics
from roomcast_edge.settings import Settings
from support.until import until


@pytest.mark.parametrize(
    ("error", "code", "outcome"),
    [
        (Denied("no"), CloseCode.REFUSED, "denied"),
        (Denied("old", CloseCode.TOKEN_EXPIRED), CloseCode.TOKEN_EXPIRED, "denied"),
        (Denied("nobody knows", CloseCode.TRY_LATER), CloseCode.TRY_LATER, "unavailable"),
        (KvUnavailable("no leader"), CloseCode.TRY_LATER, "unavailable"),
        (RuntimeError("what nobody has thought of"), CloseCode.TRY_LATER, "failed"),
    ],
)
async def test_what_goes_wrong_ends_the_connection(error: Exception, code: CloseCode, outcome: str, caplog):
    async def admit(_: Handshake) -> Any:
        raise error

    ended: list[CloseCode] = []
    connection = cast(Connection, SimpleNamespace(end=lambda code, _: ended.append(code)))
    nothing: Any = None
    auth, metrics = cast(Any, SimpleNamespace(admit=admit)), Metrics()
    listener = Listener(
        *(Settings(), nothing, nothing, nothing, auth, nothing, nothing, metrics),
        *(lambda *_: None, lambda _: None, lambda: True),
    )
    listener.open(connection, Handshake("/ws"))
    await until(lambda: ended == [code])
    assert metrics.handshakes[outcome] == 1
    await until(lambda: ("what nobody has thought of" in caplog.text) == isinstance(error, RuntimeError))
