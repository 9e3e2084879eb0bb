"""The orders example as it is run: processes of its service, and its database."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

from roomcast import Bus
from support.until import until

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "orders"


class Copy:
    """One process of the service. Its log is in ``log``."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    async def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def copies(nats_url: str, prefix: str, home: Path, count: int) -> AsyncIterator[list[Copy]]:
    """So many copies of the service that share ``home/orders.sqlite`` and serve."""
    environment = {**os.environ, "NATS_URL": nats_url, "ROOMCAST_PREFIX": prefix}
    started: list[Copy] = []
    try:
        for number in range(count):
            log = home / f"copy {number}.log"
            with log.open("wb") as output:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, str(EXAMPLE / "service.py"), str(home / "orders.sqlite")),
                    env=environment,
                    stdout=output,
                    stderr=output,
                )
            started.append(Copy(process, log))
        await _serve(nats_url, prefix, count)
        yield started
    finally:
        for copy in started:
            await copy.kill()


async def _serve(nats_url: str, prefix: str, count: int) -> None:
    async with Bus.connect(nats_url, prefix=prefix) as bus:
        there: set[str] = set()
        inbox = bus.nats.new_inbox()

        async def note(message: object) -> None:
            told = json.loads(message.data)  # type: ignore[attr-defined]
            if told["metadata"]["prefix"] == prefix and len(told["endpoints"]) == 4:
                there.add(told["id"])

        await bus.nats.subscribe(inbox, cb=note)

        async def all_there() -> bool:
            await bus.nats.publish("$SRV.INFO.orders", b"", reply=inbox)
            await bus.flush()
            return len(there) == count

        await until(all_there, 30, f"{count} copies of the service answer")


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Nobody writes to the database while the block runs: whoever tries waits."""
    with closing(sqlite3.connect(home / "orders.sqlite", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")
