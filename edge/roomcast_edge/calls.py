"""Calls of services to one client: an event that asks for a reply, and the reply's way back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from roomcast.names import check_event
from roomcast_edge.answers import Refused, timeout_of
from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Refusal, Reply
from roomcast_edge.outbox import FanOut
from roomcast_edge.socket import EdgeSocket

CALLS_AT_ONCE = 100
"""Calls to one client that may wait for its replies."""

Tell = Callable[[dict[str, Any] | BaseException], None]


class _Waiting:
    """The calls of one socket that wait for its replies."""

    __slots__ = ("asked", "tells")

    def __init__(self) -> None:
        self.asked = 0
        self.tells: dict[int, tuple[Tell, asyncio.TimerHandle]] = {}


class Calls:
    """Asks clients of this edge."""

    def __init__(self, fanout: FanOut, limit: int) -> None:
        """``limit`` is in bytes of a call's data."""
        self._fanout = fanout
        self._limit = limit
        self._waiting: dict[EdgeSocket, _Waiting] = {}

    def ask(self, socket: EdgeSocket, body: Mapping[str, Any], tell: Tell) -> None:
        """Send the client what the body's ``call`` says; ``tell`` gets ``{"reply"}`` or why there is none.

        :class:`Refused`, ``ValueError``: it is no call.
        """
        call = body.get("call")
        if not isinstance(call, Mapping) or not isinstance(call.get("event"), str):
            raise Refused("bad_request", 'a call is {"event","data"}')
        event = call["event"]
        check_event(event)
        payload = orjson.dumps(call.get("data"))
        if len(payload) > self._limit:
            raise Refused("too_large", f"a call carries at most {self._limit} bytes of JSON")
        timeout = timeout_of(body)
        waiting = self._waiting.setdefault(socket, _Waiting())
        if len(waiting.tells) >= CALLS_AT_ONCE:
            raise Refused("too_many", f"{CALLS_AT_ONCE} calls wait for this client's replies already")
        waiting.asked += 1
        number = waiting.asked
        timer = asyncio.get_running_loop().call_later(timeout, self._late, socket, number)
        waiting.tells[number] = (tell, timer)
        self._fanout.send(socket, socket.dialect.call(event, number, payload))

    def take(self, socket: EdgeSocket, reply: Reply) -> None:
        """A client's reply. One that comes too late is nobody's; :class:`Refusal` for one to what was never asked."""
        waiting = self._waiting.get(socket)
        if waiting is None or not isinstance(reply.id, int) or not 0 < reply.id <= waiting.asked:
            why = "nothing was asked that this replies to"
            raise Refusal("bad_request", why, reply.reply_id, CloseCode.PROTOCOL_ERROR)
        tell, timer = waiting.tells.pop(reply.id, (None, None))
        if tell is None or timer is None:
            return
        timer.cancel()
        if reply.error is None:
            tell({"reply": reply.data})
        else:
            tell(Refused(*reply.error))

    def lost(self, socket: EdgeSocket) -> None:
        """The client's connection is gone."""
        waiting = self._waiting.pop(socket, None)
        if waiting is None:
            return
        for tell, timer in waiting.tells.values():
            timer.cancel()
            tell(Refused("disconnected", "the client's connection was lost before it replied"))

    def _late(self, socket: EdgeSocket, number: int) -> None:
        waiting = self._waiting.get(socket)
        if waiting is not None and number in waiting.tells:
            tell, _ = waiting.tells.pop(number)
            tell(Refused("timeout", "the client has not replied in time"))
