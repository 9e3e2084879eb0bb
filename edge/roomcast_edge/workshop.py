"""What this edge does with its own sockets when NATS asks: change one, tell about one, list and count members."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from roomcast.membership import Change
from roomcast_edge.calls import Calls
from roomcast_edge.keeper import Elsewhere
from roomcast_edge.membership import Membership
from roomcast_edge.sessions import Sessions
from roomcast_edge.socket import EdgeSocket

SCAN_SLICE = 2_000
"""Members that are looked at before everything else runs once."""
PAGE_SOCKETS = 1_000


class Workshop:
    """Local work, behind the gate that is shut while this edge catches up with the log."""

    def __init__(
        self, edge: str, membership: Membership, sessions: Sessions, calls: Calls, gate: asyncio.Event
    ) -> None:
        self._edge = edge
        self._membership = membership
        self._sessions = sessions
        self._calls = calls
        self._gate = gate
        self.follower = membership.follower

    async def in_step(self, deadline: float) -> bool:
        """Wait, until ``deadline`` (``time.monotonic``), to be in step with the log; whether that came about."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._gate.wait()
        except TimeoutError:
            return False
        return True

    def holds(self, name: str) -> bool:
        """Whether a socket is here, or about to be."""
        return name in self._membership.index.sockets or name in self._sessions.opening

    def work_now(
        self, name: str, body: Mapping[str, Any], answer: Callable[[dict[str, Any] | BaseException], None]
    ) -> bool:
        """Change, call or describe a socket that is here, without a task; False when that must wait (see :meth:`work`).

        ``ValueError``, ``Refused``: the body asks for nothing that can be done.
        """
        change = Change.parse(body)
        socket = self._membership.index.sockets.get(name)
        if socket is None or not self._gate.is_set():
            return False
        if "call" in body:
            self._calls.ask(socket, body, answer)
            return True
        if not change:
            answer({"socket": socket.describe(self._edge)})
            return True
        changed, saved = self._membership.change(socket, change)
        done = {"changed": changed, "edge": self._edge}
        if saved is None:
            answer(done)
            return True

        def written(future: asyncio.Future[None]) -> None:
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            answer(done if error is None else error)

        saved.add_done_callback(written)
        return True

    async def work(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`work_now`, for a socket that is here or about to be; :class:`Elsewhere` when it is not."""
        await self._gate.wait()
        opening = self._sessions.opening.get(name)
        if opening is not None:
            await opening
        told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def tell(answer: dict[str, Any] | BaseException) -> None:
            if told.done():
                return
            if isinstance(answer, BaseException):
                told.set_exception(answer)
            else:
                told.set_result(answer)

        if not self.work_now(name, body, tell):
            raise Elsewhere
        return await told

    async def count(self, room: str) -> dict[str, Any]:
        """How many sockets of this edge are in a room."""
        await self._gate.wait()
        return {"count": len(self._membership.index.members(room))}

    async def members(self, room: str, after: str, limit_bytes: int) -> dict[str, Any]:
        """The sockets of this edge in a room whose ids follow ``after``, in their order, up to so many bytes."""
        await self._gate.wait()
        page: list[dict[str, Any]] = []
        size = 0
        smallest = await self._smallest(room, after, PAGE_SOCKETS + 1)
        for socket in smallest[:PAGE_SOCKETS]:
            body = socket.describe(self._edge)
            size += len(orjson.dumps(body))
            if page and size > limit_bytes:
                break
            page.append(body)
        return {"members": page, "more": len(page) < len(smallest)}

    async def _smallest(self, room: str, after: str, count: int) -> list[EdgeSocket]:
        members = list(self._membership.index.members(room))
        found: list[EdgeSocket] = []
        for start in range(0, len(members), SCAN_SLICE):
            if start:
                await asyncio.sleep(0)
            fresh = [socket for socket in members[start : start + SCAN_SLICE] if socket.id > after]
            found = heapq.nsmallest(count, found + fresh, key=lambda socket: socket.id)
        here = self._membership.index.sockets
        return [socket for socket in found if here.get(socket.id) is socket]

    async def moved(self, sequence: int) -> dict[str, Any]:
        """What the move at this place of the log did here, once it is applied."""
        await self._gate.wait()
        matched, changed = await self.follower.reached(sequence)
        return {"edge": self._edge, "matched": matched, "changed": changed}

    async def release(self, name: str, rival: bool = False) -> dict[str, Any]:
        """Let another edge take a session up, unless it was this edge's ``rival`` for it and has lost."""
        opening = self._sessions.opening.get(name)
        if opening is not None:
            await opening
        if rival and name in self._membership.index.sockets:
            return {"released": False, "held": True}
        return {"released": self._sessions.let_go(name)}
