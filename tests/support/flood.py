"""Traffic that keeps the route between two NATS nodes busy, so that what takes it comes later than by a detour."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK = 512 * 1024
WINDOW = 8
"""Messages that are on their way at most."""


class Flood:
    """From one node to another for as long as it is entered, in two threads that only read and write sockets."""

    def __init__(self, source: str, target: str, subject: str) -> None:
        self._from, self._to = self._dial(source), self._dial(target)
        self._to.sendall(f"SUB {subject} 1\r\nPING\r\n".encode())
        self._message = f"PUB {subject} {CHUNK}\r\n".encode() + bytes(CHUNK) + b"\r\nPONG\r\n"
        self._room = threading.Semaphore(WINDOW)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._write)]
        self.received = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._room.release()
        for end in (self._from, self._to):
            end.close()
        for thread in self._threads:
            thread.join(5)

    def _dial(self, url: str) -> socket.socket:
        address = urlsplit(url)
        end = socket.create_connection((address.hostname or "", address.port or 0), timeout=2)
        end.recv(65536)  # INFO
        end.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        return end

    def _read(self) -> None:
        buffer = bytearray(CHUNK)
        counted = 0
        while not self._over.is_set():
            try:
                counted += self._to.recv_into(buffer)
                while counted >= CHUNK:
                    counted -= CHUNK
                    self.received += 1
                    self._to.sendall(b"PONG\r\n")  # the server would count its pings as unanswered
                    self._room.release()
            except TimeoutError:
                continue
            except OSError:
                return

    def _write(self) -> None:
        while not self._over.is_set():
            self._room.acquire()
            try:
                self._from.sendall(self._message)
            except OSError:
                return
