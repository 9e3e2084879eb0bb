"""The client commands against a running system, and the one line that each error is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from commands.system import ENV, Ran, System, client, free_run, roomcast
from roomcast import Bus
from support.nats_servers import NatsServer

NOBODY = "k3f9x2a7.8Hd72kQpX0aLmT5v"
Run = Callable[..., Awaitable[Ran]]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with System("--no-demo") as running:
        yield running


@pytest.fixture
def run(system: System) -> Run:
    """Run a command that succeeds."""

    async def succeed(*arguments: str) -> Ran:
        ran = await roomcast(*arguments, "--nats", system.url)
        assert (ran.code, ran.err) == (0, ""), ran
        return ran

    return succeed


def assert_refused(ran: Ran, *words: str, code: int = 1) -> None:
    """It failed with one line on stderr in which these words stand."""
    assert (ran.code, ran.out) == (code, ""), ran
    assert ran.err.count("\n") == 1, ran
    for word in words:
        assert word in ran.err, ran


# -- against a running system ------------------------------------------------------------------------------------------


async def test_broadcast_reaches_the_members_on_each_edge(system: System, run: Run) -> None:
    async with client(system.ports[0]) as ann, client(system.ports[1]) as bob, client(system.ports[1]) as eve:
        for one in (ann, bob):
            joined = await run("join", one.id, "a room", "cast.2")
            assert joined.out == f"{one.id} joined a room, cast.2\n"
        assert (await run("join", ann.id, "a room")).out == f"{ann.id} was in a room\n"
        assert (await run("broadcast", "a room", "news", '{"n":1}')).out == "sent news to a room\n"
        await run("broadcast", "cast.2", '"just text"')
        await run("broadcast", "cast.2", '"not for bob"', "--omit", bob.id)
        await run("broadcast", "cast.2", '"for nobody"', "--except", "a room")
        await run("blast", '"all"')
        for one in (ann, bob):
            await one.hears("news", {"n": 1})
            await one.hears("message", "just text")
            await one.hears("message", "all")
        await eve.hears("message", "all")
        assert {"event": "message", "data": "not for bob"} in ann.heard
        assert {"event": "message", "data": "not for bob"} not in bob.heard
        assert {"event": "message", "data": "for nobody"} not in ann.heard + bob.heard
        assert len(eve.heard) == 2


async def test_blast_takes_an_event(system: System, run: Run) -> None:
    async with client(system.ports[0]) as ann:
        assert (await run("blast", "notice", "[1,2]")).out == "sent notice to everyone\n"
        await ann.hears("notice", [1, 2])


async def test_who_is_there(system: System, run: Run) -> None:
    async with client(system.ports[0]) as ann, client(system.ports[1]) as bob:
        for one in (ann, bob):
            await run("join", one.id, "who", "who.else")
        assert (await run("count", "who")).out == "2\n"
        assert (await run("count", "who", "--json")).rows == [{"room": "who", "count": 2}]
        assert (await run("rooms", ann.id)).out == "who\nwho.else\n"
        assert (await run("rooms", ann.id, "--json")).rows == [{"socket": ann.id, "rooms": ["who", "who.else"]}]
        lines = (await run("members", "who")).out.splitlines()
        assert sorted(line.split()[0] for line in lines) == sorted([ann.id, bob.id])
        rows = (await run("members", "who", "--json")).rows
        assert {row["id"]: row["edge"] for row in rows} == {one.id: one.id.partition(".")[0] for one in (ann, bob)}
        (shown,) = (await run("get", bob.id, "--json")).rows
        assert (shown["id"], shown["rooms"], shown["dialect"]) == (bob.id, ["who", "who.else"], "json")
        assert f"id           {bob.id}\n" in (await run("get", bob.id)).out
        assert (await run("leave", bob.id, "who")).out == f"{bob.id} left who\n"
        assert (await run("leave", bob.id, "who", "--json")).rows == [{"socket": bob.id, "changed": False}]
        assert (await run("count", "who")).out == "1\n"


async def test_bulk_changes(system: System, run: Run) -> None:
    async with client(system.ports[0]) as ann, client(system.ports[1]) as bob:
        for one in (ann, bob):
            await run("join", one.id, "team")
        moved = await run("move", "team", "--join", "events", "--join", "news", "--leave", "team", "--json")
        (row,) = moved.rows
        assert (row["matched"], row["changed"], row["missing"]) == (2, 2, [])
        edges = {one.id.partition(".")[0]: {"matched": 1, "changed": 1} for one in (ann, bob)}
        assert row["edges"] == edges
        assert (await run("rooms", ann.id)).out == "events\nnews\n"
        told = (await run("leave-all", "news")).out.splitlines()
        assert told == ["matched 2, changed 2", *[f"  edge {edge}: matched 1, changed 1" for edge in sorted(edges)]]
        assert (await run("rooms", bob.id)).out == "events\n"
        await run("leave-all", "events", "--everywhere")
        assert (await run("rooms", bob.id)).out == ""


async def test_disconnect_closes_a_socket_and_a_room(system: System, run: Run) -> None:
    async with client(system.ports[0]) as ann, client(system.ports[0]) as bob, client(system.ports[1]) as eve:
        assert (await run("disconnect", ann.id, "--reason", "bye")).out.startswith("matched 1, changed 1\n")
        assert (await ann.closed(), ann.connection.close_reason) == (4502, "bye")
        for one in (bob, eve):
            await run("join", one.id, "doomed")
        await run("disconnect", "doomed")
        assert await bob.closed() == 4502
        assert await eve.closed() == 4502


async def test_a_socket_that_is_not_there(system: System, run: Run) -> None:
    for command in (["join", NOBODY, "r"], ["get", NOBODY], ["rooms", NOBODY]):
        assert_refused(await roomcast(*command, "--nats", system.url), f"no socket has the id '{NOBODY}'")
    assert (await run("leave", NOBODY, "r")).out == f"{NOBODY} was not in r\n"
    assert (await run("disconnect", NOBODY)).out.startswith("matched 0, changed 0\n")


# -- tail --------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def tailing(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A ``tail`` that listens; at the end Ctrl-C ends it with exit code 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roomcast", "tail", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ENV | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            assert b"listening on" in await process.stderr.readline()
            yield process
            process.send_signal(signal.SIGINT)
            rest = await process.stderr.read()
            assert (await process.wait(), rest) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    return [(await process.stdout.readline()).decode().rstrip("\n") for _ in range(count)]


async def test_tail_shows_all_casts_with_their_names(nats: NatsServer, prefix: str) -> None:
    async with tailing("--nats", nats.url, "--prefix", prefix) as process, Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.broadcast("größe.1", "a.b", {"n": 1})
        await bus.blast("hello", "x\x1b[2Jy")
        await bus.nats.publish(f"{prefix}.room.r.e", b"\xff\n")
        await bus.nats.publish(f"{prefix}.room.b=ZZ.e", b"1")
        await bus.flush()
        seen = await lines(process, 4)
    assert seen[0] == 'room größe.1  a.b  {"n":1}'
    assert seen[1] == 'blast  hello  "x\\u001b[2Jy"'
    assert seen[2] == "room r  e  [not JSON] \\xff\\n"
    assert seen[3].startswith(f"room {prefix}.room.b=ZZ.e [")


async def test_tail_of_one_room_as_json(nats: NatsServer, prefix: str) -> None:
    options = ("mine", "--json", "--nats", nats.url, "--prefix", prefix)
    async with tailing(*options) as process, Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.blast(data=0)
        await bus.broadcast(["other", "mine"], data=1)
        await bus.flush()
        (seen,) = await lines(process, 1)
    assert json.loads(seen) == {"kind": "room", "room": "mine", "event": "message", "data": 1}


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_no_nats() -> None:
    nowhere = f"nats://127.0.0.1:{free_run(1)}"
    for command in (["broadcast", "r", "1"], ["count", "r"], ["tail"]):
        assert_refused(await roomcast(*command, "--nats", nowhere), "NATS does not answer", nowhere)
    assert_refused(await roomcast("blast", "1", env={"NATS_URL": nowhere}), nowhere)


async def test_no_edges(nats: NatsServer, prefix: str) -> None:
    env = {"NATS_URL": nats.url, "ROOMCAST_PREFIX": prefix}
    for command in (
        ["count", "r"],
        ["members", "r"],
        ["leave-all", "r"],
        ["join", NOBODY, "r"],
        ["move", "a", "--join", "b"],
    ):
        assert_refused(await roomcast(*command, env=env), "no edge is running")
    assert (await roomcast("broadcast", "r", "1", env=env)).code == 0


async def test_an_edge_that_is_silent_is_a_timeout(nats: NatsServer, prefix: str) -> None:
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await bus.nats.subscribe(f"{prefix}.api.count")
        await bus.flush()
        ran = await roomcast("count", "r", "--nats", nats.url, "--prefix", prefix, "--timeout", "0.2")
    assert_refused(ran, "within 0.2 s", "unknown")


async def test_a_move_that_an_edge_does_not_confirm(nats: NatsServer, prefix: str) -> None:
    answer = {"id": "m", "edges": {}, "missing": ["k3f9x2a7"]}
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        sub = await bus.nats.subscribe(f"{prefix}.api.move")
        await bus.flush()
        running = asyncio.create_task(
            roomcast("move", "a", "--join", "b", "--nats", nats.url, "--prefix", prefix, "--timeout", "3")
        )
        message = await sub.next_msg(timeout=20)
        await message.respond(json.dumps(answer).encode())
        ran = await running
    assert ran.code == 1
    assert ran.out == "matched 0, changed 0\n  edge k3f9x2a7: did not confirm\n"
    assert ran.err.count("\n") == 1
    assert "1 of 1 edges did not confirm" in ran.err


async def test_data_that_is_no_json() -> None:
    for words in (["hello"], ["event", "{"], ["event", "NaN"], [b"\xff".decode("utf-8", "surrogateescape")]):
        assert_refused(await roomcast("broadcast", "r", *words), "the data is not JSON")
        assert_refused(await roomcast("blast", *words), "the data is not JSON")


async def test_bad_names(nats: NatsServer) -> None:
    assert_refused(await roomcast("broadcast", "", "1", "--nats", nats.url), "a room name must have 1 to 255 bytes")
    assert_refused(await roomcast("blast", "bus:x", "1", "--nats", nats.url), "reserved")
    assert_refused(await roomcast("count", "x" * 256, "--nats", nats.url), "256")
    assert_refused(await roomcast("count", "x", "--prefix", "a.b", "--nats", nats.url), "a prefix is")
    assert_refused(await roomcast("disconnect", NOBODY, "--reason", "x" * 124, "--nats", nats.url), "123 bytes")
    assert_refused(await roomcast("leave", NOBODY, NOBODY, "--nats", nats.url), "never leaves its own room")


@pytest.mark.parametrize(
    "arguments",
    [
        ["broadcast", "r"],
        ["broadcast", "r", "e", "1", "2"],
        ["move", "a"],
        ["join", "x"],
        ["count", "r", "--timeout", "0"],
    ],
)
async def test_bad_usage(arguments: list[str]) -> None:
    ran = await roomcast(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Error: " in ran.err


async def test_a_command_whose_extra_is_missing_is_listed_and_says_which() -> None:
    without = "import sys; sys.modules['roomcast_edge.command'] = None; from roomcast.commands import main; main()"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", without, *arguments], capture_output=True, text=True, env=ENV)

    assert "edge        Not installed: pip install 'roomcast[edge]'" in run("--help").stdout
    for command in (["edge", "--listen", "127.0.0.1:1"], ["edge", "--help"], ["up"]):
        ran = run(*command)
        assert_refused(Ran(ran.returncode, ran.stdout, ran.stderr), "pip install 'roomcast[edge]'")


async def test_help_and_version() -> None:
    for arguments in (["--help"], ["--version"], ["move", "-h"]):
        assert (await roomcast(*arguments)).code == 0
