"""A whole system as ``roomcast up`` runs it, and the commands against it, as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

from support.until import until

UP_WITHIN = 90.0
"""Seconds: a cluster elects its leader, edges import and start, on a machine that is busy with other tests."""
DOWN_WITHIN = 30.0

ENV = {key: value for key, value in os.environ.items() if not key.startswith(("ROOMCAST_", "NATS_"))}


def free_run(count: int) -> int:
    """The first of so many consecutive ports that are free now, below those of outgoing connections."""
    for _ in range(200):
        base = random.randrange(10_000, 32_000)
        if all(is_free(base + i) for i in range(count)):
            return base
    raise OSError("no run of free ports was found in 200 attempts")


def is_free(port: int) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class System:
    """``roomcast up`` on free ports. It is up when it is entered, and ended by Ctrl-C."""

    def __init__(self, *options: str, edges: int = 2, nodes: int = 1, env: dict[str, str] | None = None) -> None:
        self.nats_port, self.port, self.admin_port = free_run(nodes), free_run(edges), free_run(edges)
        self.ports = [self.port + i for i in range(edges)]
        self.all_ports = [*self.ports, *range(self.admin_port, self.admin_port + edges)]
        self.all_ports += range(self.nats_port, self.nats_port + nodes)
        self.url = f"nats://127.0.0.1:{self.nats_port}"
        numbers = {"--nats-port": self.nats_port, "--port": self.port, "--admin-port": self.admin_port}
        numbers |= {"--edges": edges, "--nodes": nodes}
        self._command = [sys.executable, "-m", "roomcast", "up", *options]
        self._command += [word for option, number in numbers.items() for word in (option, str(number))]
        self._env = ENV | {"PYTHONFAULTHANDLER": "1"} | (env or {})
        self._output = tempfile.NamedTemporaryFile("w+", prefix="roomcast-test-", suffix=".log")  # noqa: SIM115
        self._process: subprocess.Popen[str] | None = None

    @property
    def output(self) -> str:
        """All that it printed so far."""
        return Path(self._output.name).read_text()

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process of ``up`` itself."""
        assert self._process is not None, "started first"
        return self._process

    def children(self) -> dict[int, str]:
        """The command lines of the processes that it has started and that are still there, zombies too, by pid."""
        found = {}
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):  # one that ends meanwhile
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
        return found

    def start(self) -> None:
        """Start it and wait until it says that it is up."""
        self._process = subprocess.Popen(
            self._command,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env,
            start_new_session=True,
        )
        deadline = time.monotonic() + UP_WITHIN
        while "Roomcast is up" not in self.output:
            assert self._process.poll() is None, f"it ended with {self._process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"not up within {UP_WITHIN:g} s:\n{self.output}"
            time.sleep(0.02)

    def stop(self, signum: signal.Signals = signal.SIGINT) -> int:
        """End it; returns its exit code. One that does not end says where it hangs, and is killed with its children."""
        self.process.send_signal(signum)
        try:
            return self.process.wait(DOWN_WITHIN)
        except subprocess.TimeoutExpired:
            children = self.children()
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(DOWN_WITHIN)
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            raise AssertionError(f"it did not end within {DOWN_WITHIN:g} s:\n{children}\n{self.output}") from None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        self._output.close()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        """The JSON objects that it printed, one on a line."""
        return [json.loads(line) for line in self.out.splitlines()]


async def roomcast(*arguments: str, env: dict[str, str] | None = None) -> Ran:
    """Run a command to its end; whatever happens, it prints no traceback."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "roomcast",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ENV | (env or {}),
    )
    out, err = await process.communicate()
    assert process.returncode is not None, "it has ended"
    ran = Ran(process.returncode, out.decode(), err.decode())
    assert "Traceback" not in ran.out + ran.err, ran
    return ran


class Client:
    """A websocket client of the dialect ``json``: what it hears, and what it is told."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.heard: list[dict[str, Any]] = []
        self.greeting: dict[str, Any] = {}
        self._count = 0

    @property
    def id(self) -> str:
        """The socket's id."""
        return str(self.greeting["id"])

    async def read(self) -> None:
        """Keep what comes until the connection ends."""
        async for frame in self.connection:
            self.heard.append(json.loads(frame))

    async def ask(self, event: str, data: Any, within: float = 10.0) -> dict[str, Any]:
        """Emit an event and wait for the whole answering frame."""
        self._count += 1
        number = self._count
        await self.connection.send(json.dumps({"event": event, "data": data, "id": number}))

        def answer() -> Any:
            return next((frame for frame in self.heard if frame.get("id") == number), None)

        found: dict[str, Any] = await until(answer, within, f"{event} is answered")
        return found

    async def hears(self, event: str, data: Any, within: float = 10.0) -> None:
        """Wait until exactly this was heard."""
        wanted = {"event": event, "data": data}
        await until(lambda: wanted in self.heard, within, f"{wanted} is heard among {self.heard}")

    async def closed(self, within: float = 10.0) -> int | None:
        """Wait for the end of the connection; returns the close code."""
        async with asyncio.timeout(within):
            await self.connection.wait_closed()
        return self.connection.close_code


@asynccontextmanager
async def client(port: int, session: str | None = None) -> AsyncIterator[Client]:
    """A client that has been greeted."""
    protocols: Any = ["roomcast.v1", *([f"roomcast.session.{session}"] if session else [])]
    async with connect(f"ws://127.0.0.1:{port}/ws", subprotocols=protocols, compression=None) as connection:
        new = Client(connection)
        reading = asyncio.create_task(new.read())
        try:
            first = await until(lambda: new.heard[:1], 10.0, "the greeting comes")
            assert first[0]["event"] == "connect"
            new.greeting = first[0]["data"]
            yield new
        finally:
            reading.cancel()
            await asyncio.wait({reading})
