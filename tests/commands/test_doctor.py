"""``roomcast doctor`` against real faults: each is named, with what to do, and fails the command where it must."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import nats as stock
import pytest

from commands.system import Ran, roomcast
from roomcast import Bus, Request
from roomcast.doctor.members import overlap
from support.bucket import bucket_view
from support.nats_servers import NatsCluster, NatsServer, Port
from support.until import until

command = importlib.import_module("roomcast.commands.doctor")  # the package has the command itself by that name

CHECKS = {
    *("nats", "max_payload", "permissions", "jetstream", "bucket", "replicas", "room", "write", "read", "clock"),
    *("edges", "versions", "services"),
}


async def doctor(url: str, prefix: str, *options: str, env: dict[str, str] | None = None) -> Ran:
    """One examination."""
    return await roomcast("doctor", "--json", "--nats", url, "--prefix", prefix, *options, env=env)


def found(ran: Ran, check: str) -> dict[str, Any]:
    """The worst finding of a check."""
    rows = [row for row in ran.rows if row["check"] == check]
    assert rows, ran
    return max(rows, key=lambda row: ["ok", "skip", "warn", "fail"].index(row["level"]))


def finds(ran: Ran, check: str, level: str, text: str) -> None:
    """This is among what was found; a trouble has advice, and only a failure fails the command."""
    match = [row for row in ran.rows if (row["check"], row["level"]) == (check, level) and text in row["text"]]
    assert match, ran.out + ran.err
    assert all(bool(row["advice"]) == (row["level"] in ("warn", "fail")) for row in ran.rows), ran.out
    assert ran.code == int(any(row["level"] == "fail" for row in ran.rows))


async def test_a_system_that_is_well(nats, prefix, start_edge):
    await start_edge(nats.urls)
    as_edge = await doctor(nats.url, prefix, "--as", "edge")
    assert {row["level"] for row in as_edge.rows if row["check"] != "services"} == {"ok"}, as_edge
    ran = await doctor(nats.url, prefix, "--kv-replicas", "1")
    assert ran.code == 0, ran
    assert {row["check"] for row in ran.rows} == CHECKS
    assert {row["level"] for row in ran.rows} == {"ok"}, ran.out
    async with bucket_view(nats.url, prefix) as bucket:
        await until(lambda: _vanished(bucket), 15, "what it wrote vanishes")
    plain = await roomcast("doctor", "--nats", nats.url, "--prefix", prefix)
    assert plain.code == 0
    assert all(line.startswith("ok ") for line in plain.out.splitlines()), plain


async def _vanished(bucket: Any) -> bool:
    return not await bucket.keys("doctor.>")


async def test_no_nats_and_wrong_credentials(prefix):
    port = Port()
    ran = await doctor(f"nats://127.0.0.1:{port.number}", prefix)
    finds(ran, "nats", "fail", "does not answer")
    port.release()
    with NatsServer("authorization { token: s3cret }") as server:
        finds(await doctor(server.url, prefix, "--nats-token", "wrong"), "nats", "fail", "refuses these credentials")


async def test_max_payload_is_too_small(prefix):
    with NatsServer("max_payload: 65536") as server:
        finds(await doctor(server.url, prefix), "max_payload", "fail", "65536")
        ran = await doctor(server.url, prefix, "--cast-limit", "32768")
        assert found(ran, "max_payload")["level"] == "ok"


USERS = """authorization { users: [
  { user: edge, password: e,
    permissions: { publish: { deny: "$KV.p.>" }, subscribe: { deny: ["p.blast.*", "p.moved"] } } }
  { user: operator, password: o,
    permissions: { publish: { deny: ["$KV.p.>", "$SRV.>"] }, subscribe: { deny: "p.room.>" } } }
  { user: service, password: s, permissions: { publish: { deny: "p.room.>" }, subscribe: { deny: "p.action.>" } } }
] }"""


async def test_permissions_that_lack(prefix):
    with NatsServer(USERS) as server:
        ran = await doctor(server.url.replace("://", "://edge:e@"), "p", "--as", "edge")
        finds(ran, "permissions", "fail", "may not subscribe p.blast.*")
        finds(ran, "permissions", "fail", "may not subscribe p.moved")
        finds(ran, "permissions", "fail", "may not publish $KV.p.doctor.")
        assert "_INBOX" not in ran.out
        ran = await doctor(server.url.replace("://", "://operator:o@"), "p")
        finds(ran, "permissions", "fail", "may not publish $SRV.INFO")
        finds(ran, "permissions", "fail", "may not subscribe p.room.doctor-")
        assert "$KV" not in ran.out, "an operator need not write there"
        ran = await doctor(server.url.replace("://", "://service:s@"), "p", "--as", "service")
        finds(ran, "permissions", "fail", "may not publish p.room.doctor-")
        finds(ran, "permissions", "fail", "may not subscribe p.action.doctor-")
        assert found(ran, "jetstream")["level"] == "skip"


async def test_no_jetstream_no_bucket_no_edge(prefix):
    with NatsServer("jetstream: false") as server:
        finds(await doctor(server.url, prefix), "jetstream", "fail", "does not answer")
    with NatsServer() as server:
        ran = await doctor(server.url, prefix)
        finds(ran, "bucket", "fail", "there is no bucket")
        finds(ran, "edges", "fail", "no edge holds a lease")


async def test_a_bucket_that_another_program_made(nats, prefix):
    client = await stock.connect(nats.url)
    await client.jetstream().create_key_value(bucket=prefix, history=3)
    await client.close()
    ran = await doctor(nats.url, prefix)
    finds(ran, "bucket", "fail", "max_msgs_per_subject is 3, not 1")
    finds(ran, "bucket", "fail", "allow_direct is False")


async def test_a_bucket_that_is_nearly_full_or_takes_no_writes(fresh_nats, prefix, start_edge):
    await start_edge(fresh_nats.urls)
    async with bucket_view(fresh_nats.url, prefix) as bucket:
        await bucket.configure(max_bytes=200)
        finds(await doctor(fresh_nats.url, prefix), "room", "fail", "of 200 bytes")
        await bucket.configure(max_bytes=-1, max_msg_size=1)
        finds(await doctor(fresh_nats.url, prefix), "write", "fail", "message size exceeds")


async def test_replicas_in_a_cluster(prefix, start_edge):
    with NatsCluster() as cluster:
        await start_edge(cluster.urls)
        ran = await doctor(",".join(cluster.urls), prefix)
        finds(ran, "replicas", "warn", "one replica in a cluster of 3")
        assert ran.code == 0, "a warning is no failure"
        finds(await doctor(cluster.url, prefix, "--kv-replicas", "3"), "replicas", "fail", "has 1, wanted are 3")
        finds(
            await doctor(cluster.url, prefix, "--kv-replicas", "5"), "replicas", "warn", "need as many nodes; 3 known"
        )
        async with bucket_view(cluster.urls, prefix) as bucket:
            await bucket.configure(num_replicas=3)

            async def current() -> bool:
                return found(await doctor(cluster.url, prefix), "replicas")["level"] == "ok"

            await until(current, 20, "three replicas are current")
            follower = next(node for node in cluster.nodes if node is not cluster.leader_of(f"KV_{prefix}"))
            await asyncio.to_thread(follower.kill)
            alive = ",".join(node.url for node in cluster.nodes if node is not follower)

            async def told() -> bool:
                row = found(await doctor(alive, prefix), "replicas")
                return row["level"] == "fail" and f"the replica on {follower.name} is" in row["text"]

            await until(told, 30, "the replica that is away is named")


@asynccontextmanager
async def strange_edge(url: str, prefix: str, name: str, answer: dict[str, Any] | None) -> AsyncIterator[None]:
    """A lease, and perhaps somebody who answers for it: an edge of another version, or with another clock."""
    async with bucket_view(url, prefix) as bucket, AsyncExitStack() as stack:
        await bucket.put(f"edge.{name}", b'{"v":1}', 60)
        if answer is not None:
            client = await stock.connect(url)
            stack.push_async_callback(client.close)

            async def say(message: Any) -> None:
                shifted = {**answer, "time": time.time() + answer["ahead"]}
                await message.respond(json.dumps(shifted).encode())

            await client.subscribe(f"{prefix}.edge.{name}", cb=say)
            await client.flush()
        yield


async def test_edges_that_do_not_answer_that_differ_and_whose_clocks_are_wrong(nats, prefix, start_edge):
    edge = await start_edge(nats.urls)
    async with strange_edge(nats.url, prefix, "abcdefg1", None):
        ran = await doctor(nats.url, prefix)
        finds(ran, "edges", "fail", "edge abcdefg1 holds a lease and does not answer")
        finds(ran, "edges", "ok", "1 of 2 answer")
    async with strange_edge(nats.url, prefix, "abcdefg1", {"version": "9.9.9", "ahead": 30}):
        ran = await doctor(nats.url, prefix)
        finds(ran, "versions", "warn", "9.9.9: abcdefg1")
        finds(ran, "versions", "warn", edge.id)
        finds(ran, "clock", "fail", "edge abcdefg1 is 30.0 s ahead of this one")


async def test_a_clock_that_differs_from_that_of_nats(nats, prefix, start_edge, monkeypatch):
    await start_edge(nats.urls)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10)
    levels: list[str] = []
    monkeypatch.setattr(command, "_show", lambda row, _: levels.append(f"{row.level.value} {row.check} {row.text}"))
    subjects, expected = command.Subjects(prefix), command.Expected(1000, 1, "edge")
    assert command.Level.FAIL in await command._examine(nats.urls, command.Access(), subjects, expected, False)
    skewed = [row for row in levels if row.startswith("FAIL clock")]
    assert len(skewed) == 2, levels
    assert "the stream's leader is 10.0 s behind this one" in skewed[0]


async def test_services_in_each_others_way(nats, prefix):
    async with AsyncExitStack() as stack:

        async def service(name: str, version: str, action: str = "", route: str = "") -> None:
            bus = await stack.enter_async_context(Bus.connect(nats.url, prefix=prefix, name=name, version=version))

            async def answer(_: Request) -> None:
                pass

            if action:
                bus.action(action)(answer)
            if route:
                bus.route(route)(answer)
            await stack.enter_async_context(bus.serving())

        await service("orders", "1.0.0", "orders.subscribe", "GET /orders/:id")
        ran = await doctor(nats.url, prefix)
        assert found(ran, "services") == {"check": "services", "level": "ok", "advice": ""} | {
            "text": "1 of 1 names, none in another's way"
        }
        await service("orders", "1.1.0", "orders.subscribe")
        finds(await doctor(nats.url, prefix), "services", "warn", "orders runs in versions 1.0.0, 1.1.0")
        await service("legacy", "1.0.0", "orders.subscribe", "GET /orders/new")
        ran = await doctor(nats.url, prefix)
        finds(ran, "services", "fail", f"legacy and orders both answer {prefix}.action.orders.subscribe")
        finds(ran, "services", "fail", f"{prefix}.route.GET.orders.new and {prefix}.route.GET.orders.*")


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*.c", "a.b.*", True),
        ("a.b", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*", "b.*", False),
        (">", "a", True),
    ],
)
def test_patterns_that_meet(one: str, other: str, meet: bool):
    assert overlap(one, other) is overlap(other, one) is meet
