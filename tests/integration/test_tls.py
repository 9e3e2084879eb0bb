"""Clients by wss: the same edge over TLS, with its back pressure, and a certificate that is renewed under way."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest

import roomcast_edge.tls
from roomcast import Bus
from roomcast_edge.tls import Certificate
from support.certificates import certificates
from support.until import until
from support.websocket_client import Client

FILES = certificates()
SERVER = {"tls_cert": FILES.server_cert, "tls_key": FILES.server_key}


def trusting(ca: str = FILES.ca) -> ssl.SSLContext:
    """A client's context."""
    return ssl.create_default_context(cafile=ca)


async def test_clients_connect_join_hear_everything_in_order_and_resume(nats, prefix, start_edge):
    edge = await start_edge(nats.urls, client_rooms="*", **SERVER)
    clients = [await Client.open(edge.url, ssl=trusting()) for _ in range(3)]
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        for client in clients:
            assert "data" in await client.emit("bus:join", {"room": "room"})
        text = "x" * 5000
        for number in range(2000):  # 10 MB for each: far more than the buffers hold
            await bus.broadcast("room", "news", {"n": number, "text": text})
            if number % 50 == 49:
                await asyncio.gather(*[client.hears(number - 20, 20) for client in clients])
        for client in clients:
            heard = [data["n"] for _, data in await client.hears(2000, 20)]
            assert heard == list(range(2000))
        clients[0].drop()
        back = await Client.open(edge.url, session=clients[0].session, ssl=trusting())
        assert back.resumed
        await bus.broadcast("room", "back", None)
        assert await back.hears(1) == [("back", None)]
        for client in [back, *clients[1:]]:
            await client.close()


async def test_a_client_that_does_not_read_is_closed_and_delays_nobody(nats, prefix, start_edge):
    edge = await start_edge(nats.urls, outbox_limit=100_000, close_timeout=1, **SERVER)
    reads, sleeps = [await Client.open(edge.url, ssl=trusting()) for _ in range(2)]
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.join([reads.id, sleeps.id], "room")
        sleeps.ws.transport.pause_reading()
        text = "x" * 10_000

        async def slow_is_closed() -> bool:
            for _ in range(20):
                await bus.broadcast("room", "news", text)
            await bus.flush()
            assert await edge.metric("roomcast_outbox_bytes") < 300_000
            return await edge.metric("roomcast_slow_sockets_closed_total") == 1

        await until(slow_is_closed, 30, "it is closed")
        await bus.broadcast("room", "last", None)
        await reads.hears_event("last", 10)
        await until(lambda: bus.count("room"), 5)
        assert await bus.count("room") == 1
    sleeps.ws.transport.resume_reading()
    assert await sleeps.is_closed(10) in (1013, 1006)
    await reads.close()


async def test_who_speaks_no_tls_or_trusts_another_is_let_go(nats, prefix, start_edge):
    edge = await start_edge(nats.urls, handshake_timeout=1, **SERVER)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP" not in await asyncio.wait_for(reader.read(), 5)
    writer.close()
    silent, other = await asyncio.open_connection("127.0.0.1", edge.port)
    assert await asyncio.wait_for(silent.read(), 5) == b"", "a handshake that never comes has its timeout"
    other.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await Client.open(edge.url, ssl=trusting(FILES.other_ca))
    client = await Client.open(edge.url, ssl=trusting())
    await client.close()
    assert "Traceback" not in edge.log


async def test_a_drain_closes_wss_too(nats, prefix, start_edge):
    edge = await start_edge(nats.urls, **SERVER)
    clients = [await Client.open(edge.url, ssl=trusting()) for _ in range(5)]
    assert await edge.stop() == 0
    assert [await client.is_closed() for client in clients] == [1012] * 5


async def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path: Path, caplog):
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    shutil.copy(FILES.server_cert, cert)
    shutil.copy(FILES.server_key, key)
    certificate = Certificate(str(cert), str(key))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context)
    port = server.sockets[0].getsockname()[1]

    async def trusted(ca: str) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(ca))
        except ssl.SSLCertVerificationError:
            return False
        writer.close()
        return True

    assert await trusted(FILES.ca)
    shutil.copy(FILES.other_cert, cert)
    certificate.refresh()
    assert "the old certificate stays in use" in caplog.text, "the key is still the old one"
    assert await trusted(FILES.ca)
    shutil.copy(FILES.other_key, key)
    certificate.refresh()
    assert (await trusted(FILES.ca), await trusted(FILES.other_ca)) == (False, True)
    server.close()
    await server.wait_closed()


async def test_the_files_are_watched(tmp_path: Path, monkeypatch):
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    shutil.copy(FILES.server_cert, cert)
    shutil.copy(FILES.server_key, key)
    monkeypatch.setattr(roomcast_edge.tls, "LOOK_SECONDS", 0.01)
    certificate = Certificate(str(cert), str(key))
    seen = certificate._seen
    watching = asyncio.create_task(certificate.watch())
    shutil.copy(FILES.other_cert, cert)
    shutil.copy(FILES.other_key, key)
    await until(lambda: certificate._seen != seen, 5, "the change is seen")
    watching.cancel()
