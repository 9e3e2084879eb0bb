"""Heartbeats over a real NATS: what an edge makes of another one's silence, and of its own troubles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from roomcast.names import Subjects
from roomcast.nats_client import LightSubscription, MendedClient, connect
from roomcast.requests import Requests
from roomcast_edge import heartbeat as heartbeat_module
from roomcast_edge.heartbeat import Heartbeat
from support.nats_servers import NatsServer
from support.proxy import StallProxy
from support.until import until

SELF, OTHER = "self0000", "other000"


async def ignore(_: Exception) -> None:
    """Errors of a connection that a test breaks itself."""


class Other:
    """An edge of which the test says when it is heard, and whether it answers."""

    def __init__(self, client: MendedClient, prefix: str) -> None:
        self._client = client
        self._subjects = Subjects(prefix)
        self.answers = True
        self.stalls = 0.0
        """Seconds for which a question to it stalls the loop that all parts of the test share."""
        self.asked = 0

    def beat(self, payload: bytes = OTHER.encode()) -> None:
        """Say that it lives."""
        self._client.send(self._subjects.alive, payload)

    async def listen(self) -> None:
        """Be there; returns when NATS knows."""
        self._client.subscribe_light(self._subjects.edge(OTHER), self._on_asked)
        await self._client.flush()

    def _on_asked(self, _: LightSubscription, __: bytes, reply: bytes, ___: bytes, ____: bytes) -> None:
        self.asked += 1
        time.sleep(self.stalls)
        if self.answers:
            self._client.send(reply.decode(), b'{"error":{"code":"bad_request","message":"an older edge"}}')


@pytest.fixture
async def other(nats: NatsServer, prefix: str) -> AsyncIterator[Other]:
    client = await connect([nats.url], name="other", on_error=ignore)
    yield Other(client, prefix)
    await client.close()


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[StallProxy]:
    async with StallProxy(nats.url) as proxy:
        yield proxy


@pytest.fixture
async def heartbeat(proxy: StallProxy, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heartbeat]:
    """This edge's, with all times a quarter of what they are."""
    for name in ("BEAT_SECONDS", "SILENT_SECONDS", "ANSWER_SECONDS", "LOOK_SECONDS", "STALL_SECONDS"):
        monkeypatch.setattr(heartbeat_module, name, getattr(heartbeat_module, name) / 4)

    async def lost() -> None:
        requests.fail("the connection was lost")

    client = await connect([proxy.url], name="self", on_error=ignore, on_disconnect=lost)
    requests = Requests(client)
    requests.start()
    heartbeat = Heartbeat(SELF, Subjects(prefix), client, requests)
    heartbeat.start()
    await client.flush()
    running = asyncio.create_task(heartbeat.run())
    yield heartbeat
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    requests.stop()
    proxy.resume()
    await client.close()


async def heard(heartbeat: Heartbeat) -> None:
    """Wait until the other one's word has come."""
    await until(lambda: OTHER in heartbeat.neighbours._known, what="it is heard")


def suspected(heartbeat: Heartbeat) -> bool:
    return heartbeat.neighbours.is_suspect(OTHER)


async def test_it_says_that_it_lives_and_hears_itself_not(heartbeat: Heartbeat, other: Other):
    beats: list[bytes] = []
    other._client.subscribe_light(other._subjects.alive, lambda _, __, ___, payload, ____: beats.append(payload))
    await until(lambda: len(beats) >= 3, what="three heartbeats")
    assert set(beats) == {SELF.encode()}
    assert not heartbeat.neighbours._known


async def test_who_listens_and_does_not_answer_is_suspect_until_it_is_heard(heartbeat: Heartbeat, other: Other):
    await other.listen()
    other.answers = False
    other.beat()
    await heard(heartbeat)
    await until(lambda: suspected(heartbeat), what="it is suspect")
    other.beat(f"{OTHER} and what a later version says".encode())
    await until(lambda: not suspected(heartbeat), what="it is heard again")


def test_a_stalled_edge_is_suspect_before_nats_pinging_each_2_seconds_can_have_closed_its_connection():
    at_worst = heartbeat_module.SILENT_SECONDS + heartbeat_module.LOOK_SECONDS + heartbeat_module.ANSWER_SECONDS
    assert at_worst < 2 * 2.0


async def test_who_answers_in_whatever_way_lives(heartbeat: Heartbeat, other: Other):
    await other.listen()
    other.beat()
    await until(lambda: other.asked >= 2, what="it is asked each time that it has been silent")
    assert not suspected(heartbeat)


async def test_of_whom_nats_says_that_nobody_listens_is_dead_and_not_suspect(heartbeat: Heartbeat, other: Other):
    other.beat()
    await heard(heartbeat)
    dead = heartbeat_module.State.DEAD
    await until(lambda: heartbeat.neighbours._known[OTHER].state is dead, what="it counts as dead")
    assert not suspected(heartbeat)
    await other.listen()  # its NATS node was gone, and it has found another
    other.beat()
    other.answers = False
    await until(lambda: suspected(heartbeat), what="it is asked again once it was heard")


async def test_what_is_no_edge_s_heartbeat_is_passed_over(heartbeat: Heartbeat, other: Other):
    for payload in (b"", b"\xff\xfe", b"no edge", b"*.>", SELF.encode(), b"x" * 1000):
        other.beat(payload)
    other.beat()
    await heard(heartbeat)
    assert list(heartbeat.neighbours._known) == [OTHER]


async def test_an_edge_that_is_stalled_while_it_asks_suspects_nobody(heartbeat: Heartbeat, other: Other):
    """The answer lies unread before it when its patience is over."""
    await other.listen()
    other.stalls = 1.0
    other.beat()
    await until(lambda: other.asked, what="it asks")
    await until(lambda: not heartbeat._asking, what="its question has come to nothing")
    assert not suspected(heartbeat)
    other.stalls = 0.0
    await until(lambda: other.asked >= 2, what="it asks again")
    assert not suspected(heartbeat)


async def test_an_edge_whose_own_connection_says_nothing_suspects_nobody(
    heartbeat: Heartbeat, other: Other, proxy: StallProxy
):
    await other.listen()
    other.beat()
    await heard(heartbeat)
    proxy.stall()
    for _ in range(2):
        await until(lambda: heartbeat._asking, what="it asks")
        await until(lambda: not heartbeat._asking, what="nobody answers, NATS neither")
        assert not suspected(heartbeat)
    proxy.resume()
    await until(lambda: not heartbeat.neighbours.silent(time.monotonic()), what="it has its answer")
    assert not suspected(heartbeat)


async def test_an_edge_that_is_cut_off_while_it_asks_suspects_nobody(
    heartbeat: Heartbeat, other: Other, proxy: StallProxy
):
    await other.listen()
    other.beat()
    await heard(heartbeat)
    proxy.stall()
    await until(lambda: heartbeat._asking, what="it asks")
    proxy.refuse()
    proxy.cut()
    await until(lambda: not heartbeat._asking, what="its question has come to nothing")
    assert not suspected(heartbeat)
    proxy.resume()
    await proxy.accept()
    await until(lambda: other.asked, what="it asks again once it is back")
    assert not suspected(heartbeat)
