"""An outbox borrows its transport's descriptor, and never closes it: it may be another connection's by then."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from typing import Any, cast

import pytest

from roomcast_edge.dialects.json import JsonDialect
from roomcast_edge.outbox import Outbox


class Transport:
    """A transport that holds nothing back."""

    def __init__(self, tcp: socket.socket) -> None:
        self.tcp = tcp
        self.written: list[bytes] = []

    def get_extra_info(self, _: str) -> socket.socket:
        return self.tcp

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.written.append(data)


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(5)
        yield left, right


def outbox(tcp: socket.socket, plain: bool = True) -> tuple[Outbox, Transport]:
    transport = Transport(tcp)
    return Outbox(cast(asyncio.Transport, transport), JsonDialect(), 1000, lambda: None, plain), transport


def test_one_that_is_never_opened_leaves_the_descriptor_alone(ends: Any):
    made, transport = outbox(ends[0])
    made.write(b"x")
    assert transport.written == [b"x"], "by the transport, until it is opened"
    del made
    gc.collect()
    os.fstat(ends[0].fileno())


def test_one_that_is_closed_leaves_the_descriptor_alone(ends: Any):
    made, transport = outbox(ends[0])
    made.open()
    made.write(b"direct")
    assert (ends[1].recv(10), transport.written) == (b"direct", [])
    made.close()
    made.write(b"x")
    assert transport.written == [b"x"]
    del made
    gc.collect()
    os.fstat(ends[0].fileno())


def test_what_the_transport_holds_back_goes_first(ends: Any):
    made, transport = outbox(ends[0])
    made.pause()
    made.open()
    made.write(b"later")
    assert (made.backlog, transport.written) == ([b"later"], [])
    made.resume()
    assert ends[1].recv(10) == b"later"
    made.close()


def test_one_over_tls_goes_by_the_transport(ends: Any):
    made, transport = outbox(ends[0], plain=False)
    made.open()
    made.write(b"x")
    assert transport.written == [b"x"]
