"""The limit of this machine, in Python: ``os.write`` in a tight loop, one write for each socket and message.

Nothing is decided, encoded or found: what an edge adds to this is its own cost. A loop in C is a little faster.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Self

from roomcast.bench.errors import BenchError
from roomcast.bench.forks import context, end, fork
from roomcast.bench.frames import FIRST, PAYLOAD_BYTES
from roomcast.bench.machine import pin

WITHIN = 60.0
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Limit:
    """A process that accepts sockets, then writes to all of them. Use it as a context."""

    def __init__(self, cpus: Sequence[int]) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = int(listener.getsockname()[1])
        self._pipe, theirs = context.Pipe()
        self._process = fork("limit", _serve, listener, theirs, self._pipe, tuple(cpus))
        theirs.close()
        listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        end(self._process)

    def accept(self, count: int) -> None:
        """Accept so many sockets from now on, beside what else goes on."""
        self._pipe.send(count)

    def run(self, messages: int, per_second: float) -> float:
        """Write so many messages to every socket, one at a time; returns the seconds of CPU time that it took."""
        try:
            if not self._pipe.poll(WITHIN):
                raise BenchError("the sockets of the limit were not accepted in time")
            self._pipe.recv()
            self._pipe.send((messages, per_second))
            if not self._pipe.poll(WITHIN + messages / per_second):
                raise BenchError("the limit was not measured in time")
            return float(self._pipe.recv())
        except (EOFError, OSError) as error:
            raise BenchError("the process that measures the limit has died") from error


def _serve(listener: socket.socket, control: Connection, inherited: Connection, cpus: tuple[int, ...]) -> None:
    inherited.close()
    pin(cpus)
    with suppress(EOFError, OSError, BenchError):
        sockets = _accept(listener, control.recv())
        control.send(len(sockets))
        messages, per_second = control.recv()
        control.send(_write([sock.fileno() for sock in sockets], messages, per_second))
        control.poll(WITHIN)  # the sockets stand until the load has counted


def _accept(listener: socket.socket, count: int) -> list[socket.socket]:
    sockets: dict[int, socket.socket] = {}
    answered: list[socket.socket] = []
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    listener.setblocking(False)
    deadline = time.monotonic() + WITHIN
    while len(answered) < count and time.monotonic() < deadline:
        for fd, _ in poll.poll(1.0):
            if fd == listener.fileno():
                with suppress(BlockingIOError):
                    sock, _ = listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sockets[sock.fileno()] = sock
                    poll.register(sock, select.EPOLLIN)
            elif sockets[fd].recv(4096):
                poll.unregister(fd)
                sockets[fd].sendall(UPGRADE)
                sockets[fd].setblocking(False)
                answered.append(sockets[fd])
    return answered


def _write(fds: list[int], messages: int, per_second: float) -> float:
    padding = b"x" * (PAYLOAD_BYTES - len(b'{"bench":[,],"text":""}') - 29)
    before = os.times()
    began = time.perf_counter()
    write = os.write
    for number in range(messages):
        wait = began + number / per_second - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        data = b'{"event":"message","data":{"bench":[%d,%d],"text":"%b"}}' % (FIRST + number, time.time_ns(), padding)
        frame = b"\x81\x7e" + len(data).to_bytes(2, "big") + data
        try:
            for fd in fds:
                write(fd, frame)
        except BlockingIOError:
            raise BenchError("the load reads too slowly to measure the limit") from None
    after = os.times()
    return after.user + after.system - before.user - before.system
