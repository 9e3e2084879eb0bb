"""Calls of services to one client: an event that asks for a reply, and the reply's way back."""

from __future__ import annotations

import asyncio
import random
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

NUMBERS = range(1 << 40, 1 << 48)
"""Of calls, at random: so a reply that comes late, even over a later connection, is never taken for another call's, nor
for an answer by clients that count their own requests from 1. JavaScript and 15 digits hold them."""

Tell = Callable[[dict[str, Any] | BaseException], None]


class Calls:
    """Asks clients of this edge."""

    def __init__(self, fanout: FanOut, limit: int) -> None:
        """``limit`` is in bytes of a call's data."""
        self._fanout = fanout
        self._limit = limit
        # The calls of each socket that wait for its replies, by number.
        self._waiting: dict[EdgeSocket, dict[int, tuple[Tell, asyncio.TimerHandle]]] = {}

    def ask(self, socket: EdgeSocket, body: Mapping[str, Any], tell: Tell) -> None:
        """Send the client what the body's ``call`` says.

        ``tell`` gets ``{"reply"}``, the client's own ``{"refused"}``, or why there is neither.

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
        waiting = self._waiting.setdefault(socket, {})
        if len(waiting) >= CALLS_AT_ONCE:
            raise Refused("too_many", f"{CALLS_AT_ONCE} calls wait for this client's replies already")
        number = random.choice(NUMBERS)
        timer = asyncio.get_running_loop().call_later(timeout, self._late, socket, number)
        waiting[number] = (tell, timer)
        self._fanout.send(socket, socket.dialect.call(event, number, payload))

    def take(self, socket: EdgeSocket, reply: Reply) -> None:
        """A client's reply. One that comes too late is nobody's; :class:`Refusal` for one to what is no call."""
        if not isinstance(reply.id, int) or reply.id not in NUMBERS:
            why = "nothing was asked that this replies to"
            raise Refusal("bad_request", why, reply.reply_id, CloseCode.PROTOCOL_ERROR)
        tell = self._settle(socket, reply.id)
        if tell is None:
            return
        if reply.error is None:
            tell({"reply": reply.data})
        else:
            tell({"refused": dict(zip(("code", "message"), reply.error, strict=True))})

    def lost(self, socket: EdgeSocket) -> None:
        """The client's connection is gone."""
        for number in list(self._waiting.get(socket, ())):
            tell = self._settle(socket, number)
            if tell is not None:
                tell(Refused("disconnected", "the client's connection was lost before it replied"))

    def _late(self, socket: EdgeSocket, number: int) -> None:
        tell = self._settle(socket, number)
        if tell is not None:
            tell(Refused("timeout", "the client has not replied in time"))

    def _settle(self, socket: EdgeSocket, number: int) -> Tell | None:
        """Who waits for this reply, for the last time; None: nobody."""
        waiting = self._waiting.get(socket, {})
        tell, timer = waiting.pop(number, (None, None))
        if timer is not None:
            timer.cancel()
        if not waiting:
            self._waiting.pop(socket, None)
        return tell
