"""What the cluster as a whole is asked (``bus.api.*``): whichever edge gets it coordinates the others."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from roomcast.envelope import parse_answer
from roomcast.errors import RoomcastError
from roomcast.membership import Change
from roomcast.names import Subjects, encode_room, is_socket_id
from roomcast.nats_client import MendedClient
from roomcast.requests import NoResponders, Requests
from roomcast_edge.answers import Refused, timeout_of
from roomcast_edge.keeper import MOVE_TTL
from roomcast_edge.kv import Bucket, KvUnavailable, KvUnknown, WrongRevision
from roomcast_edge.neighbours import Neighbours
from roomcast_edge.records import Move, Record
from roomcast_edge.sessions import SILENT_TWICE
from roomcast_edge.workshop import Workshop

_MOVE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_INBOX = re.compile(r"_INBOX(\.[A-Za-z0-9_-]+)+").fullmatch
PAGE_BYTES = 200_000
"""A page of members ends here; NATS takes 1 MiB a message by default."""
REREADS = 20
REREAD_PAUSE = 0.05


@dataclass(slots=True)
class Answers:
    """What edges said, and who did not. An edge that is dead is in none of these."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    """Those that did not answer in time."""
    cut_off: list[str] = field(default_factory=list)
    """Those that are stalled, and whose connection NATS has closed: they hear nothing before they have caught up."""

    @property
    def missing(self) -> list[str]:
        """All that did not answer."""
        return sorted(self.late + self.cut_off)


class Coordinator:
    """Routes single changes to the owner, puts bulk changes into the log and waits for all live edges, asks around."""

    def __init__(
        self,
        edge: str,
        subjects: Subjects,
        client: MendedClient,
        requests: Requests,
        bucket: Bucket,
        workshop: Workshop,
        neighbours: Neighbours,
    ) -> None:
        self._edge = edge
        self._subjects = subjects
        self._client = client
        self._requests = requests
        self._bucket = bucket
        self._workshop = workshop
        self._neighbours = neighbours

    # -- one socket --------------------------------------------------------------------------------------------------

    async def change(self, body: Mapping[str, Any], reply: str) -> dict[str, Any] | None:
        """Change one socket, call its client, or else tell about it, whoever holds it, or nobody just now.

        None: its owner has answered the caller itself, so that the answer is behind the interest on every route.
        """
        name = body.get("id")
        if not isinstance(name, str) or not is_socket_id(name):
            raise Refused("not_found", f"no socket has the id {name!r}")
        change = Change.parse(body)
        deadline = time.monotonic() + timeout_of(body)
        asked = {"op": "change", "id": name, **change.to_json(), "answer": reply}
        if "call" in body:
            asked |= {"call": body["call"], "timeout": timeout_of(body)}
        for _ in range(REREADS):
            if self._workshop.holds(name):
                return await self._workshop.work(name, body)
            record = await self._record(name)
            if record.owner is not None and record.owner != self._edge:
                told = await self._ask_owner(record.owner, asked, deadline)
                if told == "told":
                    return None
                if told == "elsewhere":
                    await asyncio.sleep(REREAD_PAUSE)
                    continue
            if "call" in body:
                raise Refused("not_found", "the client is not connected just now")
            return await self._change_absent(name, record, change, deadline)
        raise Refused("timeout", "the socket moves between edges too fast to be changed; whether it was is unknown")

    async def _record(self, name: str) -> Record:
        entry = await self._bucket.get(f"socket.{name}")
        if entry is None or entry.value is None:
            raise Refused("not_found", f"no socket has the id {name!r}")
        record = Record.from_json(entry.value)
        if record.expired(time.time()):
            raise Refused("not_found", f"no socket has the id {name!r}")
        return record

    async def _ask_owner(self, owner: str, body: dict[str, Any], deadline: float) -> str:
        subject = self._subjects.edge(owner)
        for attempt in range(2):
            try:
                reply = await self._requests.ask(subject, orjson.dumps(body), max(0.05, deadline - time.monotonic()))
                return "elsewhere" if parse_answer(reply.data).get("elsewhere") else "told"
            except NoResponders:
                if attempt == 0:
                    await asyncio.sleep(SILENT_TWICE)
        return "silent"

    async def _change_absent(self, name: str, record: Record, change: Change, deadline: float) -> dict[str, Any]:
        """Nobody holds the socket now: the log of moves holds the change until it is back."""
        if not await self._workshop.in_step(deadline):  # an acknowledged change may be in a part not read yet
            raise Refused("unavailable", "this edge is catching up with the log of moves; nothing was done")
        await self._workshop.follower.bring_up_to_date(name, record)
        if record.disconnect is not None:
            raise Refused("not_found", f"no socket has the id {name!r}")
        if not change:
            return {"socket": _describe(name, record), "connected": False}
        changed = record.apply(name, change)
        if changed:
            move = Move(os.urandom(12).hex(), name, change)
            _, answers = await self._carry_out(move, "", deadline)
            if answers.late:
                raise Refused("timeout", "the change is made, but not confirmed by " + ", ".join(sorted(answers.late)))
        return {"changed": changed, "edge": ""}

    # -- all members of a room ---------------------------------------------------------------------------------------

    async def move(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Put a bulk change into the log, wait for every live edge, and say per edge what it did."""
        source = body.get("from")
        if not isinstance(source, str):
            raise Refused("bad_request", "from must be a room name")
        encode_room(source)
        change = Change.parse(body)
        if not change:
            raise Refused("bad_request", "nothing to do: name join, leave, leave_all or disconnect")
        move_id = body.get("id", None) or os.urandom(12).hex()
        if not isinstance(move_id, str) or not _MOVE_ID(move_id):
            raise Refused("bad_request", "id must be 1 to 64 letters, digits, _ or -")
        confirm = body.get("confirm", "")
        if confirm and (not isinstance(confirm, str) or not _INBOX(confirm)):
            raise Refused("bad_request", "confirm must be an inbox: _INBOX.…")
        deadline = time.monotonic() + timeout_of(body)
        sequence, answers = await self._carry_out(Move(move_id, source, change), confirm, deadline)
        return {
            "id": move_id,
            "sequence": sequence,
            "matched": sum(answer["matched"] for answer in answers.done.values()),
            "changed": sum(answer["changed"] for answer in answers.done.values()),
            "edges": {
                edge: {"matched": row["matched"], "changed": row["changed"]} for edge, row in answers.done.items()
            },
            "missing": answers.missing,
        }

    async def _carry_out(self, move: Move, confirm: str, deadline: float) -> tuple[int, Answers]:
        """Put a move into the log; its place there, and what the live edges say of it."""
        sequence = await self._put(move, deadline)
        self._client.send(self._subjects.moved, b"%d" % sequence)
        # Read after the put's acknowledgement: an edge that starts later begins behind the move.
        try:
            edges = await self._live_edges(deadline)
        except KvUnavailable as error:
            raise Refused(
                "timeout", f"the change is made and durable, but not confirmed by any edge: {error}"
            ) from None
        asked = orjson.dumps({"op": "moved", "sequence": sequence, "confirm": confirm})
        return sequence, await self._ask_all(edges, asked, deadline)

    async def _put(self, move: Move, deadline: float) -> int:
        """Store a move, and try again until ``deadline``; returns its place in the log."""
        unsure: KvUnknown | None = None
        while True:
            try:
                return await self._put_once(move)
            except KvUnavailable as error:
                if isinstance(error, KvUnknown):
                    unsure = error
                if time.monotonic() + 0.3 > deadline:
                    raise unsure or error from None  # an earlier attempt may have been stored
                await asyncio.sleep(0.2)

    async def _put_once(self, move: Move) -> int:
        """A retry with the same id is the same move, whichever edge of whichever version stored it first."""
        key = f"move.{move.id}"
        try:
            return await self._bucket.put(key, move.to_json(), expect=0, ttl=MOVE_TTL)
        except WrongRevision:
            pass
        try:
            entry = await self._bucket.get(key)
        except KvUnavailable as error:
            raise KvUnknown(f"whether the change was made is unknown: {error}") from None
        if entry is None or entry.value is None:
            raise KvUnavailable(f"the log of moves does not take {move.id!r} now")
        stored = Move.from_json(move.id, entry.value, entry.revision)
        if (stored.source, stored.change) != (move.source, move.change):
            raise Refused("conflict", f"another bulk change has the id {move.id!r}")
        return entry.revision

    # -- everybody ---------------------------------------------------------------------------------------------------

    async def count(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """How many connected sockets are in a room, and which edges did not say."""
        room = _room(body)
        deadline = time.monotonic() + timeout_of(body)
        edges = await self._live_edges(deadline)
        answers = await self._ask_all(edges, orjson.dumps({"op": "count", "room": room}), deadline)
        return {
            "count": sum(answer["count"] for answer in answers.done.values()),
            "missing": answers.missing,
        }

    async def members(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One page of a room's members. ``cursor`` of the answer asks for the next; null: there is none.

        Edges are walked in the order of their ids, each in the order of its sockets' ids.
        """
        room = _room(body)
        deadline = time.monotonic() + timeout_of(body)
        edges, after, missing = await self._cursor(body.get("cursor"), deadline)
        cursor: dict[str, Any] | None
        while edges:
            asked = orjson.dumps({"op": "members", "room": room, "after": after, "bytes": PAGE_BYTES})
            answers = await self._ask_all(edges[:1], asked, deadline)
            missing += answers.missing
            page = answers.done.get(edges[0])
            if page and page["more"]:
                cursor = {"edges": edges, "after": page["members"][-1]["id"], "missing": missing}
                return {"members": page["members"], "cursor": cursor, "missing": missing}
            edges, after = edges[1:], ""
            if page and page["members"]:
                cursor = {"edges": edges, "after": "", "missing": missing} if edges else None
                return {"members": page["members"], "cursor": cursor, "missing": missing}
        return {"members": [], "cursor": None, "missing": missing}

    async def _cursor(self, cursor: Any, deadline: float) -> tuple[list[str], str, list[str]]:
        if cursor is None:
            return sorted(await self._live_edges(deadline)), "", []
        try:
            return list(cursor["edges"]), str(cursor["after"]), list(cursor["missing"])
        except (TypeError, KeyError):
            raise Refused("bad_request", "cursor must be the one of the page before") from None

    async def _live_edges(self, deadline: float) -> list[str]:
        while True:
            try:
                _, keys = await self._bucket.state("edge.>")
                edges = [key.removeprefix("edge.") for key in keys]
                if self._edge in edges:
                    return edges
                raise KvUnavailable("this edge has no lease in the bucket now: it cannot tell which others live")
            except KvUnavailable:
                if time.monotonic() + 0.3 > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _ask_all(self, edges: list[str], asked: bytes, deadline: float) -> Answers:
        """What each edge answers. One that is dead is left out: NATS says twice that nobody listens for it."""
        answers = Answers()

        async def ask(edge: str) -> None:
            for attempt in range(2):
                try:
                    left = max(0.05, deadline - time.monotonic())
                    reply = await self._requests.ask(self._subjects.edge(edge), asked, left)
                    answers.done[edge] = parse_answer(reply.data)
                    return
                except NoResponders:
                    if self._neighbours.is_suspect(edge):
                        answers.cut_off.append(edge)
                        return
                    if attempt == 0:
                        await asyncio.sleep(SILENT_TWICE)
                except RoomcastError:
                    answers.late.append(edge)
                    return

        await asyncio.gather(*[ask(edge) for edge in edges])
        return answers


def _room(body: Mapping[str, Any]) -> str:
    room = body.get("room")
    if not isinstance(room, str):
        raise Refused("bad_request", "room must be a room name")
    encode_room(room)
    return room


def _describe(name: str, record: Record) -> dict[str, Any]:
    return {
        "id": name,
        "edge": "",
        "rooms": sorted(record.rooms),
        "user": record.user,
        "data": record.data,
        "connected_at": record.connected_at,
    }
