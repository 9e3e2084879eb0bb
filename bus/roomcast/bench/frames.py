"""Bytes of the load: a client's handshake and frames, the casts it counts, and what a chunk of a server holds.

Every cast of the bench begins with ``{"bench":[number,sent]``, both of a fixed width: a number that rises by one in
each room, and nanoseconds since the epoch. Pure code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from roomcast.envelope import cast_headers

FIRST = 1_000_000_000
"""The number of the first cast to a room: all have ten digits."""
PAYLOAD_BYTES = 170
MARK = b'"bench":['
_NUMBER = slice(len(MARK), len(MARK) + 10)
_SENT = slice(len(MARK) + 11, len(MARK) + 30)
_HEAD = len(MARK) + 30
TEXT = 0x81
CLOSE = 0x88
PING = 0x89
_REPLY = re.compile(rb'^\{"id":(\d+)')


def request(host: str, port: int, path: str, session: str = "") -> bytes:
    """A client's handshake. The key is always the same: nobody here proves anything to a proxy."""
    name = f"[{host}]" if ":" in host else host
    again = f"Roomcast-Session: {session}\r\n" if session else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{again}\r\n"
    ).encode()


def client_frame(opcode: int, payload: bytes) -> bytes:
    """A frame of a client, whole and final; the mask is zero, which leaves the payload as it is."""
    size = len(payload)
    head = bytes([opcode, 0x80 | size]) if size < 126 else bytes([opcode, 0xFE]) + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


def join_hello(room: str, number: int) -> str:
    """What a client says to join a room; ``{i}`` in the room stands for the socket's index."""
    return f'{{"event":"bus:join","data":{{"room":"{room}"}},"id":{number}}}'


def cast_template(subject: str, payload_bytes: int = PAYLOAD_BYTES) -> bytes:
    """What is published for one cast, as the SDK writes it, to be filled with ``% (sent, number, sent)``."""
    padding = b"x" * max(0, payload_bytes - len(b'{"bench":[,],"text":""}') - 29)
    payload = b'{"bench":[%d,%d],"text":"' + padding + b'"}'
    head = len(cast_headers(10**18))
    size = head + len(payload % (FIRST, 10**18))
    return f"HPUB {subject} {head} {size}\r\n".encode() + b"NATS/1.0\r\nRoomcast-Sent: %d\r\n\r\n" + payload + b"\r\n"


@dataclass(slots=True)
class Chunk:
    """What one read brought: casts, frames that are none, and the bytes of a frame that is not whole yet."""

    data: bytes
    casts: int
    first: int
    last: int
    broken: list[int] | None
    """All numbers, where they do not rise by one."""
    stamps: list[tuple[int, int]]
    """When casts were sent (ns), and how many then."""
    others: list[tuple[int, bytes]]
    """First byte and payload of frames that are no casts."""
    rest: bytes


def parse(data: bytes) -> Chunk:
    """Take a chunk apart; it begins where a frame does."""
    pos, size = 0, len(data)
    numbers: list[int] = []
    stamps: dict[int, int] = {}
    others: list[tuple[int, bytes]] = []
    find = data.find
    while size - pos >= 2:
        length, start = data[pos + 1], pos + 2
        if length == 126:
            start = pos + 4
            length = int.from_bytes(data[pos + 2 : start], "big") if start <= size else size
        elif length == 127:
            start = pos + 10
            length = int.from_bytes(data[pos + 2 : start], "big") if start <= size else size
        end = start + length
        if end > size:
            break
        mark = find(MARK, start, end)
        if mark < 0:
            others.append((data[pos], data[start:end]))
        else:
            cast = data[mark : mark + _HEAD]
            numbers.append(int(cast[_NUMBER]))
            sent = int(cast[_SENT])
            stamps[sent] = stamps.get(sent, 0) + 1
        pos = end
    count = len(numbers)
    first, last = (numbers[0], numbers[-1]) if count else (0, -1)
    # A list of rising numbers of which the last is the first plus their count may still hold a swap: compare all.
    broken = numbers if numbers != list(range(first, first + count)) else None
    return Chunk(data, count, first, last, broken, list(stamps.items()), others, data[pos:])


def reply_number(payload: bytes) -> int | None:
    """The id of the hello that a frame answers, None where it answers none."""
    found = _REPLY.match(payload)
    return int(found[1]) if found else None
