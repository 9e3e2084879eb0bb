"""How the SDK asks the cluster: the edge that an id names, any edge as coordinator, and each edge's own word."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import orjson

from roomcast.envelope import parse_answer
from roomcast.errors import BusTimeout, BusUnavailable, MoveIncomplete, RoomcastError, SocketNotFound
from roomcast.membership import Change, ChangeResult, MoveResult, socket_id
from roomcast.names import Subjects, encode_room, is_socket_id
from roomcast.requests import NoResponders, Reply, Requests

ANSWER_MARGIN = 0.15
"""The part of a timeout that a coordinator leaves for its answer's way back."""
ASKS = 5
REPEATABLE = frozenset({"move", "members", "count", "get"})
"""What any edge may be asked again while the answer is out: the edge that NATS has chosen may be stalled, and is not
known to be so for seconds. A bulk change bears its id, so that a repetition is the same one; a single change does not.
"""
LIST_WINDOW = 500
MAX_TIMEOUT = 60.0
"""Seconds that an edge works on a request at most."""


def check_timeout(timeout: float) -> None:
    """``ValueError`` for a timeout, in seconds, that no edge takes."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(f"timeout must be above 0 and at most {MAX_TIMEOUT:g} seconds, not {timeout!r}")


class Asking:
    """Changes and questions of one Bus, as requests."""

    def __init__(self, requests: Requests, subjects: Subjects) -> None:
        self._requests = requests
        self._subjects = subjects

    async def change(self, sockets: Any, change: Change, timeout: float) -> ChangeResult | list[ChangeResult]:
        """Make a change on one socket, or on each of a list of them, whose results never raise."""
        if isinstance(sockets, list | tuple):
            ids = [socket_id(socket) for socket in sockets]
            return await self._change_many(ids, change, timeout)
        name = socket_id(sockets)
        for room in change.leave:
            if room == name:
                raise ValueError("a socket never leaves its own room")
        answer = await self.change_one(name, change, timeout)
        if answer is None:
            if change.join:
                raise SocketNotFound(name)
            return ChangeResult(name)
        return ChangeResult(name, bool(answer.get("changed")))

    async def _change_many(self, ids: list[str], change: Change, timeout: float) -> list[ChangeResult]:
        window = asyncio.Semaphore(LIST_WINDOW)

        async def one(name: str) -> ChangeResult:
            async with window:
                try:
                    result = await self.change(name, change, timeout)
                    assert isinstance(result, ChangeResult), "one id has one result"
                except RoomcastError as error:
                    return ChangeResult(name, error=error)
                return result

        return list(await asyncio.gather(*[one(name) for name in ids]))

    async def change_one(self, name: str, change: Change, timeout: float) -> dict[str, Any] | None:
        """The answer to one socket's change, or None when there is no such socket."""
        return await self.ask_socket(name, change.to_json(), "change", timeout)

    async def call(self, name: str, event: str, data: Any, timeout: float) -> dict[str, Any] | None:
        """A client's reply to an event, or None when it is not connected."""
        call = {"call": {"event": event, "data": data}, "timeout": max(0.05, timeout - min(ANSWER_MARGIN, timeout / 4))}
        return await self.ask_socket(name, call, "call", timeout)

    async def ask_socket(self, name: str, body: dict[str, Any], verb: str, timeout: float) -> dict[str, Any] | None:
        """The answer of whoever holds a socket, or can speak for one that is away; None: there is no such socket."""
        check_timeout(timeout)
        if not is_socket_id(name):
            return None
        deadline = time.monotonic() + timeout
        try:
            reply = await self._requests.ask(self._subjects.socket(name), orjson.dumps(body), timeout)
            answer = parse_answer(reply.data, name)
            if not answer.get("elsewhere"):
                return answer
        except NoResponders:
            pass
        left = max(0.05, deadline - time.monotonic())
        try:
            return await self.ask_api(verb, {"id": name, **body}, left, name)
        except SocketNotFound:
            return None

    async def ask_api(self, verb: str, body: dict[str, Any], timeout: float, name: str = "") -> dict[str, Any]:
        """The answer of any edge, which coordinates the others."""
        check_timeout(timeout)
        tries = ASKS if verb in REPEATABLE else 1
        deadline = time.monotonic() + timeout
        asked: set[asyncio.Future[Reply]] = set()
        pending: set[asyncio.Future[Reply]] = set()
        refusal: BusUnavailable | None = None
        try:
            while pending or refusal is None:
                if refusal is None and len(asked) < tries:
                    future = self._ask_any(verb, body, max(0.05, deadline - time.monotonic()))
                    asked.add(future)
                    pending.add(future)
                patience = timeout / tries if refusal is None and len(asked) < tries else None
                answered, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for future in answered:
                    try:
                        reply = future.result()
                    except NoResponders:
                        nobody = f"no edge is running (nobody listens on {self._subjects.api(verb)})"
                        refusal = refusal or BusUnavailable(nobody)
                        continue
                    except BusTimeout:
                        late = f"no edge has answered within {timeout:g} s; whether it was done is unknown"
                        raise BusTimeout(late) from None
                    try:
                        return parse_answer(reply.data, name)
                    except BusUnavailable as error:  # what one edge refuses, another may be doing: hear them all
                        refusal = error
            raise refusal
        finally:
            for future in asked:
                future.cancel()
                _ = future.cancelled() or future.exception()  # the others may have failed at the same moment

    def _ask_any(self, verb: str, body: dict[str, Any], left: float) -> asyncio.Future[Reply]:
        body["timeout"] = max(0.05, left - min(ANSWER_MARGIN, left / 4))
        return self._requests.ask(self._subjects.api(verb), orjson.dumps(body), left)

    async def move(self, source: str, change: Change, timeout: float) -> MoveResult:
        """Make a change on all members of a room; done when every live edge has said so itself."""
        encode_room(source)
        if not change:
            raise ValueError("nothing to do: name rooms to join or to leave")
        deadline = time.monotonic() + timeout
        move_id = os.urandom(12).hex()
        with self._requests.collect() as confirmed:
            body = {"id": move_id, "from": source, **change.to_json(), "confirm": confirmed.subject}
            result = MoveResult.from_json(await self.ask_api("move", body, timeout))
            # The coordinator's answer may overtake the interest of a third node; an edge's own word to us cannot.
            late = await confirmed.wait_for(set(result.edges), max(0.05, deadline - time.monotonic()))
        if late or result.missing:
            edges = {edge: row for edge, row in result.edges.items() if edge not in late}
            raise MoveIncomplete(MoveResult(result.id, edges, sorted({*result.missing, *late})))
        return result
