"""A crowd of light websocket clients in one process: they come back with their sessions, as a close tells them to."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from typing import Self, cast

from support.raw_client import CLOSE, PING, PONG, TEXT, frame

COME_BACK = re.compile(rb"come back in (\d+\.\d) s")
CAST = b'{"event":"cast","data":'
AT_ONCE = 50
"""Members that connect at the same time at first."""


class Member(asyncio.Protocol):
    """One client through all its connections."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.id = ""
        self.session = ""
        self.greetings: list[tuple[float, bool]] = []
        """When each connection was greeted, and whether it was a resume."""
        self.ends: list[tuple[float, int]] = []
        """When each connection ended, and with which close code (1006: none)."""
        self.heard: dict[int, int] = {}
        """The number of each cast that was heard, and over which of the connections."""
        self.refused = 0
        """Handshakes that were answered with something else than a websocket."""
        self.attempts: list[float] = []
        """When it tried to connect."""
        self.connected = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._dialing: asyncio.Task[None] | None = None
        self._buffer = b""
        self._shaken = False
        self._code = 1006
        self._pause = 0.5
        self._over = False

    def come(self) -> None:
        """Connect, with the session that it has."""
        self.attempts.append(time.monotonic())
        self._dialing = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, *self._address)
        except OSError:
            self._again(0.5)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a websocket."""
        self._transport = cast(asyncio.Transport, transport)
        self._buffer, self._shaken, self._code, self._pause = b"", False, 1006, 0.5
        session = f"Roomcast-Session: {self.session}\r\n" if self.session else ""
        self._transport.write(
            (
                "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{session}\r\n"
            ).encode()
        )

    def data_received(self, data: bytes) -> None:
        """The answer to the handshake, then frames."""
        buffer = self._buffer + data
        if not self._shaken:
            head, end, rest = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = buffer
                return
            assert self._transport is not None, "it is connected"
            if not head.startswith(b"HTTP/1.1 101"):
                self.refused += 1
                self._transport.abort()
                return
            self._shaken, buffer = True, rest
        at, size = 0, len(buffer)
        while at + 2 <= size:
            length, start = buffer[at + 1], at + 2
            if length == 126:
                if size < at + 4:
                    break
                length, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            assert length < 65536, "no frame of these tests is larger"
            if size < start + length:
                break
            self._take(buffer[at] & 15, buffer[start : start + length])
            at = start + length
        self._buffer = buffer[at:]

    def _take(self, opcode: int, payload: bytes) -> None:
        assert self._transport is not None, "it is connected"
        if opcode == TEXT and payload.startswith(CAST):
            number = int(payload[len(CAST) : -1])
            assert number not in self.heard, f"cast {number} came twice"
            self.heard[number] = len(self.greetings)
        elif opcode == TEXT:
            greeting = json.loads(payload)
            assert greeting["event"] == "connect", greeting
            data = greeting["data"]
            self.id, self.session = data["id"], data["session"]
            self.greetings.append((time.monotonic(), data["resumed"]))
            self.connected.set()
        elif opcode == PING:
            self._transport.write(frame(PONG, payload))
        elif opcode == CLOSE:
            self._code = int.from_bytes(payload[:2], "big")
            told = COME_BACK.search(payload)
            self._pause = float(told[1]) if told else 0.5
            self._transport.write(frame(CLOSE, payload[:2]))
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """Come back when it was told to, or in a while."""
        if self.connected.is_set():
            self.ends.append((time.monotonic(), self._code))
        self.connected.clear()
        self._again(self._pause)

    def _again(self, pause: float) -> None:
        if not self._over:
            self._timer = asyncio.get_running_loop().call_later(pause * random.uniform(0.9, 1.1), self.come)

    def leave(self) -> None:
        """Stay away."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._dialing is not None:
            self._dialing.cancel()
        if self._transport is not None:
            self._transport.abort()

    def has_gap(self) -> bool:
        """Whether a cast is missing between two that were heard over one connection, or they came disordered."""
        heard = list(self.heard.items())
        return any(number != before + 1 for (before, one), (number, other) in itertools.pairwise(heard) if one == other)


class Crowd:
    """So many members at one address; all are connected when it is entered."""

    def __init__(self, count: int, port: int, host: str = "127.0.0.1") -> None:
        self.members = [Member(host, port) for _ in range(count)]

    async def __aenter__(self) -> Self:
        for start in range(0, len(self.members), AT_ONCE):
            batch = self.members[start : start + AT_ONCE]
            for member in batch:
                member.come()
            await self.all_connected(30, batch)
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            member.leave()
        await asyncio.gather(*[each._dialing for each in self.members if each._dialing], return_exceptions=True)

    async def all_connected(self, within: float, members: list[Member] | None = None) -> None:
        """Wait until everybody has a greeted connection."""
        async with asyncio.timeout(within):
            for member in self.members if members is None else members:
                await member.connected.wait()
