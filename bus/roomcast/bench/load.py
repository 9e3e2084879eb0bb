"""The load of one process: many websockets on one epoll loop, that check what arrives and how late.

Casts that go to many sockets arrive as the same bytes at each: a chunk that equals the last one of its length is not
taken apart again. The numbers in it are compared with what each socket expects next all the same.
"""

from __future__ import annotations

import errno
import heapq
import os
import random
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import orjson

from roomcast.bench.connection import Conn, Target, connect
from roomcast.bench.counts import Counts, Opened
from roomcast.bench.frames import CLOSE, FIRST, PING, TEXT, Chunk, client_frame, parse, reply_number, request

READ_BYTES = 1 << 16
KNOWN_CHUNKS = 64
SHAKING = 256
"""Connections of one process whose handshake is under way."""
COME_AGAIN = (0.5, 2.0)
"""Seconds after which a client that was turned away comes again: between these."""
REPORT_EVERY = 0.1
"""Seconds between two words on how many sockets are ready."""


class Load:
    """The websockets of one process. ``told`` is called with the number that are ready, now and then."""

    def __init__(self, targets: list[Target], told: Callable[[int], None]) -> None:
        self._targets = targets
        self._told = told
        self._epoll = select.epoll()
        self._conns: dict[int, Conn] = {}
        self._stalled: list[Conn] = []
        self._known: dict[int, Chunk] = {}
        self._hellos: list[str] = []
        self._sessions: dict[int, str] = {}
        # While clients come back: when (time.monotonic) those that were turned away come again, and their index.
        self._again: list[tuple[float, int]] | None = None
        self._opened = Opened()
        self._counts = Counts()
        self._shaking = 0
        self._greeted = True
        self._last_wanted = True
        self._counted_from = (0.0, 0.0)
        self._control = -1

    def listen(self, fd: int) -> None:
        """Let :meth:`pump` tell when there is something to read from this descriptor."""
        self._control = fd
        self._epoll.register(fd, select.EPOLLIN)

    # -- commands ------------------------------------------------------------------------------------------------------

    def open(
        self,
        first: int,
        count: int,
        hellos: list[str],
        within: float,
        narrow: bool = False,
        greeted: bool = True,
    ) -> Opened:
        """Open websockets with the indices from ``first``; each says its hellos after the handshake.

        In a hello ``{i}`` stands for the index. Waits at most ``within`` seconds until the server has greeted each
        (unless ``greeted`` is false: it does not) and answered its hellos. ``narrow``: see :func:`connect`.
        """
        self._hellos, self._greeted = hellos, greeted
        return self._open(list(range(first, first + count)), within, narrow)

    def resume(self, targets: list[Target], within: float) -> Opened:
        """Come back with the session of each socket, all at once, to other servers, when all connections have ended.

        Who is turned away comes again after a moment, until ``within`` seconds from then are over.
        """
        deadline = time.monotonic() + within
        while self._conns and time.monotonic() < deadline:
            self.pump(0.02)
        self._targets, self._hellos, self._again = targets, [], []
        try:
            return self._open(list(self._sessions), within, narrow=False)
        finally:
            self._again = None

    def _open(self, indices: list[int], within: float, narrow: bool) -> Opened:
        opened = self._opened = Opened()
        count = len(indices)
        indices.reverse()
        began = time.monotonic()
        deadline, tell_at = began + within, began
        waits = len(self._hellos) + (1 if self._greeted else 0)
        while True:
            now = time.monotonic()
            while self._again and self._again[0][0] < now:
                indices.append(heapq.heappop(self._again)[1])
            while indices and self._shaking < SHAKING:
                self._connect(indices.pop(), waits, narrow)
            if now >= tell_at:
                self._told(opened.ready)
                tell_at = now + REPORT_EVERY
            if opened.ready + opened.lost + opened.forbidden >= count or now > deadline:
                break
            self.pump(0.02)
        opened.seconds = time.monotonic() - began
        late = count - opened.ready - opened.lost - opened.forbidden
        if late:
            opened.why = opened.why or f"{late} sockets were not ready within {within:g} s"
            opened.lost += late
        return opened

    def ask(self, text: str, times: int, within: float) -> int:
        """Ask this so many times on each socket, at once; returns how many answers have come, errors left out."""
        asked = client_frame(TEXT, text.encode()) * times
        conns = list(self._conns.values())
        before = sum(conn.answers for conn in conns)
        for conn in conns:
            conn.waits += times
            self._send(conn, asked)
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and any(0 <= conn.answers < conn.waits for conn in conns):
            self.pump(0.05)
        return sum(conn.answers for conn in conns) - before

    def ids(self) -> list[tuple[int, str]]:
        """Index and id of each socket."""
        return [(conn.index, conn.id) for conn in self._conns.values()]

    def count(self, last_wanted: bool = True) -> None:
        """Count from now on, from number ``FIRST``. ``last_wanted``: note when the last socket has each cast."""
        self._counts = Counts()
        self._counted_from = (time.process_time(), time.monotonic())
        self._last_wanted = last_wanted
        for conn in self._conns.values():
            conn.next = FIRST

    def deliveries(self) -> int:
        """Casts that have arrived since :meth:`count`."""
        return self._counts.deliveries

    def counts(self) -> Counts:
        """All that has arrived since :meth:`count`."""
        used, passed = time.process_time() - self._counted_from[0], time.monotonic() - self._counted_from[1]
        self._counts.busy = used / max(passed, 1e-6)
        return self._counts

    def stall(self, first: int) -> int:
        """Read no more from sockets with this index and above; returns how many these are."""
        self._stalled = [conn for conn in self._conns.values() if conn.index >= first]
        for conn in self._stalled:
            self._epoll.unregister(conn.fd)
            del self._conns[conn.fd]
        return len(self._stalled)

    def close(self, within: float) -> None:
        """Leave, as clients do that do not come back; at most ``within`` seconds are waited for the servers."""
        for conn in self._conns.values():
            self._send(conn, client_frame(CLOSE, b"\x03\xe8"))
        deadline = time.monotonic() + within
        while self._conns and time.monotonic() < deadline:
            self.pump(0.05)
        for conn in [*self._conns.values(), *self._stalled]:
            conn.end()
        self._conns.clear()
        self._stalled.clear()
        self._sessions.clear()
        self._known.clear()

    # -- connecting ----------------------------------------------------------------------------------------------------

    def _connect(self, index: int, waits: int, narrow: bool) -> None:
        target = self._targets[index % len(self._targets)]
        sock, why = connect(target, index, narrow)
        if why:
            sock.close()
            self._fail(index, why)
            return
        conn = Conn(sock, index, waits)
        self._conns[conn.fd] = conn
        self._shaking += 1
        self._epoll.register(conn.fd, select.EPOLLIN | select.EPOLLOUT)

    def _fail(self, index: int, why: str) -> None:
        self._opened.why = self._opened.why or why
        if self._again is None:
            self._opened.lost += 1
        else:
            self._opened.again += 1
            heapq.heappush(self._again, (time.monotonic() + random.uniform(*COME_AGAIN), index))

    def _shake(self, conn: Conn) -> None:
        """A step of the handshake: the request, then the answer to it, then the hellos."""
        if conn.shaking == 1:
            failed = conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self._lose(conn, os.strerror(failed))
                return
            conn.shaking = 2
            target = self._targets[conn.index % len(self._targets)]
            session = "" if self._again is None else self._sessions[conn.index]
            self._send(conn, request(target.host, target.port, target.path, session))
            self._epoll.modify(conn.fd, select.EPOLLIN)
            return
        data = self._read(conn)
        if data is None:
            return
        head, end, conn.rest = (conn.rest + data).partition(b"\r\n\r\n")
        if not end:
            conn.rest = head
        elif head[9:12] != b"101":
            self._lose(conn, "the handshake was answered " + head[9:60].split(b"\r\n")[0].decode("latin-1"))
        else:
            conn.shaking = 0
            self._shaking -= 1
            for hello in self._hellos:
                self._send(conn, client_frame(TEXT, hello.replace("{i}", str(conn.index)).encode()))
            if not conn.waits:
                self._opened.ready += 1
            rest, conn.rest = conn.rest, b""
            if rest:
                self._take(conn, parse(rest))

    # -- what arrives --------------------------------------------------------------------------------------------------

    def pump(self, timeout: float) -> bool:
        """Read what is there, waiting at most ``timeout`` seconds; true when the control pipe has something."""
        conns, known, read, now_ns = self._conns, self._known, os.read, time.time_ns
        note, last_wanted = self._counts.note, self._last_wanted
        called = False
        for fd, _ in self._epoll.poll(timeout):
            conn = conns.get(fd)
            if conn is None:  # the control pipe, or a connection that ended just now
                called = called or fd == self._control
                continue
            if conn.shaking:
                self._shake(conn)
                continue
            try:
                data = read(fd, READ_BYTES)
            except OSError as error:
                self._on_error(conn, error)
                continue
            if conn.rest or not data:
                self._slow_path(conn, data)
                continue
            size = len(data)
            chunk = known.get(size)
            if chunk is None or chunk.data != data:
                chunk = parse(data)
                if len(known) >= KNOWN_CHUNKS:
                    known.clear()
                known[size] = chunk
            if chunk.others or chunk.rest or chunk.broken is not None or chunk.first != conn.next:
                self._take(conn, chunk)
                continue
            conn.next = chunk.last + 1
            note(chunk, now_ns(), last_wanted)
        return called

    def _slow_path(self, conn: Conn, data: bytes) -> None:
        if data:
            self._take(conn, parse(conn.rest + data))
        else:
            self._lose(conn, "the server closed the connection")

    def _take(self, conn: Conn, chunk: Chunk) -> None:
        """What is not the next casts and nothing else."""
        conn.rest = chunk.rest
        if chunk.casts:
            for number in chunk.broken or range(chunk.first, chunk.first + chunk.casts):
                if number >= conn.next:
                    self._counts.gaps += number - conn.next
                    conn.next = number + 1
                else:
                    self._counts.duplicates += 1
            self._counts.note(chunk, time.time_ns(), self._last_wanted)
        for opcode, payload in chunk.others:
            if opcode == PING:
                self._send(conn, client_frame(0x8A, payload))
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                self._lose(conn, f"the server closed with {code}: {payload[2:].decode('utf-8', 'replace')}")
                return
            elif conn.answers < conn.waits:
                self._answered(conn, payload)

    def _answered(self, conn: Conn, payload: bytes) -> None:
        if b'"error":' in payload[:40] and reply_number(payload) is not None:
            conn.waits = -1
            self._opened.forbidden += 1
            self._opened.why = self._opened.why or payload.decode("utf-8", "replace")[:200]
            return
        if self._greeted and not conn.id:
            greeting = orjson.loads(payload)["data"]
            conn.id, self._sessions[conn.index] = str(greeting["id"]), str(greeting["session"])
            self._opened.resumed += bool(greeting["resumed"])
        conn.answers += 1
        if conn.answers == conn.waits:
            self._opened.ready += 1

    def _read(self, conn: Conn) -> bytes | None:
        try:
            data = os.read(conn.fd, READ_BYTES)
        except OSError as error:
            self._on_error(conn, error)
            return None
        if not data:
            self._lose(conn, "the server closed the connection during the handshake")
            return None
        return data

    def _on_error(self, conn: Conn, error: OSError) -> None:
        if error.errno not in (errno.EAGAIN, errno.EINTR):
            self._lose(conn, os.strerror(error.errno or errno.EIO))

    def _send(self, conn: Conn, data: bytes) -> None:
        with suppress(OSError):  # the next read tells of it
            os.write(conn.fd, data)

    def _lose(self, conn: Conn, why: str) -> None:
        """A connection that ended by itself."""
        del self._conns[conn.fd]
        conn.end()
        self._counts.closed += 1
        if conn.shaking:
            self._shaking -= 1
        if conn.shaking or 0 <= conn.answers < conn.waits:
            self._fail(conn.index, why)
