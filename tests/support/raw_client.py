"""A client that says what a websocket library would not: bytes on TCP, and frames made by hand."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA

NO_CODE = 0
"""The connection ended without a close frame."""


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """One frame as a client writes it, or (not masked, with reserved bits) must not write it."""
    size = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if size < 126:
        head += bytes([masked << 7 | size])
    elif size < 65536:
        head += bytes([masked << 7 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([masked << 7 | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def text(message: Any) -> bytes:
    """A text frame of a message as JSON, or of bytes as they are."""
    return frame(TEXT, message if isinstance(message, bytes) else json.dumps(message).encode())


class RawClient:
    """A TCP connection to an edge. ``await RawClient.dial(port)``, then perhaps :meth:`upgrade`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.id = ""

    @classmethod
    async def dial(cls, port: int) -> RawClient:
        """Connect, and say nothing yet."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def greeted(cls, port: int) -> RawClient:
        """Connect, shake hands, and hear the greeting."""
        client = await cls.dial(port)
        status, _ = await client.upgrade()
        assert status == 101, status
        greeting = await client.message()
        assert greeting["event"] == "connect", greeting
        client.id = greeting["data"]["id"]
        return client

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self._writer.write(data)

    async def upgrade(
        self, target: str = "/ws", *, method: str = "GET", version: str = "1.1", **fields: str | None
    ) -> tuple[int, dict[str, str]]:
        """Ask for a websocket; returns the status and the headers. A field that is None is left out."""
        headers: dict[str, str | None] = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        }
        headers |= {name.replace("_", "-"): value for name, value in fields.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
        self.send(f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode("latin-1"))
        return await self.response()

    async def response(self, within: float = 5.0) -> tuple[int, dict[str, str]]:
        """The status and the headers of an HTTP response; status 0 when the connection ended instead."""
        try:
            head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), within)).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, {}
        status, *rows = head.strip().split("\r\n")
        return int(status.split()[1]), {key.lower(): value for key, value in (row.split(": ", 1) for row in rows)}

    async def frame(self, within: float = 5.0) -> tuple[int, bytes]:
        """The next frame: its opcode and payload. ``IncompleteReadError`` or ``ConnectionError`` at the end."""
        async with asyncio.timeout(within):
            first, second = await self._reader.readexactly(2)
            assert first & 0x70 == 0, "no reserved bit: nothing is compressed"
            assert second & 0x80 == 0, "a server does not mask"
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
            return first & 0x0F, await self._reader.readexactly(size)

    async def message(self, within: float = 5.0) -> dict[str, Any]:
        """The next text message."""
        opcode, payload = await self.frame(within)
        assert opcode == TEXT, (opcode, payload)
        return dict(json.loads(payload))

    async def closing(self, within: float = 5.0) -> tuple[int, str]:
        """The code and the reason of the close frame, whatever comes before it; ``NO_CODE`` without one."""
        try:
            while True:
                opcode, payload = await self.frame(within)
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2], "big"), payload[2:].decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            return NO_CODE, ""

    async def is_cut(self, within: float = 5.0) -> bool:
        """Wait until the server has ended the TCP connection."""
        async with asyncio.timeout(within):
            try:
                while await self._reader.read(65536):
                    pass
            except ConnectionError:
                pass
        return True

    def drop(self) -> None:
        """Cut the connection."""
        self._writer.transport.abort()
