"""``roomcast up``: a whole system that starts, chats, heals and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from commands.system import ENV, Client, System, client, free_run, is_free, roomcast
from support.until import until


async def said(heard_by: Client, text: str) -> dict[str, Any]:
    """Wait for a chat message."""

    def find() -> Any:
        return next((f["data"] for f in heard_by.heard if f.get("event") == "chat" and f["data"]["text"] == text), None)

    message: dict[str, Any] = await until(find, 10.0, f"{text!r} is heard")
    return message


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        assert answer.headers.get_content_type() == "text/html"
        return str(answer.read().decode())


async def chat(system: System) -> None:
    """Two clients on the first and the last edge meet in a room of the demo."""
    async with client(system.ports[0]) as ann, client(system.ports[-1]) as bob:
        assert "error" not in await ann.ask("chat.join", {"room": "lobby", "name": "Ann"})
        answer = (await bob.ask("chat.join", {"room": "lobby", "name": "Bob"}))["data"]
        assert {member["id"]: member["name"] for member in answer["members"]} == {ann.id: "Ann", bob.id: "Bob"}
        assert answer["count"] == 2
        assert answer["edge"] == bob.id.partition(".")[0]
        assert answer["pages"] == [f"http://localhost:{port}/" for port in system.ports]
        await ann.hears("chat.joined", {"id": bob.id, "name": "Bob", "room": "lobby"})
        sent = await ann.ask("chat.say", {"room": "lobby", "text": "hello", "name": "Ann"})
        assert sent["data"] == {"sent": True}
        for one in (ann, bob):
            message = await said(one, "hello")
            assert (message["name"], message["room"], message["id"]) == ("Ann", "lobby", ann.id)
        ran = await roomcast("broadcast", "lobby", "chat", '{"text":"hi"}', "--nats", system.url)
        assert ran.code == 0, ran
        await said(bob, "hi")
        await bob.ask("chat.blast", {"text": "to all", "name": "Bob"})
        await until(lambda: any(f.get("event") == "chat.blast" for f in ann.heard), 10)
        assert "error" not in await bob.ask("chat.leave", {"room": "lobby"})
        who = (await ann.ask("chat.who", {"room": "lobby"}))["data"]
        assert [member["name"] for member in who["members"]] == ["Ann"]


def assert_ended(system: System, children: dict[int, str], directory: str) -> None:
    """Nothing is left of it."""
    assert "Traceback" not in system.output
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert all(is_free(port) for port in system.all_ports)
    assert not Path(directory).exists()


def directory_of(children: dict[int, str]) -> str:
    """Where the NATS servers keep what they store."""
    (command, *_) = [command for command in children.values() if "nats-server" in command]
    return str(Path(command.split()[-1]).parent)


@pytest.mark.parametrize(
    ("nodes", "edges"), [pytest.param(1, 2, id="single"), pytest.param(3, 3, id="cluster", marks=pytest.mark.cluster)]
)
async def test_up_chats_and_leaves_nothing_behind(nodes: int, edges: int) -> None:
    with System(nodes=nodes, edges=edges) as system:
        children = system.children()
        assert len(children) == nodes + edges + 1
        directory = directory_of(children)
        assert Path(directory).is_dir()
        for port in system.ports:
            assert "<title>Roomcast chat</title>" in page(port)
            assert f"http://localhost:{port}/" in system.output
        await chat(system)
        async with client(system.port) as witness:
            assert await asyncio.to_thread(system.stop) == 0
            assert await witness.closed() == 1012
        assert_ended(system, children, directory)


async def test_an_edge_that_is_killed_comes_back_with_its_rooms() -> None:
    with System() as system:
        async with client(system.ports[0]) as ann:
            await ann.ask("chat.join", {"room": "lobby", "name": "Ann"})
            (pid,) = [p for p, command in system.children().items() if f"127.0.0.1:{system.ports[0]} " in command]
            os.kill(pid, signal.SIGKILL)
            await ann.closed()
        assert await until(
            lambda: f"edge {system.ports[0]} was killed by SIGKILL; it is started again" in system.output, 10
        )
        async with client(system.ports[1], ann.greeting["session"]) as back:
            assert back.greeting["resumed"]
            assert back.id == ann.id
            await roomcast("broadcast", "lobby", "chat", '{"text":"still here?"}', "--nats", system.url)
            await said(back, "still here?")
        await until(lambda: not is_free(system.ports[0]), 30, "the edge listens again")
        children = system.children()
        directory = directory_of(children)
        assert await asyncio.to_thread(system.stop, signal.SIGTERM) == 0
        assert_ended(system, children, directory)


async def test_the_demo_refuses_what_it_does_not_understand() -> None:
    with System(edges=1) as system:
        async with client(system.port) as ann:
            for event, data, code in (
                ("chat.join", {"room": "lobby"}, "bad_request"),
                ("chat.join", {"room": "x" * 300, "name": "Ann"}, "bad_request"),
                ("chat.say", {"room": "lobby", "text": " "}, "bad_request"),
                ("chat.who", None, "bad_request"),
                ("chat.fly", {}, "not_found"),
            ):
                answer = await ann.ask(event, data)
                assert answer["error"]["code"] == code, answer


async def test_ctrl_c_while_it_starts() -> None:
    ports = free_run(1), free_run(2), free_run(2)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roomcast", "up", "--nats-port", str(ports[0])),
        *("--port", str(ports[1]), "--admin-port", str(ports[2])),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=ENV | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert b"starting NATS" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = await process.stdout.read()
        assert (await process.wait(), b"Traceback" in rest) == (0, False), rest
    assert is_free(ports[0])


@pytest.mark.parametrize(
    ("option", "offset", "purpose"),
    [
        ("--nats-port", 0, "a NATS server"),
        ("--port", 1, "an edge's websockets"),
        ("--admin-port", 0, "an edge's admin"),
    ],
)
async def test_a_taken_port_is_one_line(option: str, offset: int, purpose: str) -> None:
    bases = {"--nats-port": free_run(1), "--port": free_run(2), "--admin-port": free_run(2)}
    with socket.socket() as taker:
        taken = bases[option] + offset
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("127.0.0.1", taken))
        taker.listen()
        ran = await roomcast("up", *[word for name, port in bases.items() for word in (name, str(port))])
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"Error: port {taken} for {purpose} is taken: choose another with {option}\n"


async def test_ports_that_cannot_be() -> None:
    base = free_run(2)
    ran = await roomcast("up", "--port", str(base), "--admin-port", str(base + 1))
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"port {base + 1} is wanted twice" in ran.err
    ran = await roomcast("up", "--nats-port", str(free_run(1)), "--port", "65535")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "65536" in ran.err or "65535" in ran.err


async def test_without_the_server_it_says_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    code = "import sys; sys.executable = sys.argv.pop(1); from roomcast.commands import main; main(['up'])"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(python)], capture_output=True, text=True, env=ENV | {"PATH": str(tmp_path)}
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.count("\n") == 1
    assert "pip install 'roomcast[testing]'" in ran.stderr
