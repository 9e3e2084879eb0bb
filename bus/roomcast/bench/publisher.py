"""A publisher that costs next to nothing: prebuilt bytes on a raw NATS connection, in batches, at a pace."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Self
from urllib.parse import unquote, urlsplit

import orjson

from roomcast.bench.errors import BenchError

TIMEOUT = 10.0

Batch = Callable[[int], bytes]
"""Makes the bytes of the next batch from the time at which it is sent (ns since the epoch)."""
Tick = Callable[[float], None]
"""Hears how much is done, from 0 to 1."""


class Publisher:
    """One NATS connection that only publishes. Use it as a context."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = parts.hostname or "127.0.0.1", parts.port or 4222
        try:
            sock: socket.socket = socket.create_connection((host, port), TIMEOUT)
            info = orjson.loads(_line(sock).removeprefix(b"INFO"))
            if parts.scheme == "tls" or info.get("tls_required"):
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
            options: dict[str, object] = {"verbose": False, "pedantic": False, "headers": True, "name": "bench"}
            if parts.username and parts.password is None:
                options["auth_token"] = unquote(parts.username)
            elif parts.username:
                options["user"], options["pass"] = unquote(parts.username), unquote(parts.password or "")
            sock.sendall(b"CONNECT " + orjson.dumps(options) + b"\r\nPING\r\n")
            answer = _line(sock)
        except (OSError, ValueError) as error:
            raise BenchError(f"NATS cannot be published to at {host}:{port}: {error}") from error
        if not answer.startswith(b"PONG"):
            raise BenchError(f"NATS at {host}:{port} refuses the publisher: {answer.decode('utf-8', 'replace')}")
        self._sock = sock
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, data: bytes) -> None:
        """Send whole operations; answers the server's pings. :class:`BenchError` when it goes away."""
        try:
            self._sock.sendall(data)
            while select.select([self._sock], [], [], 0)[0]:
                self._hear(self._sock.recv(1 << 16))
        except OSError as error:
            raise BenchError(f"NATS does not take casts any more: {error}") from error

    def flush(self) -> None:
        """Wait until the server has all that was sent."""
        self._read = b""
        self.send(b"PING\r\n")
        try:
            while b"PONG" not in self._read:
                self._hear(self._sock.recv(1 << 16))
        except OSError as error:
            raise BenchError(f"NATS does not answer any more: {error}") from error

    def pace(self, batches: int, per_second: float, make: Batch, tick: Tick = lambda _: None) -> float:
        """Send so many batches, so many a second; returns the seconds that it took.

        A batch that is late is sent at once, and those behind it keep to the plan.
        """
        began = time.perf_counter()
        for number in range(batches):
            wait = began + number / per_second - time.perf_counter()
            if wait > 0:
                tick(number / batches)
                wait = began + number / per_second - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
            self.send(make(time.time_ns()))
        self.flush()
        return time.perf_counter() - began

    def _hear(self, data: bytes) -> None:
        if not data:
            raise OSError("the connection was closed")
        self._read = (self._read + data)[-4096:]
        if b"-ERR" in self._read:
            raise BenchError(f"NATS refuses a cast: {self._read.decode('utf-8', 'replace').strip()}")
        if b"PING\r\n" in self._read:
            self._read = self._read.replace(b"PING\r\n", b"")
            self._sock.sendall(b"PONG\r\n")


def _line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        got = sock.recv(1)
        if not got:
            raise OSError("the connection was closed")
        line += got
    return line.strip()
