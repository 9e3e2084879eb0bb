"""What all checks look at: the connection, requests on it, and what NATS refuses it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from roomcast.errors import BusTimeout, BusUnavailable, PermissionDenied
from roomcast.names import Subjects
from roomcast.nats_client import MendedClient, connect
from roomcast.requests import NoResponders, Requests

ANSWER_WITHIN = 2.0
"""Seconds that each question may take."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the system should be like."""

    cast_limit: int
    replicas: int
    """Of the bucket; 0: not said."""
    role: str
    """Whose credentials these are: ``operator``, ``edge`` or ``service``."""


@dataclass(slots=True)
class Patient:
    """A connection to the system under examination."""

    client: MendedClient
    requests: Requests
    subjects: Subjects
    expected: Expected
    denied: list[PermissionDenied] = field(default_factory=list)
    """What NATS has refused since the connection was made."""

    @property
    def stream(self) -> str:
        """The stream of the KV bucket."""
        return f"KV_{self.subjects.prefix}"

    async def ask(self, subject: str, body: bytes = b"", headers: bytes = b"") -> bytes | None:
        """The answer's payload; None when nobody listens there. ``BusTimeout``: silence, or it is not allowed."""
        try:
            return (await self.requests.ask(subject, body, ANSWER_WITHIN, headers)).data
        except NoResponders:
            return None

    async def ask_json(self, subject: str, body: Any = None) -> dict[str, Any] | None:
        """The answer as a JSON object; None when nobody listens there, or says none of it in time."""
        with contextlib.suppress(BusTimeout, BusUnavailable, orjson.JSONDecodeError):
            answer = await self.ask(subject, b"" if body is None else orjson.dumps(body))
            return None if answer is None else dict(orjson.loads(answer))
        return None

    async def ask_all(self, subject: str, within: float = 0.7) -> list[dict[str, Any]]:
        """Every answer that comes within so many seconds."""
        answers = []
        with self.requests.stream() as stream:
            self.client.send(subject, b"", stream.subject)
            deadline = asyncio.get_running_loop().time() + within
            with contextlib.suppress(TimeoutError):
                while True:
                    left = deadline - asyncio.get_running_loop().time()
                    reply = await stream.next(max(0.0, left))
                    if reply.data:
                        answers.append(dict(orjson.loads(reply.data)))
        return answers

    async def settle(self) -> None:
        """Wait until NATS has seen all that was sent, and said what of it is not allowed."""
        await self.client.flush(ANSWER_WITHIN)


@asynccontextmanager
async def examine(
    servers: list[str], subjects: Subjects, expected: Expected, options: dict[str, Any]
) -> AsyncIterator[Patient]:
    """Connect for as long as the block runs. ``BusUnavailable``."""

    async def ignore(_: Exception) -> None:
        """What is refused is collected; the rest shows in the checks."""

    if expected.role == "edge":
        options = {**options, "inbox_prefix": "_INBOX.edge"}  # as edges have it: their permissions may say so
    client = await connect(servers, name="roomcast-doctor", on_error=ignore, **options)
    requests = Requests(client)
    requests.start()
    patient = Patient(client, requests, subjects, expected)

    def collect(denied: PermissionDenied) -> bool:
        patient.denied.append(denied)
        return True

    client.on_denied = collect
    try:
        yield patient
    finally:
        requests.stop()
        await client.close()
