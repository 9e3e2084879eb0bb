"""The KV bucket as edges use it: compare-and-set puts with a TTL, reads that are sure, and the log of moves.

Over plain requests with deadlines, since ``publish_async`` loses acknowledgements and ``kv.get`` hides markers. The
sequence of the bucket's stream orders all keys against each other.
"""

from __future__ import annotations

import asyncio
import binascii
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from roomcast.envelope import header_value
from roomcast.errors import BusUnavailable, OutcomeUnknown, PermissionDenied
from roomcast.nats_client import MendedClient
from roomcast.requests import NoResponders, Reply, Requests
from roomcast_edge.turnstile import Turnstile

READS_UNDER_WAY = 500
"""JetStream drops reads that come in greater numbers."""

_WRONG_SEQUENCE = (10071, 10164)
_NOT_FOUND = (10037, 10059)


class WrongRevision(Exception):
    """Somebody wrote the key since the revision that was expected."""


class KvUnavailable(Exception):
    """The bucket cannot be read or written now. The text says why, as an operator needs it."""


class KvUnknown(KvUnavailable):
    """A write was sent and not answered: whether the bucket has it is unknown."""


class KvRefused(KvUnavailable):
    """The bucket will never take this value: waiting does not help."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The last value of a key, or, with ``value`` None, the marker of its end."""

    key: str
    value: bytes | None
    revision: int


class Bucket:
    """The bucket named by the prefix."""

    def __init__(
        self,
        client: MendedClient,
        requests: Requests,
        name: str,
        timeout: float = 2.0,
        failures: dict[str, int] | None = None,
    ) -> None:
        self._client = client
        self._requests = requests
        self._timeout = timeout
        self.stream = f"KV_{name}"
        self._subject = f"$KV.{name}."
        self._direct = f"$JS.API.DIRECT.GET.{self.stream}"
        self._reads = Turnstile(READS_UNDER_WAY)
        # Requests that failed, by operation: write, read, log, state.
        self._failures = Counter() if failures is None else failures

    async def ensure(self, replicas: int) -> None:
        """Make the bucket where it is missing; :class:`KvUnavailable` says what is wrong with it."""
        js = self._client.jetstream(timeout=self._timeout)
        try:
            try:
                info = await js.stream_info(self.stream)
            except NotFoundError:
                info = await js.add_stream(self._config(replicas))
        except APIError as error:
            if not error.description:  # a bare 503: nobody answers for JetStream
                raise KvUnavailable("JetStream does not answer; is it enabled?") from error
            raise KvUnavailable(f"the bucket {self.stream} cannot be made: {error.description}") from error
        except Exception as error:
            raise KvUnavailable(f"JetStream does not answer ({type(error).__name__}); is it enabled?") from error
        config = info.config
        if not config.allow_msg_ttl or not config.allow_direct:
            raise KvUnavailable(
                f"the bucket {self.stream} was not made by Roomcast: it needs per-message TTLs and direct gets"
            )

    def _config(self, replicas: int) -> StreamConfig:
        return StreamConfig(
            name=self.stream,
            subjects=[self._subject + ">"],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,
            storage=StorageType.FILE,
            num_replicas=replicas,
            max_msgs_per_subject=1,
            max_bytes=-1,
            max_age=0,
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
            allow_msg_ttl=True,
            duplicate_window=10,
        )

    # -- writing -----------------------------------------------------------------------------------------------------

    async def put(self, key: str, value: bytes, *, expect: int | None, ttl: float, timeout: float | None = None) -> int:
        """Store a value that lives ``ttl`` seconds; returns its revision.

        ``expect`` is the revision that the key must have (0: none; None: any), else :class:`WrongRevision`.
        :class:`KvUnknown`: it may be stored, or be stored yet. :class:`KvUnavailable`: it is not.
        """
        return await self._store(key, value, _put_head(expect, ttl), timeout)

    def put_soon(self, key: str, value: bytes, *, expect: int, ttl: float) -> asyncio.Future[Reply]:
        """As :meth:`put`, without a task: its result is for :meth:`revision_of`. ``BusUnavailable`` at once.

        The future raises what :meth:`Requests.ask` says.
        """
        return self._requests.ask(self._subject + key, value, self._timeout, _put_head(expect, ttl))

    async def purge(self, key: str, *, expect: int) -> int:
        """End a key at this revision; what is left of it vanishes by itself."""
        head = (
            b"NATS/1.0\r\nKV-Operation: PURGE\r\nNats-Rollup: sub\r\nNats-TTL: 5s\r\n"
            b"Nats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % expect
        )
        return await self._store(key, b"", head, None)

    async def _store(self, key: str, value: bytes, head: bytes, timeout: float | None) -> int:
        try:
            return self.revision_of(key, await self._ask(self._subject + key, value, timeout, head))
        except OutcomeUnknown:
            self._failures["write"] += 1
            raise KvUnknown("the bucket did not answer a write; whether it was written is unknown") from None
        except KvUnavailable:
            self._failures["write"] += 1
            raise

    def revision_of(self, key: str, reply: Reply) -> int:
        """The revision in the acknowledgement of a write; :class:`WrongRevision`, :class:`KvUnavailable`."""
        answer = _json(reply)
        error = answer.get("error")
        if error is None and "seq" in answer:
            return int(answer["seq"])
        code = error.get("err_code") if isinstance(error, dict) else None
        if code in _WRONG_SEQUENCE:
            raise WrongRevision(key)
        why = error.get("description") if isinstance(error, dict) else "no acknowledgement"
        raise KvUnavailable(f"the bucket refuses a write: {why}")

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """The last entry of a key as the stream's leader knows it; None where there is none."""
        with self._counting("read"):
            return await self._get(key)

    async def _get(self, key: str) -> Entry | None:
        body = orjson.dumps({"last_by_subj": self._subject + key})
        async with self._reads:
            reply = await self._read(f"$JS.API.STREAM.MSG.GET.{self.stream}", body)
        answer = _json(reply)
        if "error" in answer:
            if answer["error"].get("err_code") in _NOT_FOUND:
                return None
            raise KvUnavailable(f"the bucket cannot be read: {answer['error'].get('description')}")
        message = answer["message"]
        headers = _base64(message.get("hdrs"))
        gone = b"KV-Operation:" in headers or b"Nats-Marker-Reason:" in headers
        return Entry(key, None if gone else _base64(message.get("data")), int(message["seq"]))

    async def after(self, sequence: int, pattern: str, batch: int, timeout: float) -> tuple[list[Entry], bool]:
        """The entries under a pattern that follow a sequence, in stream order, and whether there are more.

        Any replica may answer. :class:`KvUnavailable` when the batch breaks off; what came is lost with it, ask again.
        """
        body = orjson.dumps({"seq": sequence + 1, "next_by_subj": self._subject + pattern, "batch": batch})
        entries: list[Entry] = []
        with self._counting("log"), self._requests.stream() as stream:
            self._send(self._direct, body, stream.subject)
            while True:
                try:
                    reply = await stream.next(timeout)
                except TimeoutError:
                    raise KvUnavailable("a read of the log of moves got no answer") from None
                status = reply.status
                if status == b"204":
                    return entries, header_value(reply.headers, b"\r\nNats-Num-Pending:") not in (b"", b"0")
                if status == b"404":
                    return entries, False
                if status:
                    raise KvUnavailable(f"a read of the log of moves was refused: {status.decode()}")
                entries.append(self._entry(reply))

    async def state(self, pattern: str) -> tuple[int, list[str]]:
        """The stream's last sequence and the keys under a pattern, both from the stream's leader."""
        body = orjson.dumps({"subjects_filter": self._subject + pattern})
        with self._counting("state"):
            answer = _json(await self._read(f"$JS.API.STREAM.INFO.{self.stream}", body))
            if "error" in answer:
                raise KvUnavailable(f"the bucket's state cannot be read: {answer['error'].get('description')}")
        state = answer["state"]
        keys = [subject.removeprefix(self._subject) for subject in state.get("subjects") or {}]
        return int(state["last_seq"]), keys

    @contextmanager
    def _counting(self, operation: str) -> Iterator[None]:
        try:
            yield
        except KvUnavailable:
            self._failures[operation] += 1
            raise

    def _entry(self, reply: Reply) -> Entry:
        headers = reply.headers
        key = header_value(headers, b"\r\nNats-Subject:").decode().removeprefix(self._subject)
        gone = b"KV-Operation:" in headers or b"Nats-Marker-Reason:" in headers
        return Entry(key, None if gone else reply.data, int(header_value(headers, b"\r\nNats-Sequence:")))

    def _send(self, subject: str, payload: bytes, reply: str) -> None:
        try:
            self._client.send(subject, payload, reply)
        except Exception as error:
            raise KvUnavailable(f"NATS is away: {error or 'not connected'}") from error

    async def _read(self, subject: str, payload: bytes) -> Reply:
        try:
            return await self._ask(subject, payload, None)
        except OutcomeUnknown:
            raise KvUnavailable("the bucket did not answer in time") from None

    async def _ask(self, subject: str, payload: bytes, timeout: float | None, headers: bytes = b"") -> Reply:
        try:
            return await self._requests.ask(subject, payload, timeout or self._timeout, headers)
        except NoResponders:
            raise KvUnavailable("the bucket's stream has no leader now, or is missing") from None
        except OutcomeUnknown:
            raise
        except (BusUnavailable, PermissionDenied) as error:
            raise KvUnavailable(str(error)) from None
        except ValueError as error:
            raise KvRefused(f"too large for NATS: {error}") from None


def _put_head(expect: int | None, ttl: float) -> bytes:
    seconds = max(1, round(ttl))
    if expect is None:
        return b"NATS/1.0\r\nNats-TTL: %ds\r\n\r\n" % seconds
    return b"NATS/1.0\r\nNats-TTL: %ds\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % (seconds, expect)


def _json(reply: Reply) -> dict[str, Any]:
    try:
        body = orjson.loads(reply.data)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise KvUnavailable(f"JetStream answered what is no JSON object (status {reply.status.decode() or 'none'})")
    return body


def _base64(text: str | None) -> bytes:
    return binascii.a2b_base64(text) if text else b""
