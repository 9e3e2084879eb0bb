"""Requests: thousands under way on one inbox, each with its own answer, deadline and end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from roomcast.envelope import headers
from roomcast.errors import BusTimeout, BusUnavailable, ConnectionLost, OutcomeUnknown
from roomcast.nats_client import LightSubscription, MendedClient, connect
from roomcast.requests import Collector, NoResponders, Reply, Requests
from support.nats_servers import NatsServer
from support.proxy import StallProxy
from support.until import until

Handler = Callable[[bytes, str], None]
"""What a service does with a request's payload and reply subject."""


async def ignore(_: Exception) -> None:
    """Errors of a connection that a test breaks itself."""


@pytest.fixture
async def service(nats: NatsServer) -> AsyncIterator[MendedClient]:
    """A connection for whoever answers."""
    client = await connect([nats.url], name="service", on_error=ignore)
    yield client
    await client.close()


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[StallProxy]:
    """What stands between the asker and NATS."""
    async with StallProxy(nats.url) as proxy:
        yield proxy


@pytest.fixture
async def requests(proxy: StallProxy) -> AsyncIterator[Requests]:
    """Requests over a connection of their own, failed when it is lost, as the Bus does."""

    async def lost() -> None:
        found.fail("the connection was lost")

    client = await connect([proxy.url], name="asker", on_error=ignore, on_disconnect=lost)
    found = Requests(client)
    found.start()
    yield found
    found.stop()
    proxy.resume()
    await client.close()


async def serve(service: MendedClient, subject: str, handle: Handler) -> None:
    """Answer what comes on a subject; returns when the server knows."""

    def sink(_: LightSubscription, __: bytes, reply: bytes, data: bytes, ___: bytes) -> None:
        handle(data, reply.decode())

    service.subscribe_light(subject, sink)
    await service.flush()


async def test_thousands_under_way_get_each_its_own_answer(
    requests: Requests, service: MendedClient, prefix: str
) -> None:
    count = 5000
    asked: list[tuple[bytes, str]] = []

    def handle(data: bytes, reply: str) -> None:
        asked.append((data, reply))
        if len(asked) == count:  # all are under way: answer in any order but theirs
            random.shuffle(asked)
            for payload, inbox in asked:
                service.send(inbox, b"answer to " + payload)

    await serve(service, prefix, handle)
    futures = [requests.ask(prefix, b"%d" % number, 10.0) for number in range(count)]
    assert requests.under_way == count
    replies = await asyncio.gather(*futures)
    assert [reply.data for reply in replies] == [b"answer to %d" % number for number in range(count)]
    assert requests.under_way == 0


async def test_nobody_listens(requests: Requests, prefix: str) -> None:
    with pytest.raises(NoResponders):
        await requests.ask(prefix, b"hello?", 5.0)
    assert requests.under_way == 0


async def test_nobody_listens_for_some_of_many(requests: Requests, service: MendedClient, prefix: str) -> None:
    await serve(service, f"{prefix}.even", lambda data, reply: service.send(reply, data))
    futures = [requests.ask(f"{prefix}.{'odd' if n % 2 else 'even'}", b"%d" % n, 5.0) for n in range(500)]
    found = await asyncio.gather(*futures, return_exceptions=True)
    for number, reply in enumerate(found):
        assert isinstance(reply, NoResponders) if number % 2 else reply == Reply(b"%d" % number)


async def test_no_answer_in_time_is_unknown(requests: Requests, service: MendedClient, prefix: str) -> None:
    asked: list[str] = []
    await serve(service, prefix, lambda _, reply: asked.append(reply))
    with pytest.raises(BusTimeout, match=f"{prefix}.*0.05 s.*unknown"):
        await requests.ask(prefix, b"x", 0.05)
    assert requests.under_way == 0

    service.send(asked[0], b"too late")  # hurts nobody, and is nobody else's answer
    answer = requests.ask(prefix, b"y", 5.0)
    await until(lambda: len(asked) == 2)
    service.send(asked[1], b"in time")
    assert (await answer).data == b"in time"


async def test_a_request_that_is_given_up_leaves_nothing_behind(
    requests: Requests, service: MendedClient, prefix: str
) -> None:
    asked: list[str] = []
    await serve(service, prefix, lambda _, reply: asked.append(reply))
    future = requests.ask(prefix, b"x", 5.0)
    future.cancel()
    await until(lambda: asked, what="it had been sent")
    await until(lambda: requests.under_way == 0)
    service.send(asked[0], b"for nobody")
    _, next_one = requests.expect(0.05, "nothing")
    with pytest.raises(BusTimeout):  # an answer for nobody is nobody's
        await next_one


async def test_only_the_first_answer_counts(requests: Requests, service: MendedClient, prefix: str) -> None:
    def handle(_: bytes, reply: str) -> None:
        service.send(reply, b"first", headers=headers({"A": "1"}))
        service.send(reply, b"second")

    await serve(service, prefix, handle)
    reply = await requests.ask(prefix, b"x", 5.0)
    assert reply == Reply(b"first", headers({"A": "1"}))
    assert reply.status == b"", "headers of an application are no status"


async def test_an_answer_may_have_the_status_of_an_error_and_a_body(
    requests: Requests, service: MendedClient, prefix: str
) -> None:
    await serve(service, prefix, lambda _, reply: service.send(reply, b"body", headers=b"NATS/1.0 503\r\n\r\n"))
    reply = await requests.ask(prefix, b"x", 5.0)
    assert (reply.status, reply.data) == (b"503", b"body"), "only NATS's own, which is empty, means that nobody listens"


async def test_somebody_else_may_answer(requests: Requests, service: MendedClient) -> None:
    subject, future = requests.expect(5.0, "a word from somebody")
    service.send(subject, b"the word")
    assert (await future).data == b"the word"
    _, silent = requests.expect(0.02, "a word from somebody")
    with pytest.raises(BusTimeout, match="a word from somebody"):
        await silent


async def test_a_lost_connection_ends_what_is_under_way(
    requests: Requests, proxy: StallProxy, service: MendedClient, prefix: str
) -> None:
    asked: list[str] = []
    await serve(service, prefix, lambda _, reply: asked.append(reply))
    futures = [requests.ask(prefix, b"x", 30.0) for _ in range(100)]
    await until(lambda: len(asked) == 100)
    proxy.refuse()
    proxy.cut()
    found = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5.0)
    assert {type(error) for error in found} == {ConnectionLost}
    assert requests.under_way == 0

    with pytest.raises(BusUnavailable, match="NATS is away") as refused:
        requests.ask(prefix, b"x", 30.0)
    assert not isinstance(refused.value, OutcomeUnknown), "it was not sent"
    await until(lambda: requests.under_way == 0, what="what was refused waits for nothing")

    await proxy.accept()
    await until(lambda: requests._client.is_connected, what="it is back")
    await requests._client.flush()
    await serve(service, f"{prefix}.echo", lambda data, reply: service.send(reply, data))
    assert (await requests.ask(f"{prefix}.echo", b"again", 5.0)).data == b"again"


async def test_a_request_that_nats_does_not_take_is_a_value_error(requests: Requests, prefix: str) -> None:
    limit = requests._client.max_payload
    with pytest.raises(ValueError, match=f"{limit + 1} bytes.*{limit}"):
        requests.ask(prefix, bytes(limit + 1), 5.0)
    await until(lambda: requests.under_way == 0, what="what was refused waits for nothing")


async def test_stopping_ends_what_is_under_way(requests: Requests, service: MendedClient, prefix: str) -> None:
    await serve(service, prefix, lambda *_: None)
    future = requests.ask(prefix, b"x", 30.0)
    requests.stop()
    with pytest.raises(ConnectionLost, match="closed"):
        await future
    requests.stop()  # twice is no error


# -- many answers ----------------------------------------------------------------------------------------------------


async def test_a_collector_waits_for_all_that_it_was_told_of(requests: Requests, service: MendedClient) -> None:
    with requests.collect() as collector:
        for name in ("edge1", "edge2", "edge2", "a stranger"):
            service.send(collector.subject, name.encode())
        assert await collector.wait_for({"edge1", "edge2"}, 5.0) == set()
        assert await collector.wait_for({"edge1", "silent"}, 0.02) == {"silent"}
        service.send(collector.subject, b"silent")
        assert await collector.wait_for({"silent"}, 5.0) == set()


async def test_a_collector_hears_what_came_before_it_waited(requests: Requests, service: MendedClient) -> None:
    with requests.collect() as collector:
        service.send(collector.subject, b"early")
        await until(lambda: "early" in collector.heard)
        assert await collector.wait_for({"early"}, 0.0) == set()
        assert await collector.wait_for(set(), 0.0) == set()
        assert await collector.wait_for({"late"}, 0.0) == {"late"}


async def test_collectors_hear_only_their_own(requests: Requests, service: MendedClient) -> None:
    with requests.collect() as one, requests.collect() as other:
        assert one.subject != other.subject
        service.send(one.subject, b"one")
        service.send(other.subject, b"other")
        assert not await one.wait_for({"one"}, 5.0)
        assert not await other.wait_for({"other"}, 5.0)
        assert (one.heard, other.heard) == ({"one"}, {"other"})
    service.send(one.subject, b"after its end")
    with requests.collect() as later:
        service.send(later.subject, b"later")
        assert not await later.wait_for({"later"}, 5.0)
    assert one.heard == {"one"}


async def test_a_collector_bears_any_bytes() -> None:
    collector = Collector("subject")
    collector.take(Reply(b"\xff\x00"))
    collector.take(Reply(b""))
    assert len(collector.heard) == 2


async def test_a_stream_gives_its_answers_in_order(requests: Requests, service: MendedClient, prefix: str) -> None:
    with requests.stream() as stream:
        for number in range(300):
            service.send(stream.subject, b"%d" % number)
        assert [(await stream.next(5.0)).data for _ in range(300)] == [b"%d" % number for number in range(300)]
        with pytest.raises(TimeoutError):
            await stream.next(0.02)


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"", b""),
        (b"NATS/1.0\r\n\r\n", b""),
        (b"NATS/1.0 404 Message Not Found\r\n\r\n", b"404"),
        (b"NATS/1.0 503\r\n\r\n", b"503"),
        (b"NATS", b""),
    ],
)
def test_a_status_is_inline(block: bytes, status: bytes) -> None:
    assert Reply(b"", block).status == status
