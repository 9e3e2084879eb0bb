"""NATS and one edge that are started to be measured, and ended with the run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from roomcast.bench.connection import Target
from roomcast.bench.errors import BenchError
from roomcast.bench.machine import cpus, pin
from roomcast.bench.system import Edge, System
from roomcast.commands import discovered, embedded, ready
from roomcast.commands.ports import HOST, free_ports

STOP_WITHIN = 15.0
LAST_WORDS = 12
"""Lines of its output that are shown of a process that has died."""


@contextmanager
def start_embedded() -> Iterator[System]:
    """NATS and one edge on free ports of this machine; ended, and forgotten, when the block is left.

    With two processors or more the edge has the first to itself.
    """
    trouble = discovered.trouble("edge")
    if trouble is not None:
        raise BenchError(trouble)
    try:
        binary = embedded.find_binary()
        nats_port = free_ports(1)[0]
    except OSError as error:
        raise BenchError(str(error)) from error
    all_cpus = cpus()
    edge_cpus, load_cpus = (all_cpus[:1], all_cpus[1:]) if len(all_cpus) > 1 else ([], all_cpus)
    url = f"nats://{HOST}:{nats_port}"
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roomcast-bench-")))
        stack.callback(pin, all_cpus)
        pin(load_cpus)
        config = embedded.write_configs(directory, [nats_port])[0]
        server = stack.enter_context(_Process("NATS", [binary, "-c", str(config)], directory))
        server.wait(ready.wait_nats([url]))
        edge = stack.enter_context(_edge(url, directory, edge_cpus, load_cpus))
        another = partial(_edge, url, directory, all_cpus, load_cpus)
        yield System(url, "bus", [edge.target], [edge.admin], another, edge_cpus, load_cpus)


@contextmanager
def _edge(url: str, directory: Path, its_cpus: Sequence[int], our_cpus: Sequence[int]) -> Iterator[Edge]:
    """One edge on free ports, on its processors. :class:`BenchError`."""
    port, admin = free_ports(2)
    command = [sys.executable, "-m", "roomcast", "edge", "--nats", url, "--client-rooms", "bench-*"]
    command += ["--drain-time", "0", "--listen", f"{HOST}:{port}", "--admin", f"{HOST}:{admin}"]
    pin(its_cpus)
    with _Process(f"the edge at {port}", command, directory) as process:
        pin(our_cpus)
        process.wait(ready.wait_edge(port, admin))
        yield Edge(Target(HOST, port), f"http://{HOST}:{admin}", process.kill)


class _Process:
    """A process whose output goes to a file; ended when the context is left."""

    def __init__(self, name: str, command: Sequence[str], directory: Path) -> None:
        self._name = name
        self._log = directory / f"{name.rpartition(' ')[2]}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("ROOMCAST_", "NATS_"))}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, process_group=0
            )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def wait(self, until_ready: object) -> None:
        """Wait until it is ready; :class:`BenchError` with its last words when it is not in time, or dies."""
        assert asyncio.iscoroutine(until_ready), "a coroutine of roomcast.commands.ready"

        async def watched() -> None:
            waiting = asyncio.ensure_future(until_ready)
            while not waiting.done() and self._process.poll() is None:
                await asyncio.wait({waiting}, timeout=0.1)
            if waiting.done():
                waiting.result()
                return
            waiting.cancel()
            await asyncio.wait({waiting})
            raise TimeoutError(f"{self._name} ended with exit code {self._process.returncode}")

        try:
            asyncio.run(watched())
        except TimeoutError as error:
            words = self._log.read_text(errors="replace").splitlines()[-LAST_WORDS:]
            raise BenchError(f"{error}; its last words:\n" + "\n".join(f"  {line}" for line in words)) from error
