"""The bucket: what is said of a write or a read that comes to nothing, and whether the outcome is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from roomcast.nats_client import connect
from roomcast.requests import Requests
from roomcast_edge.kv import Bucket, KvRefused, KvUnavailable, KvUnknown, WrongRevision
from support.nats_servers import NatsServer
from support.proxy import StallProxy
from support.until import until


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[StallProxy]:
    """What stands between the bucket's user and NATS."""
    async with StallProxy(nats.url) as proxy:
        yield proxy


@pytest.fixture
async def requests(proxy: StallProxy) -> AsyncIterator[Requests]:
    """Requests that fail when their connection is lost, as an edge's do."""

    async def ignore(_: Exception) -> None:
        pass

    async def lost() -> None:
        found.fail("the connection was lost")

    client = await connect([proxy.url], name="bucket", on_error=ignore, on_disconnect=lost)
    found = Requests(client)
    found.start()
    yield found
    found.stop()
    proxy.resume()
    await client.close()


@pytest.fixture
async def bucket(requests: Requests, prefix: str) -> Bucket:
    """A bucket that waits but a moment for an answer."""
    bucket = Bucket(requests._client, requests, prefix, timeout=0.3)
    await bucket.ensure(1)
    return bucket


async def test_a_write_without_an_answer_is_unknown_and_a_read_is_not(bucket: Bucket, proxy: StallProxy):
    await bucket.put("key", b"1", expect=0, ttl=60)
    proxy.stall()
    with pytest.raises(KvUnknown):
        await bucket.put("key", b"2", expect=None, ttl=60)
    for read in (bucket.get("key"), bucket.state(">"), bucket.after(0, ">", 10, 0.3)):
        with pytest.raises(KvUnavailable) as error:
            await read
        assert not isinstance(error.value, KvUnknown), "a read changes nothing"


async def test_a_write_whose_connection_breaks_is_unknown_and_one_that_is_not_sent_is_not(
    bucket: Bucket, requests: Requests, proxy: StallProxy
):
    bucket._timeout = 5.0
    proxy.stall()
    under_way = asyncio.create_task(bucket.put("key", b"1", expect=0, ttl=60))
    await until(lambda: requests.under_way, what="it is sent")
    proxy.refuse()
    proxy.cut()
    with pytest.raises(KvUnknown):
        await under_way
    with pytest.raises(KvUnavailable) as error:
        await bucket.put("key", b"2", expect=0, ttl=60)
    assert not isinstance(error.value, KvUnknown), "nothing was sent"


async def test_what_the_bucket_refuses_is_known(bucket: Bucket, requests: Requests):
    await bucket.put("key", b"1", expect=0, ttl=60)
    with pytest.raises(WrongRevision):
        await bucket.put("key", b"2", expect=0, ttl=60)
    with pytest.raises(KvRefused) as too_large:
        await bucket.put("key", bytes(2 << 20), expect=None, ttl=60)
    nowhere = Bucket(requests._client, requests, "nowhere", timeout=0.3)
    with pytest.raises(KvUnavailable) as missing:
        await nowhere.put("key", b"1", expect=0, ttl=60)
    assert not isinstance(too_large.value, KvUnknown)
    assert not isinstance(missing.value, KvUnknown), "NATS says that nobody took it"
