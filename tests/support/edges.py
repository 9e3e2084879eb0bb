"""Real edges for tests: each a process of its own, on free ports."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from support.until import until

READY = re.compile(r"edge (\w+) takes clients at [^ ]+:(\d+), admin at (\d+)")


class EdgeProcess:
    """One ``roomcast edge``. ``settings`` become ``ROOMCAST_…`` variables."""

    def __init__(self, nats: list[str], prefix: str, **settings: object) -> None:
        self.nats = nats
        self.prefix = prefix
        self.settings = settings
        self.command = [sys.executable, "-m", "roomcast"]
        self.process: asyncio.subprocess.Process | None = None
        self.id = ""
        self.port = 0
        self.admin_port = 0
        self._log = Path(tempfile.mkstemp(prefix="edge-", suffix=".log")[1])

    @property
    def url(self) -> str:
        """Where clients of the json dialect connect."""
        return f"{'wss' if self.settings.get('tls_cert') else 'ws'}://127.0.0.1:{self.port}/ws"

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None, "started"
        return self.process.pid

    async def start(self, *, ready: bool = True) -> EdgeProcess:
        """Start it and, unless told otherwise, wait until it takes clients. The ports stay the same at a restart."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ROOMCAST_")}
        environment |= {f"ROOMCAST_{key.upper()}": str(value) for key, value in self.settings.items()}
        environment |= {"NATS_URL": ",".join(self.nats), "ROOMCAST_PREFIX": self.prefix}
        self._log.write_text("")
        with self._log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(*self.command, "edge"),
                *("--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin_port}"),
                env=environment,
                stdout=output,
                stderr=output,
            )
        if ready:
            await self.is_ready()
        return self

    async def is_ready(self, within: float = 60.0) -> None:
        """Wait until it takes clients."""

        def told() -> bool:
            assert self.process is not None, "started"
            if self.process.returncode is not None:
                raise AssertionError(f"the edge ended with {self.process.returncode}:\n{self.log}")
            found = READY.search(self.log)
            if found:
                self.id, self.port, self.admin_port = found[1], int(found[2]), int(found[3])
            return found is not None

        await until(told, within, "the edge takes clients")

    def signal(self, number: int) -> None:
        """Send a signal: ``signal.SIGKILL``, ``SIGSTOP``, ``SIGCONT``, …"""
        assert self.process is not None, "started"
        self.process.send_signal(number)

    async def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        assert self.process is not None, "started"
        if self.process.returncode is None:
            self.signal(signal.SIGKILL)
            self.signal(signal.SIGCONT)
        await self.process.wait()

    async def stop(self, within: float = 15.0) -> int:
        """SIGTERM, and wait; returns the exit code."""
        assert self.process is not None, "started"
        if self.process.returncode is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), within)

    async def close(self) -> None:
        """End it, whatever state it is in, and forget its log."""
        if self.process is not None:
            try:
                await self.stop()
            except TimeoutError:
                await self.kill()
        self._log.unlink(missing_ok=True)

    async def get(self, path: str) -> tuple[int, str]:
        """The status and the body of a page of the admin port."""

        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(fetch)

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 where it is missing."""
        _, text = await self.get("/metrics")
        rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return sum(float(value) for key, value in rows if key == name or key.startswith(name + "{"))


StartEdge = Callable[..., Awaitable[EdgeProcess]]
"""What the fixture ``start_edge`` is: called with the NATS servers and the edge's settings."""
