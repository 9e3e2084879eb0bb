"""The orders, in a SQLite file that all copies of the service share."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Order:
    """What a client gets, in the words of the page."""

    id: str
    status: str
    updatedAt: str


class Orders:
    """``find`` and ``update``; each call is a thread's, so that a slow disk holds up nobody else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(self._open()) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, status TEXT, updated_at TEXT)")
            db.execute("INSERT OR IGNORE INTO orders VALUES ('42', 'placed', ?)", [_now()])

    async def find(self, order_id: str) -> Order | None:
        """The order with this id."""
        return await asyncio.to_thread(self._one, "SELECT id, status, updated_at FROM orders WHERE id = ?", order_id)

    async def update(self, order_id: str, status: str) -> Order | None:
        """The order with this id, once its status is this."""
        change = "UPDATE orders SET status = ?, updated_at = ? WHERE id = ? RETURNING id, status, updated_at"
        return await asyncio.to_thread(self._one, change, status, _now(), order_id)

    def _one(self, statement: str, *values: str) -> Order | None:
        with closing(self._open()) as db, db:
            row = db.execute(statement, values).fetchone()
        return Order(*row) if row else None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
