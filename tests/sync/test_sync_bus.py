"""The SyncBus: the calls and guarantees of the Bus, from threads, across the start and the end of a program."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from roomcast import (
    Bus,
    BusTimeout,
    BusUnavailable,
    Incomplete,
    NotFound,
    Request,
    Socket,
    SocketNotFound,
    SyncBus,
    sync,
)
from support.nats_servers import NatsServer
from support.until import until
from support.websocket_client import Client

SCRIPTS = Path(__file__).parent
NOBODY = "a0000000.AAAAAAAAAAAAAAAA"


def public_calls(kind: type) -> dict[str, Any]:
    return {name: call for name, call in inspect.getmembers(kind, callable) if not name.startswith("_")}


def test_it_offers_every_call_of_the_bus_with_the_same_parameters():
    calls, ours = public_calls(Bus), public_calls(SyncBus)
    assert set(ours) == set(calls)
    assert {"broadcast", "join", "members", "action", "connect", "close"} <= set(calls)
    for name, call in calls.items():
        wanted, given = (inspect.signature(each).parameters for each in (call, ours[name]))
        assert [str(each) for each in wanted.values()] == [str(each) for each in given.values()]
        assert inspect.getdoc(ours[name]), f"{name} says what it does"
        assert not inspect.iscoroutinefunction(ours[name])


async def test_every_call(nats, prefix, start_edge):
    edge = await start_edge(nats.urls)
    one, two = await asyncio.gather(Client.open(edge.url), Client.open(edge.url))

    def calls() -> None:
        with SyncBus.connect(nats.url, prefix=prefix) as bus:
            assert bus.join(one.id, "a").changed
            assert [result.changed for result in bus.join([one.id, two.id, NOBODY], "a")] == [False, True, False]
            bus.broadcast("a", "both", {"n": 1})
            bus.broadcast("a", {"n": 2}, one.id)
            bus.blast(data="a text", omit=two.id)
            assert bus.count("a") == 2
            assert {member.id for member in bus.members("a")} == {one.id, two.id}
            assert bus.rooms(one.id) == {"a"}
            socket = bus.get(one.id)
            assert isinstance(socket, Socket)
            assert bus.get_id(socket) == bus.get_id({"socket": socket}) == one.id
            assert bus.parse_socket(5) is None
            assert bus.add_room_members_to_rooms("a", "b").changed == 2
            assert bus.remove_room_members_from_rooms("a", ["b"]).changed == 2
            assert bus.move("a", join="b", leave="a").changed == 2
            assert bus.leave(one.id, "b").changed
            assert bus.leave_all("b").changed == 1
            bus.broadcast(["a", "b"], "nobody", 3)
            bus.blast("end", 4)
            bus.flush()
            with pytest.raises(SocketNotFound):
                bus.join(NOBODY, "a")
            with pytest.raises(TypeError, match="data="):
                bus.broadcast("a", "a lone text")
            with pytest.raises(ValueError, match="255"):
                list(bus.members(""))
            assert bus.disconnect(two.id, reason="enough").changed == 1

    await asyncio.to_thread(calls)
    await one.hears_event("end")
    assert one.events == [("both", {"n": 1}), ("message", "a text"), ("end", 4)]
    assert await two.is_closed() == 4502
    assert two.events == [("both", {"n": 1}), ("message", {"n": 2}), ("end", 4)]
    await one.close()


async def test_threads_share_it_and_each_sees_its_own_changes(nats, prefix, start_edge):
    threads, rounds = 12, 25
    edge = await start_edge(nats.urls)
    clients = await asyncio.gather(*[Client.open(edge.url) for _ in range(threads)])
    bus = SyncBus.connect(nats.url, prefix=prefix, name=prefix)
    start = threading.Barrier(threads)

    def hammer(number: int) -> None:
        start.wait()  # the first use is a race too
        me, room = clients[number].id, f"room-{number}"
        for n in range(rounds):
            bus.join(me, room)
            bus.broadcast(room, "in", n)
            assert bus.count(room) == 1
            bus.leave(me, room)
            bus.broadcast(room, "out", n)

    with ThreadPoolExecutor(threads) as pool:
        await asyncio.gather(*[asyncio.get_running_loop().run_in_executor(pool, hammer, n) for n in range(threads)])
    assert connections(nats, prefix) == 1, "all threads share one connection"
    bus.blast("end", None)
    for client in clients:
        await client.hears_event("end")
        assert client.events[:-1] == [("in", n) for n in range(rounds)]
        await client.close()
    bus.close()


def connections(nats: NatsServer, name: str) -> int:
    """Connections that bear this name now."""
    return sum(each.get("name") == name for each in nats.monitor("connz")["connections"])


# -- the connection's life ---------------------------------------------------------------------------------------------


def test_it_connects_when_it_is_used_and_tries_again(fresh_nats):
    fresh_nats.stop()
    bus = SyncBus.connect(fresh_nats.url)
    for _ in range(2):
        with pytest.raises(BusUnavailable, match="does not answer"):
            bus.blast({"n": 1})
    with pytest.raises(BusUnavailable), SyncBus.connect(fresh_nats.url):
        pass
    fresh_nats.start()
    bus.blast({"n": 1})
    fresh_nats.stall()
    began = time.monotonic()
    with pytest.raises(BusTimeout):
        bus.flush(timeout=0.3)
    assert time.monotonic() - began < 2
    fresh_nats.resume()
    bus.close()
    bus.close()
    with pytest.raises(BusUnavailable, match="closed"):
        bus.blast({"n": 1})


def test_what_is_wrong_with_the_arguments_is_said_at_once():
    with pytest.raises(ValueError, match="prefix"):
        SyncBus.connect(prefix="a.b")
    with pytest.raises(ValueError, match="NATS"):
        SyncBus.connect([])


def test_nats_url_is_read_when_it_connects(nats, monkeypatch):
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    bus = SyncBus.connect()
    monkeypatch.setenv("NATS_URL", nats.url)
    bus.flush()
    bus.close()


async def test_closing_ends_what_is_under_way(nats, prefix):
    bus = SyncBus.connect(nats.url, prefix=prefix)

    async def asked(message: Any) -> None:  # an edge that never answers
        heard.set()

    heard = asyncio.Event()
    async with Bus.connect(nats.url, prefix=prefix) as stranger:
        await stranger.nats.subscribe(f"{prefix}.api.count", cb=asked)
        await stranger.flush()
        waiting = asyncio.create_task(asyncio.to_thread(bus.count, "a", timeout=60))
        await heard.wait()
        await asyncio.to_thread(bus.close)
        with pytest.raises(BusUnavailable):
            await asyncio.wait_for(waiting, 10)


def test_a_callback_that_would_wait_for_itself_is_told_so(nats, prefix):
    errors: list[RuntimeError] = []

    def default(value: object) -> str:
        try:
            bus.flush()
        except RuntimeError as error:
            errors.append(error)
        return "written"

    bus = SyncBus.connect(nats.url, prefix=prefix, default=default)
    bus.blast("event", object())
    assert "wait for itself" in str(errors)
    bus.close()


async def test_members_by_the_page_and_an_edge_that_is_silent(nats, prefix, start_edge, monkeypatch):
    monkeypatch.setattr(sync, "PAGE", 2)
    awake, asleep = await asyncio.gather(start_edge(nats.urls), start_edge(nats.urls))
    clients = await asyncio.gather(*[Client.open(edge.url) for edge in [awake] * 5 + [asleep]])
    bus = SyncBus.connect(nats.url, prefix=prefix)
    ids = [client.id for client in clients]
    await asyncio.to_thread(bus.join, ids, "room")
    assert sorted(await asyncio.to_thread(lambda: [each.id for each in bus.members("room")])) == sorted(ids)

    asleep.signal(signal.SIGSTOP)
    known: list[str] = []

    def list_known() -> None:
        for member in bus.members("room", timeout=1):
            known.append(member.id)

    try:
        with pytest.raises(Incomplete):
            await asyncio.to_thread(list_known)
        assert sorted(known) == sorted(ids[:5]), "what is known comes first"
    finally:
        asleep.signal(signal.SIGCONT)
    bus.close()
    await asyncio.gather(*[client.close() for client in clients])


# -- processes: forks, the end of a program ----------------------------------------------------------------------------


async def run_script(name: str, *args: str) -> str:
    """What a script beside this file prints; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error::ResourceWarning", str(SCRIPTS / name), *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


async def test_a_fork_has_a_connection_of_its_own(nats, prefix, start_edge):
    edge = await start_edge(nats.urls)
    client = await Client.open(edge.url)
    out = await run_script("forking.py", nats.url, prefix, client.id, str(nats.monitor_port))
    assert out.split() == ["inherited", "children", "parent", "gone"]
    await client.hears_event("end")
    heard = Counter(event for event, _ in client.events)
    assert heard == {"before": 1, "child": 3 * 20, "parent": 3 * 20, "last words": 3, "end": 1}
    for child in range(3):  # each in its order, and its join before its casts
        assert [n for event, (who, n) in client.events if event == "child" and who == child] == list(range(20))
    await client.close()


async def test_a_program_that_ends_has_sent_what_it_cast(fresh_nats):
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    async with Bus.connect(fresh_nats.url) as listener:
        await listener.nats.subscribe("bus.blast.*", cb=hear)
        await listener.flush()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SCRIPTS / "ending.py"), fresh_nats.url), stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdin is not None
        assert await process.stdout.readline() == b"connected\n"
        fresh_nats.stall()  # so that what is cast stays with the program
        process.stdin.write(b"\n")
        assert await process.stdout.readline() == b"cast\n"
        fresh_nats.resume()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await until(lambda: len(heard) == 200, 5, "all is heard")


# -- serving -----------------------------------------------------------------------------------------------------------


async def test_plain_functions_answer_clients(nats, prefix, start_edge):
    edge = await start_edge(nats.urls)
    client = await Client.open(edge.url)
    bus = SyncBus.connect(nats.url, prefix=prefix, name="orders")
    threads: set[str] = set()

    @bus.action("orders.subscribe")
    def subscribe(req: Request, order_id: int) -> dict[str, Any]:
        threads.add(threading.current_thread().name)
        bus.join(req, f"order-{order_id}")
        if order_id != 42:
            raise NotFound("no such order")
        return {"id": order_id}

    with pytest.raises(ValueError, match="already"):
        bus.action("orders.subscribe")(subscribe)
    with pytest.raises(ValueError, match="255"):
        bus.action("")
    with pytest.raises(ValueError, match="path"):
        bus.route("no route")

    @bus.route("GET /orders/:id")
    def read(req: Request, id: str) -> str:
        return f"order {id}"

    async def asynchronous(req: Request) -> None: ...

    with pytest.raises(TypeError, match="plain"):
        bus.action("async")(asynchronous)

    serving = bus.serving()
    await asyncio.to_thread(serving.__enter__)
    with pytest.raises(RuntimeError, match="before serving"):
        bus.action("late")(lambda req: None)
    assert (await client.emit("orders.subscribe", {"orderId": 42}))["data"] == {"id": 42}
    assert (await client.emit("orders.subscribe", {"orderId": 43}))["error"]["code"] == "not_found"
    assert (await client.emit("orders.subscribe", {"orderId": "x"}))["error"]["message"].startswith("orderId: ")
    assert await asyncio.to_thread(bus.rooms, client.id) == {"order-42", "order-43"}
    reply = await asyncio.to_thread(_ask_route, nats.url, prefix)
    assert reply == b'"order 7"'
    await asyncio.to_thread(serving.__exit__, None, None, None)
    assert (await client.emit("orders.subscribe", {"orderId": 42}))["error"]["code"] == "no_service"
    assert threads
    assert threads.isdisjoint({"MainThread", "roomcast"})
    bus.close()
    await client.close()


def _ask_route(url: str, prefix: str) -> bytes:
    async def ask() -> bytes:
        async with Bus.connect(url, prefix=prefix) as bus:
            return (await bus.nats.request(f"{prefix}.route.GET.orders.7", b"{}", timeout=5)).data

    return asyncio.run(ask())


async def test_serve_ends_by_a_signal_and_finishes_what_is_under_way(nats, prefix, start_edge):
    edge = await start_edge(nats.urls)
    client = await Client.open(edge.url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPTS / "serving.py"), nats.url, prefix, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"

    async def served() -> bool:
        return "data" in await client.emit("work", {"signal": False})

    await until(served, 10, "the service answers")
    answer = await client.emit("work", {"signal": True})
    assert answer["data"] == "done", "the signal came while this was under way"
    assert await asyncio.wait_for(process.wait(), 15) == 0
    await client.close()
