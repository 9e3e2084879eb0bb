"""``roomcast.testing`` as its users have it: test files of theirs, run by pytest in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ASYNCIO = """
import asyncio, os
import pytest
from roomcast import Bus, RemoteError

pytestmark = pytest.mark.asyncio

async def serve(bus):
    @bus.action("echo")
    async def echo(req, text: str):
        await bus.broadcast(req.socket.id, "echoed", text)
        return text

async def test_clients_emit_and_hear(roomcast_bus, roomcast_client):
    await serve(roomcast_bus)
    client = await roomcast_client()
    async with roomcast_bus.serving():
        assert await client.emit("echo", {"text": "one"}) == "one"
        await client.emit("echo", {"text": "two"})
        assert [await client.heard("echoed"), await client.heard("echoed")] == ["one", "two"]
        with pytest.raises(RemoteError, match="text") as refusal:
            await client.emit("echo", {})
        assert refusal.value.code == "bad_request"
    assert [heard.data for heard in client.events] == ["one", "two"]
    assert await client.caught_up(roomcast_bus) == []

async def test_nothing_is_left_of_the_test_before(roomcast_bus, roomcast_client):
    client = await roomcast_client()
    await roomcast_bus.join(client.id, "room")
    assert await roomcast_bus.count("room") == 1

async def test_the_same_room_again(roomcast_bus, roomcast_client):
    client = await roomcast_client()
    await roomcast_bus.join(client.id, "room")
    assert await roomcast_bus.count("room") == 1

async def test_coming_back(roomcast_bus, roomcast_client):
    client = await roomcast_client()
    before = client.id
    await roomcast_bus.join(client.id, "room")
    await client.drop()
    assert client.close_code == 1006
    await client.connect()
    assert (client.id, client.resumed) == (before, True)
    await client.reconnect()
    await roomcast_bus.broadcast("room", {"n": 1})
    assert await client.heard("message", {"n": 1}) == {"n": 1}
    await roomcast_bus.disconnect(client.id, reason="enough")
    assert (await client.closed(), client.close_reason) == (4502, "enough")

async def test_replies_to_calls(roomcast_bus, roomcast_client):
    client = await roomcast_client()
    client.replies["price"] = lambda data: data["n"] * 2
    assert await roomcast_bus.call(client.id, "price", {"n": 21}) == 42
    with pytest.raises(RemoteError, match="no reply"):
        await roomcast_bus.call(client.id, "other", None)

async def test_a_program_that_reads_nats_url(roomcast_cluster, roomcast_client):
    client = await roomcast_client()
    async with Bus.connect() as bus:
        await bus.blast("all", 1)
        await client.heard("all", 1)
    assert os.environ["NATS_URL"] == roomcast_cluster.nats_url
"""

ANYIO = """
import asyncio
import pytest

pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

async def test_with_anyio(roomcast_bus, roomcast_client):
    assert roomcast_bus.nats._reading_task.get_loop() is asyncio.get_running_loop()
    client = await roomcast_client()
    await roomcast_bus.broadcast(client.id, "event", 1)
    assert await client.heard("event") == 1
    await roomcast_bus.join(client.id, "room")
    assert await roomcast_bus.count("room") == 1
"""

SYNC = """
def test_without_a_loop(roomcast_sync_bus, roomcast_sync_client):
    client = roomcast_sync_client()
    roomcast_sync_bus.join(client.id, "room")
    client.reconnect()
    assert client.resumed
    roomcast_sync_bus.broadcast("room", "event", 1)
    assert client.heard("event") == 1
    assert client.caught_up(roomcast_sync_bus) == []
    assert [tuple(heard) for heard in client.events][:1] == [("event", 1)]
    client.replies["price"] = lambda data: 42
    assert roomcast_sync_bus.call(client.id, "price") == 42
    roomcast_sync_bus.disconnect("room")
    assert client.closed() == 4502
    roomcast_sync_bus.join(roomcast_sync_client().id, "left")

def test_nothing_is_left_of_the_test_before(roomcast_sync_bus):
    assert roomcast_sync_bus.count("left") == 0
"""

OWN_CLUSTER = """
import pytest
from roomcast import RemoteError
from roomcast.testing import Cluster

@pytest.fixture(scope="session")
def roomcast_cluster():
    with Cluster(edges=2, client_rooms="chat-*", prefix="mine") as cluster:
        yield cluster

def test_settings_and_edges(roomcast_cluster, roomcast_sync_bus, roomcast_sync_client):
    one, two = roomcast_sync_client(edge=0), roomcast_sync_client(edge=1)
    assert one.id.split(".")[0] != two.id.split(".")[0]
    assert one.emit("bus:join", {"room": "chat-a"}) == {"room": "chat-a"}
    with pytest.raises(RemoteError):
        one.emit("bus:join", {"room": "other"})
    assert roomcast_sync_bus.count("chat-a") == 1
    one.reconnect(edge=1)
    assert roomcast_sync_bus.get(one.id).edge == two.id.split(".")[0]
    assert roomcast_cluster.prefix == "mine"
"""

FAILING = """
import pytest

def test_shows_what_was_heard(roomcast_sync_bus, roomcast_sync_client):
    client = roomcast_sync_client()
    roomcast_sync_bus.broadcast(client.id, "orderUpdated", {"status": "placed"})
    client.heard("orderUpdated", {"status": "shipped"}, timeout=0.5)

def test_shows_that_nothing_was_heard(roomcast_sync_client):
    roomcast_sync_client().heard("orderUpdated", timeout=0.1)

def test_shows_why_it_was_closed(roomcast_sync_bus, roomcast_sync_client):
    client = roomcast_sync_client()
    roomcast_sync_bus.disconnect(client.id, reason="no more")
    client.heard("orderUpdated", timeout=10)

def test_takes_each_event_once(roomcast_sync_bus, roomcast_sync_client):
    client = roomcast_sync_client()
    roomcast_sync_bus.broadcast(client.id, "once", 1)
    client.heard("once")
    client.heard("once", timeout=0.1)

def test_catches_what_should_not_be_heard(roomcast_sync_bus, roomcast_sync_client):
    client = roomcast_sync_client()
    roomcast_sync_bus.broadcast(client.id, "unwanted", 7)
    assert client.caught_up(roomcast_sync_bus) == []
"""


def run(home: Path, *options: str, **files: str) -> tuple[int, str]:
    """The exit code and the output of a user's pytest over these files."""
    for name, text in files.items():
        (home / f"{name}.py").write_text(text)
    (home / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    ran = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def test_tests_of_all_kinds_share_a_cluster(tmp_path):
    code, output = run(tmp_path, test_asyncio=ASYNCIO, test_anyio=ANYIO, test_sync=SYNC)
    assert code == 0, output
    assert "9 passed" in output


def test_a_cluster_of_ones_own(tmp_path):
    code, output = run(tmp_path, test_own=OWN_CLUSTER)
    assert code == 0, output


def test_failures_say_what_was_heard_instead(tmp_path):
    code, output = run(tmp_path, test_failing=FAILING)
    assert (code, "5 failed" in output) == (1, True), output
    for said in (
        "never heard 'orderUpdated' with {'status': 'shipped'} within 0.5 s; it heard this:",
        'orderUpdated {"status": "placed"}',
        "never heard 'orderUpdated' within 0.1 s; it heard nothing",
        "and was closed: 4502 no more",
        "never heard 'once' within 0.1 s; it heard this:",
        "Heard(event='unwanted', data=7)",
    ):
        assert said in output, said


def test_without_the_extra_it_says_what_to_install(tmp_path):
    block = "import sys\nsys.modules['websockets'] = None\nsys.modules['roomcast_edge'] = None\n"
    test = "def test_it(roomcast_sync_client):\n    pass\n"
    code, output = run(tmp_path, conftest=block, test_it=test)
    assert code == 1
    assert "pip install 'roomcast[testing]'" in output, output
    code, output = run(tmp_path, test_it="def test_it():\n    pass\n")
    assert code == 0, "whoever uses no fixture of it is not in its way"


def test_the_fixtures_are_listed_with_what_they_are(tmp_path):
    _, output = run(tmp_path, "--fixtures", "-v", test_it="")
    for name in ("roomcast_cluster", "roomcast_bus", "roomcast_client", "roomcast_sync_bus", "roomcast_sync_client"):
        assert name in output
    assert "A SyncBus, for tests without an event loop" in output


@pytest.mark.parametrize("words", [[], ["-p", "xdist", "-n", "2"]], ids=["alone", "xdist"])
def test_a_cluster_ends_with_the_tests(tmp_path, words):
    """No process that it started stays behind, however the tests ran."""
    note = """
def test_note(roomcast_cluster):
    with open("pids", "a") as pids:
        pids.write(f"{roomcast_cluster._process.pid}\\n")
"""
    code, output = run(tmp_path, *words, test_one=note, test_two=note)
    assert code == 0, output
    groups = {int(pid) for pid in (tmp_path / "pids").read_text().split()}
    assert len(groups) == (2 if words else 1)
    here = Path("/proc").glob("[0-9]*/stat")
    assert not groups & {int(_stat(path).rsplit(")", 1)[1].split()[2]) for path in here if _stat(path)}


def _stat(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
