"""Each mend of the NATS client beside the stock client's failure: the same scenario, run with both."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from nats import errors
from nats.aio.client import DEFAULT_MAX_OUTSTANDING_PINGS, DEFAULT_MAX_RECONNECT_ATTEMPTS, DEFAULT_PING_INTERVAL, Client

from roomcast.errors import BusUnavailable
from roomcast.nats_client import CLOSE_WITHIN, MAX_UNSENT_BYTES, LightSubscription, MendedClient, connect
from support.clients import Recorder, connected, disconnected, end, raw_publisher
from support.nats_servers import NatsServer, nats_servers
from support.proxy import StallProxy
from support.until import until

MEGABYTE = 1 << 20
MORE_THAN_BUFFERS_HOLD = 48 * MEGABYTE
"""Bytes: above what two kernels' socket buffers and a proxy take while nobody reads."""


async def hears(client: Client, subject: str) -> bool:
    """Whether a message still reaches the client; False when its reader has ended and nothing ever will."""
    heard = asyncio.Event()

    async def on_message(_: object) -> None:
        heard.set()

    await client.subscribe(subject, cb=on_message)
    await client.publish(subject)
    reader = client._reading_task
    assert reader is not None, "it was connected"
    await until(lambda: heard.is_set() or reader.done(), what="the client hears, or its reader has ended")
    return heard.is_set()


def is_deaf(client: Client) -> bool:
    """The stock client's worst state: it says that it is connected, and nobody reads."""
    return client.is_connected and client._reading_task is not None and client._reading_task.done()


# -- what ends the reader --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "timed out"])
async def test_a_flush_that_is_given_up_ends_only_itself(nats: NatsServer, prefix: str, cancel: bool) -> None:
    async def scenario(client: Client, proxy: StallProxy) -> bool:
        proxy.stall()
        flush = asyncio.ensure_future(client.flush(10 if cancel else 0.05))
        await until(lambda: client._pongs, what="the flush waits for its answer")
        if cancel:
            flush.cancel()
        await asyncio.wait([flush])
        assert flush.cancelled() or isinstance(flush.exception(), errors.FlushTimeoutError)
        proxy.resume()
        return await hears(client, f"{prefix}.after")

    async with StallProxy(nats.url) as proxy, connected(Client, proxy.url) as stock:
        assert not await scenario(stock, proxy)
        assert is_deaf(stock)
    async with StallProxy(nats.url) as proxy, connected(MendedClient, proxy.url) as mended:
        assert await scenario(mended, proxy)
        await mended.flush(2)


async def test_a_flush_that_is_given_up_leaves_its_neighbours_their_answers(nats: NatsServer) -> None:
    async with StallProxy(nats.url) as proxy, connected(MendedClient, proxy.url) as client:
        proxy.stall()
        flushes = [asyncio.ensure_future(client.flush(10)) for _ in range(5)]
        await until(lambda: len(client._pongs) == 5, what="all wait for their answers")
        flushes[0].cancel()
        flushes[2].cancel()
        proxy.resume()
        await asyncio.gather(flushes[1], flushes[3], flushes[4])
        assert not client._pongs


POISON = {
    "a subject that is not UTF-8": b"PUB %b.\xff\xfe 2\r\nhi\r\n",
    "a header block that is too short": b"HPUB %b.short 8 10\r\nNATS/1.0hi\r\n",
    "a subject with a vertical tab": b"PUB %b.a\x0bb 2\r\nhi\r\n",
    "a subject with a form feed": b"PUB %b.a\x0cb 2\r\nhi\r\n",
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
async def test_a_poisoned_message_costs_only_itself(nats: NatsServer, prefix: str, poison: bytes) -> None:
    async def scenario(client: Client) -> list[str]:
        heard: list[str] = []

        async def on_message(message: Any) -> None:
            heard.append(message.subject)

        await client.subscribe(f"{prefix}.>", cb=on_message)
        await client.flush()
        reader = client._reading_task
        assert reader is not None, "it is connected"
        async with raw_publisher(nats) as publish:
            await publish(poison % prefix.encode() + f"PUB {prefix}.next 2\r\nhi\r\n".encode())
            await until(
                lambda: f"{prefix}.next" in heard or reader.done(), what="the next is heard, or the reader ended"
            )
        return heard

    async with connected(Client, nats.url) as stock:
        assert f"{prefix}.next" not in await scenario(stock)
    async with connected(MendedClient, nats.url) as mended:
        assert f"{prefix}.next" in await scenario(mended)
        assert mended.stats["reconnects"] == 0


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
async def test_a_light_subscription_takes_even_poisoned_messages(nats: NatsServer, prefix: str, poison: bytes) -> None:
    heard: list[bytes] = []
    async with connected(MendedClient, nats.url) as client, raw_publisher(nats) as publish:
        client.subscribe_light(f"{prefix}.>", lambda _, subject, __, ___, ____: heard.append(subject))
        await client.flush()
        wire = poison % prefix.encode()
        await publish(wire + f"PUB {prefix}.next 2\r\nhi\r\n".encode())
        await until(lambda: len(heard) == 2, what="both are heard")
    assert heard == [wire.split(b" ")[1], f"{prefix}.next".encode()]


async def test_an_exception_while_a_message_is_handled_costs_only_that_message(nats: NatsServer, prefix: str) -> None:
    class Angry(Recorder):
        async def on_error(self, error: Exception) -> None:
            await super().on_error(error)
            raise RuntimeError("the callback for errors fails too")

    async def scenario(client: Client) -> bool:
        free = asyncio.Event()

        async def slow(_: object) -> None:
            await free.wait()

        await client.subscribe(f"{prefix}.slow", cb=slow, pending_msgs_limit=1)
        for _ in range(5):  # the queue is full: the error callback is told, and raises
            await client.publish(f"{prefix}.slow")
        deaf = not await hears(client, f"{prefix}.after")
        free.set()
        return deaf

    angry = Angry()
    async with connected(Client, nats.url, angry) as stock:
        assert await scenario(stock)
        assert is_deaf(stock)
    async with connected(MendedClient, nats.url, angry) as mended:
        assert not await scenario(mended)
    assert any(isinstance(error, errors.SlowConsumerError) for error in angry.errors)


async def test_a_sink_that_raises_is_reported_and_the_next_message_heard(nats: NatsServer, prefix: str) -> None:
    recorder = Recorder()
    heard: list[bytes] = []

    def sink(_: LightSubscription, __: bytes, ___: bytes, data: bytes, ____: bytes) -> None:
        heard.append(data)
        if data == b"bad":
            raise LookupError("a sink fails")

    async with connected(MendedClient, nats.url, recorder) as client:
        client.subscribe_light(f"{prefix}.s", sink)
        for data in (b"bad", b"good"):
            client.send(f"{prefix}.s", data)
        await until(lambda: len(heard) == 2)
    assert heard == [b"bad", b"good"]
    assert [type(error) for error in recorder.errors] == [LookupError]


# -- errors of the server --------------------------------------------------------------------------------------------


async def test_an_error_that_leaves_the_connection_is_reported(nats: NatsServer, prefix: str) -> None:
    async def scenario(client: Client) -> bool:
        """Whether the client is still of use after the server has refused one subscription."""
        client._transport.write(b"SUB bad..subject 999\r\n")  # type: ignore[union-attr]
        await until(lambda: client.last_error is not None, what="the server's refusal has come")
        with contextlib.suppress(errors.Error):
            return await hears(client, f"{prefix}.after")
        return False

    async with connected(Client, nats.url) as stock:
        assert not await scenario(stock)
        assert stock.is_closed
    recorder = Recorder()
    async with connected(MendedClient, nats.url, recorder) as mended:
        assert await scenario(mended)
        assert mended.stats["reconnects"] == 0
    assert "invalid subject" in str(recorder.errors[0])


async def test_an_error_that_ends_the_connection_leads_to_a_new_one(nats: NatsServer, prefix: str) -> None:
    async def scenario(client: Client, recorder: Recorder) -> bool:
        client._transport.write(b"THIS IS NO PROTOCOL\r\n")  # type: ignore[union-attr]
        await until(lambda: client.is_closed or recorder.back, what="it gave up or came back")
        return not client.is_closed and await hears(client, f"{prefix}.after")

    recorder = Recorder()
    async with connected(Client, nats.url, recorder) as stock:
        assert not await scenario(stock, recorder)
    async with connected(MendedClient, nats.url, recorder) as mended:
        assert await scenario(mended, recorder)
        assert mended.stats["reconnects"] == 1
    assert any("unknown protocol operation" in str(error) for error in recorder.errors)


async def test_a_new_connection_begins_with_nothing_half_read(prefix: str) -> None:
    """No real server sends this on demand: half a message behind a stale connection's error."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1048576}\r\n')
        first = connections == 1
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
            elif line.startswith(b"SUB"):
                sid = line.split()[-1]
                half = b"-ERR 'Stale Connection'\r\nMSG old %b 40\r\nhalf" % sid
                writer.write(half if first else b"MSG new %b 5\r\nwhole\r\n" % sid)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    recorder = Recorder()
    heard: list[tuple[bytes, bytes]] = []
    async with connected(MendedClient, f"nats://127.0.0.1:{port}", recorder) as client:
        client.subscribe_light(f"{prefix}.>", lambda _, subject, __, data, ___: heard.append((subject, data)))
        await until(lambda: heard, what="the new connection's message is heard")
        await client.flush()
    server.close()
    assert heard == [(b"new", b"whole")]
    assert connections == 2


# -- stalls ----------------------------------------------------------------------------------------------------------


def fill(client: Client, subject: str) -> None:
    """Write more to a stalled server than all buffers on the way hold."""
    command = f"PUB {subject} {MEGABYTE}\r\n".encode() + bytes(MEGABYTE) + b"\r\n"
    for _ in range(MORE_THAN_BUFFERS_HOLD // MEGABYTE):
        client._transport.write(command)  # type: ignore[union-attr]


async def test_a_stalled_node_with_a_full_write_buffer_does_not_hang_the_reconnect(prefix: str) -> None:
    with nats_servers(2) as (stalled, other):
        fast = {"ping_interval": 0.1, "max_outstanding_pings": 2, "dont_randomize": True}
        urls = [stalled.url, other.url]
        lost, found = Recorder(), Recorder()
        async with (
            connected(Client, urls, lost, **fast) as stock,
            connected(MendedClient, urls, found, **fast) as mended,
        ):
            stalled.stall()
            fill(stock, prefix)
            fill(mended, prefix)
            await until(lambda: found.back, what="the mended client is on the other node")
            assert mended.connected_url is not None
            assert mended.connected_url.port == other.port
            await until(lambda: stock.is_reconnecting, what="the stock client has noticed, too")
            with pytest.raises(AssertionError):
                await until(lambda: lost.lost, within=1.0, what="the stock client has let the connection go")
            assert await hears(mended, f"{prefix}.after")
            stalled.resume()


async def test_closing_does_not_wait_for_a_stalled_server(nats: NatsServer, prefix: str) -> None:
    async with (
        StallProxy(nats.url) as proxy,
        connected(Client, proxy.url) as stock,
        connected(MendedClient, proxy.url) as mended,
    ):
        proxy.stall()
        fill(stock, prefix)
        fill(mended, prefix)
        hangs = asyncio.ensure_future(stock.close())
        await asyncio.wait_for(mended.close(), CLOSE_WITHIN + 1.0)
        assert mended.is_closed
        assert not hangs.done(), "the stock client still waits for the server"
        hangs.cancel()
        await asyncio.wait([hangs])


async def test_a_reconnect_that_misses_its_cancellation_ends_with_the_client(nats: NatsServer) -> None:
    """Python 3.11's ``wait_for`` swallows a cancellation that comes in the moment in which it is done."""
    async with disconnected(MendedClient, nats) as (client, proxy, _):
        reconnecting, client._reconnection_task = client._reconnection_task, None
        assert reconnecting is not None, "it tries to come back"
        await client.close()
        await proxy.accept()
        await asyncio.wait({reconnecting}, timeout=5)
        assert reconnecting.done(), "nobody reconnects for a client that is closed"
        assert client.is_closed


async def test_a_stall_is_noticed_in_seconds(nats: NatsServer) -> None:
    stock_notices_after = DEFAULT_PING_INTERVAL * (DEFAULT_MAX_OUTSTANDING_PINGS + 1)
    assert stock_notices_after >= 120, "seconds: the stock client's default is minutes"
    recorder = Recorder()
    async with StallProxy(nats.url) as proxy:
        client = await connect([proxy.url], name="t", on_error=recorder.on_error, on_disconnect=recorder.on_disconnect)
        try:
            proxy.stall()
            await until(lambda: recorder.lost, within=6.0, what="the stall is noticed")
            assert not client.is_connected
        finally:
            await end(client)


async def test_a_client_behind_its_messages_is_not_taken_for_a_stalled_server(nats: NatsServer, prefix: str) -> None:
    """The PONG stands behind all that the server has sent before: what arrives meanwhile is the sign of life."""
    count = 3_000
    recorder, heard = Recorder(), 0

    def slow(*_: object) -> None:
        nonlocal heard
        heard += 1
        until_then = time.perf_counter() + 0.0005
        while time.perf_counter() < until_then:  # an edge that writes to thousands of sockets
            pass

    message = b"PUB %b 500\r\n%b\r\n" % (prefix.encode(), b"x" * 500)
    async with connected(MendedClient, nats.url, recorder, ping_interval=0.05, max_outstanding_pings=2) as client:
        client.subscribe_light(prefix, slow)
        await client.flush()
        async with raw_publisher(nats) as publish:
            await publish(message * count)
        await until(lambda: heard == count or recorder.lost, 30, "all is heard, or the connection given up")
        assert recorder.lost == 0, f"given up after {heard} of {count} messages"


async def test_a_publisher_that_waits_for_a_stalled_server_is_told_when_the_connection_ends(nats: NatsServer) -> None:
    async with StallProxy(nats.url) as proxy, connected(MendedClient, proxy.url) as client:
        proxy.stall()
        fill(client, "x")
        waiting = asyncio.ensure_future(client.drained())
        await until(lambda: client.unsent() > MEGABYTE, what="the buffers are full")
        assert not waiting.done()
        proxy.cut()
        with pytest.raises(errors.ConnectionReconnectingError):
            await asyncio.wait_for(waiting, 3.0)


async def test_what_a_stalled_server_does_not_take_is_bounded(nats: NatsServer, prefix: str) -> None:
    async with StallProxy(nats.url) as proxy, connected(MendedClient, proxy.url) as client:
        proxy.stall()
        with pytest.raises(errors.OutboundBufferLimitError):
            for _ in range(2 * MORE_THAN_BUFFERS_HOLD // MEGABYTE):
                client.send(prefix, bytes(MEGABYTE - 1))
                await asyncio.sleep(0)
        assert client.unsent() <= MAX_UNSENT_BYTES + 2 * MEGABYTE


# -- while there is no connection ------------------------------------------------------------------------------------


async def test_a_request_that_timed_out_is_never_run_later(nats: NatsServer, prefix: str) -> None:
    async def scenario(kind: Callable[[], Client]) -> list[bytes]:
        """What a service hears of three requests that were made, and given up, while there was no connection."""
        heard: list[bytes] = []
        async with (
            connected(MendedClient, nats.url) as service,
            disconnected(kind, nats) as (client, proxy, recorder),
        ):
            service.subscribe_light(prefix, lambda _, __, ___, data, ____: heard.append(data))
            await service.flush()
            for _ in range(3):
                with pytest.raises((errors.TimeoutError, errors.ConnectionReconnectingError)):
                    await client.request(prefix, b"join", timeout=0.02)
            await proxy.accept()
            await until(lambda: recorder.back, what="the client is back")
            await client.publish(prefix, b"the next")
            await until(lambda: b"the next" in heard, what="the service hears the client again")
        return heard

    assert await scenario(Client) == [b"join", b"join", b"join", b"the next"]
    assert await scenario(MendedClient) == [b"the next"]


async def test_publishing_is_refused_at_once(nats: NatsServer, prefix: str) -> None:
    async with disconnected(Client, nats) as (stock, _, __):
        await stock.publish(prefix, b"kept to be delivered late")
        assert stock.pending_data_size > 0
    async with disconnected(MendedClient, nats) as (mended, _, __):
        with pytest.raises(errors.ConnectionReconnectingError):
            await mended.publish(prefix, b"x")
        with pytest.raises(errors.ConnectionReconnectingError):
            mended.send(prefix, b"x")
        with pytest.raises(errors.ConnectionReconnectingError):
            await mended.flush()
        assert mended.pending_data_size == 0


async def test_what_waits_to_be_written_does_not_outlive_its_connection(nats: NatsServer, prefix: str) -> None:
    recorder = Recorder()
    heard: list[bytes] = []
    async with (
        connected(MendedClient, nats.url) as listener,
        connected(MendedClient, nats.url, recorder) as client,
    ):
        listener.subscribe_light(prefix, lambda _, __, ___, data, ____: heard.append(data))
        await listener.flush()
        client.send(prefix, b"stale")
        await client.force_reconnect()  # before the loop's pass ends, at which it would have been written
        assert client.pending_data_size > 0
        await until(lambda: recorder.back, what="the client is back")
        client.send(prefix, b"the next")
        await until(lambda: heard, what="the listener hears the client again")
    assert heard == [b"the next"]


async def test_what_a_broken_connection_held_is_not_sent_again(nats: NatsServer, prefix: str) -> None:
    recorder = Recorder()
    heard: list[bytes] = []
    async with (
        connected(MendedClient, nats.url) as listener,
        StallProxy(nats.url) as proxy,
        connected(MendedClient, proxy.url, recorder) as client,
    ):
        listener.subscribe_light(prefix, lambda _, __, ___, data, ____: heard.append(data))
        await listener.flush()
        proxy.stall()
        client.send(prefix, b"stale")
        await client.drained()
        proxy.cut()
        proxy.resume()
        await until(lambda: recorder.back, what="the client is back")
        client.send(prefix, b"the next")
        await until(lambda: heard, what="the listener hears the client again")
    assert heard == [b"the next"]


async def test_a_flush_does_not_outlive_its_connection(nats: NatsServer) -> None:
    async def scenario(kind: Callable[[], Client]) -> bool:
        """Whether a flush is told that its connection broke, by the time when the client is back."""
        recorder = Recorder()
        async with StallProxy(nats.url) as proxy, connected(kind, proxy.url, recorder) as client:
            proxy.stall()
            flush = asyncio.ensure_future(client.flush(10))
            await until(lambda: client._pongs, what="the flush waits for its answer")
            proxy.cut()
            proxy.resume()
            await until(lambda: recorder.back, what="the client is back")
            told = flush.done() and isinstance(flush.exception(), errors.ConnectionReconnectingError)
            flush.cancel()
            await asyncio.wait([flush])
            return told

    assert not await scenario(Client)
    assert await scenario(MendedClient)


# -- coming back -----------------------------------------------------------------------------------------------------


async def test_it_reconnects_for_ever(nats: NatsServer, prefix: str) -> None:
    assert DEFAULT_MAX_RECONNECT_ATTEMPTS > 0, "the stock client gives up some day"
    recorder = Recorder()
    limit = 3

    async with disconnected(Client, nats) as (stock, _, __):
        stock.options["max_reconnect_attempts"] = limit
        await until(lambda: stock.is_closed, what="the stock client has given up")

    async with StallProxy(nats.url) as proxy:
        mended = await connect([proxy.url], name="t", on_error=recorder.on_error, on_reconnect=recorder.on_reconnect)
        try:
            mended.subscribe_light(f"{prefix}.light", lambda *_: None)
            proxy.refuse()
            proxy.cut()
            refused = lambda: sum(isinstance(error, ConnectionRefusedError) for error in recorder.errors)  # noqa: E731
            await until(lambda: refused() > limit, what="it was refused more often than the stock client bears")
            await proxy.accept()
            await until(lambda: recorder.back, what="it is back")
            assert await hears(mended, f"{prefix}.after")
        finally:
            await end(mended)


async def test_an_unexpected_error_does_not_end_the_attempts(nats: NatsServer, prefix: str) -> None:
    class Clumsy(Recorder):
        async def on_disconnect(self) -> None:
            await super().on_disconnect()
            if self.lost == 1:
                raise RuntimeError("the first callback fails")

    async def scenario(client: Client, recorder: Recorder) -> bool:
        await client.force_reconnect()
        attempts = client._reconnection_task
        assert attempts is not None, "they have begun"
        await asyncio.wait([attempts], timeout=5.0)
        return bool(recorder.back) and await hears(client, f"{prefix}.after")

    clumsy = Clumsy()
    async with connected(Client, nats.url, clumsy) as stock:
        assert not await scenario(stock, clumsy)
        assert stock.is_reconnecting, "for ever: nobody tries any more"
        assert stock._reconnection_task is not None
        assert isinstance(stock._reconnection_task.exception(), RuntimeError)
    clumsy = Clumsy()
    async with connected(MendedClient, nats.url, clumsy) as mended:
        assert await scenario(mended, clumsy)
    assert [type(error) for error in clumsy.errors] == [RuntimeError]


async def test_clients_of_a_dead_node_do_not_come_back_in_step(nats: NatsServer) -> None:
    recorder = Recorder()
    async with StallProxy(nats.url) as proxy:
        clients = [await connect([proxy.url], name="t", on_error=recorder.on_error) for _ in range(12)]
        try:
            proxy.refuse()
            proxy.cut()
            await until(lambda: all(c._server_pool[0].reconnects for c in clients), what="all have tried in vain")
            await proxy.accept()
            await until(lambda: all(c.is_connected for c in clients), what="all are back")
            waits = [c.options["reconnect_time_wait"] for c in clients]
            assert len(set(waits)) == len(waits)
            assert statistics.pstdev(waits) > 0.05 * statistics.mean(waits)
            assert 0 < min(waits) <= max(waits) <= 2.0
        finally:
            for client in clients:
                await end(client)


async def test_no_nats_now_is_an_error_or_worth_waiting_for() -> None:
    recorder = Recorder()
    server = NatsServer()
    try:
        with pytest.raises(BusUnavailable, match=str(server.port)):
            await connect([server.url], name="t", on_error=recorder.on_error)
        waiting = asyncio.ensure_future(connect([server.url], name="t", on_error=recorder.on_error, retry=True))
        tried = len(recorder.errors)
        await until(lambda: len(recorder.errors) > tried, what="it has tried in vain")
        server.start()
        client = await asyncio.wait_for(waiting, 5.0)
        assert client.is_connected
        await end(client)
    finally:
        server.close()


# -- order on the wire, and light subscriptions ----------------------------------------------------------------------


async def test_a_flush_covers_the_subscriptions_before_it(nats: NatsServer, prefix: str) -> None:
    async def scenario(client: Client, proxy: StallProxy) -> bytes:
        """Which of the two is first on the wire."""
        already = len(proxy.sent)
        await client.subscribe(f"{prefix}.room")
        await client.flush()
        await until(lambda: b"SUB " in proxy.sent[already:], what="the subscription is sent")
        return bytes(proxy.sent[already:]).split()[0]

    async with StallProxy(nats.url) as proxy, connected(Client, proxy.url) as stock:
        assert await scenario(stock, proxy) == b"PING"
    async with StallProxy(nats.url) as proxy, connected(MendedClient, proxy.url) as mended:
        assert await scenario(mended, proxy) == b"SUB"


async def test_what_is_sent_keeps_its_order_with_subscriptions(nats: NatsServer, prefix: str) -> None:
    async with connected(MendedClient, nats.url) as client:
        heard: list[bytes] = []
        for number in range(200):
            sub = client.subscribe_light(f"{prefix}.{number}", lambda _, __, ___, data, ____: heard.append(data))
            client.send(f"{prefix}.{number}", b"%d" % number)
            if number % 2:
                client.unsubscribe_light(sub)
                client.send(f"{prefix}.{number}", b"after it left")
        await client.flush()
    assert heard == [b"%d" % number for number in range(0, 200, 2)]


async def test_light_subscriptions_come_back_with_the_connection(nats: NatsServer, prefix: str) -> None:
    recorder = Recorder()
    heard: list[bytes] = []
    async with StallProxy(nats.url) as proxy, connected(MendedClient, proxy.url, recorder) as client:
        for number in range(1000):
            client.subscribe_light(f"{prefix}.{number}", lambda _, subject, __, ___, ____: heard.append(subject))
        gone = client.subscribe_light(f"{prefix}.0", lambda *_: heard.append(b"gone"))
        client.unsubscribe_light(gone)
        proxy.cut()
        client.subscribe_light(f"{prefix}.late", lambda _, subject, __, ___, ____: heard.append(subject))
        await until(lambda: recorder.back, what="it is back")
        for token in [*range(1000), "late"]:
            client.send(f"{prefix}.{token}")
        await until(lambda: len(heard) >= 1001, what="all are heard")
    assert heard == [f"{prefix}.{token}".encode() for token in [*range(1000), "late"]]


class Bare:
    """A subscription that has only what the wire needs: what a light one would be without its constants."""

    def __init__(self) -> None:
        self._id, self._subject, self._queue = 99, "x", ""


@pytest.mark.parametrize("leave", ["close", "drain"])
async def test_light_subscriptions_bear_closing_and_draining(nats: NatsServer, prefix: str, leave: str) -> None:
    async with connected(Client, nats.url) as stock:
        stock._subs[99] = Bare()  # type: ignore[assignment]
        with pytest.raises(AttributeError):
            await getattr(stock, leave)()
        stock._subs.clear()
        stock._status = Client.CONNECTED  # so that what is left of it can be closed
    async with connected(MendedClient, nats.url) as mended:
        mended.subscribe_light(f"{prefix}.a", lambda *_: None)
        mended.subscribe_light(f"{prefix}.b", lambda *_: None, queue="q")
        await getattr(mended, leave)()
        assert mended.is_closed
