"""The load of the bench counts right: gaps, duplicates, latency, however bytes are cut, beside a naive count."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from roomcast.bench.connection import Target
from roomcast.bench.frames import FIRST, PING, client_frame, parse
from roomcast.bench.histogram import Histogram, bucket, upper
from roomcast.bench.load import Load

UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
WITHIN = 20.0


def frame(payload: bytes, opcode: int = 0x81) -> bytes:
    """A frame of a server."""
    size = len(payload)
    return bytes([opcode, size]) + payload if size < 126 else bytes([opcode, 126]) + size.to_bytes(2, "big") + payload


def cast(number: int, sent: int, padding: int = 0) -> bytes:
    """A frame as an edge sends it for a cast of the bench."""
    data = b'{"bench":[%d,%d],"text":"%b"}' % (FIRST + number, sent, b"x" * padding)
    return frame(b'{"event":"message","data":%b}' % data)


def naive(numbers: list[int]) -> tuple[int, int]:
    """Numbers that were skipped, and numbers that came again or too late."""
    gaps = duplicates = expected = 0
    for number in numbers:
        if number >= expected:
            gaps += number - expected
            expected = number + 1
        else:
            duplicates += 1
    return gaps, duplicates


@pytest.mark.parametrize("seed", range(8))
async def test_counts_are_those_of_a_naive_count(seed: int) -> None:
    """Sockets hear the same casts, but some miss one, or hear one twice, and the bytes are cut anywhere."""
    choice = random.Random(seed)
    sent = time.time_ns()
    count, sockets = 60, 12
    rows: list[list[int]] = []
    for _ in range(sockets):
        row = list(range(count))
        if choice.random() < 0.5:
            del row[choice.randrange(count)]
        if choice.random() < 0.5:
            row.insert(choice.randrange(count), choice.randrange(count))
        if choice.random() < 0.3:
            i = choice.randrange(len(row) - 1)
            row[i], row[i + 1] = row[i + 1], row[i]
        rows.append(row)
    left = list(rows)
    started = asyncio.Event()
    pongs = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UPGRADE + frame(b'{"event":"connect","data":{"id":"a","session":"s","resumed":false}}'))
        await started.wait()
        cuts = random.Random(seed + len(left))
        padding = cuts.choice([0, 40, 200])
        data = b"".join(cast(number, sent, padding) for number in left.pop())
        data = frame(b"hi", PING) + data + frame(b'{"event":"other","data":1}')
        while data:
            size = cuts.choice([1, 7, 90, 700, 5000])
            writer.write(data[:size])
            data = data[size:]
            await asyncio.sleep(0)
        pongs.append(await reader.readexactly(8))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    load = Load([Target("127.0.0.1", server.sockets[0].getsockname()[1])], lambda _: None)
    opened = await asyncio.to_thread(load.open, 0, sockets, [], WITHIN)
    assert (opened.ready, opened.lost, opened.why) == (sockets, 0, "")
    load.count()
    started.set()
    expected = sum(map(len, rows))
    deadline = time.monotonic() + WITHIN
    while (load.deliveries() < expected or len(pongs) < sockets) and time.monotonic() < deadline:
        await asyncio.to_thread(load.pump, 0.02)
    counts = load.counts()
    assert counts.deliveries == expected
    assert counts.gaps == sum(naive(row)[0] for row in rows)
    assert counts.duplicates == sum(naive(row)[1] for row in rows)
    assert counts.latency.total == expected
    assert list(counts.last_at) == [sent]
    assert counts.closed == 0
    assert pongs == [client_frame(0x8A, b"hi")] * sockets
    await asyncio.to_thread(load.close, 0.1)
    server.close()
    await server.wait_closed()


async def test_refusals_and_silence_are_told() -> None:
    """A server that says no, and one that says nothing."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        writer.close()

    async def hush(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def open_at(serve: Any, within: float) -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        load = Load([Target("127.0.0.1", server.sockets[0].getsockname()[1])], lambda _: None)
        opened = await asyncio.to_thread(load.open, 0, 3, [], within)
        await asyncio.to_thread(load.close, 0.1)
        server.close()
        await server.wait_closed()
        return opened

    refused = await open_at(refuse, WITHIN)
    assert (refused.ready, refused.lost) == (0, 3)
    assert refused.why == "the handshake was answered 503 Service Unavailable"
    silent = await open_at(hush, 0.2)
    assert (silent.ready, silent.lost) == (0, 3)
    assert silent.why == "3 sockets were not ready within 0.2 s"


def test_a_chunk_ends_anywhere() -> None:
    """Whole frames are taken, the rest is kept, wherever the bytes end."""
    data = cast(0, 10**18) + frame(b"{}") + cast(1, 10**18 + 1, 300)
    for end in range(len(data) + 1):
        chunk = parse(data[:end])
        again = parse(chunk.rest + data[end:])
        assert chunk.casts + again.casts == 2
        assert chunk.others + again.others == [(0x81, b"{}")]
        assert again.rest == b""
        assert chunk.stamps + again.stamps == [(10**18, 1), (10**18 + 1, 1)]


def test_a_histogram_is_right_to_three_percent() -> None:
    histogram = Histogram()
    values = [random.Random(1).randrange(1, 10**6) for _ in range(1)] + [int(1.01**i) for i in range(1, 2000)]
    for us in values:
        if us < 2 * 10**9:
            assert us <= upper(bucket(us)) <= us * 1.04 + 1
            histogram.add(us)
    for part in (0.1, 0.5, 0.99):
        ordered = sorted(us for us in values if us < 2 * 10**9)
        true = ordered[int(part * len(ordered)) - 1]
        assert true * 0.96 - 1 <= histogram.percentile(part) <= true * 1.05 + 1
    assert histogram.percentile(1.0) == histogram.highest
    assert Histogram().percentile(0.5) == 0
