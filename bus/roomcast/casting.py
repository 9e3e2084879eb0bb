"""Casts: an event to rooms or to everyone, handed in order to the connection to NATS."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, overload

from nats import errors as nats_errors

from roomcast.arguments import MISSING, read_cast
from roomcast.envelope import MAX_CAST_BYTES, cast_headers, encode_data
from roomcast.errors import BusTimeout, BusUnavailable, ConnectionLost
from roomcast.membership import room_list
from roomcast.names import Subjects
from roomcast.nats_client import MendedClient

Rooms = str | Sequence[str]
Default = Callable[[Any], Any]
Target = Any
"""A Socket, a request that carries one, or a socket's id."""

UNSENT_PAUSE = 1 << 20


class Casting:
    """The part of a Bus that sends and asks nothing."""

    def __init__(
        self, client: MendedClient, subjects: Subjects, default: Default | None, cast_limit: int = MAX_CAST_BYTES
    ) -> None:
        self.nats = client
        """The connection to NATS, for whatever else a service does there."""
        self._subjects = subjects
        self._default = default
        self._cast_limit = cast_limit

    @overload
    async def broadcast(self, rooms: Rooms, text: str, /) -> NoReturn: ...
    @overload
    async def broadcast(
        self, rooms: Rooms, event: str, data: Any, omit: Target = None, /, *, except_rooms: Rooms = ()
    ) -> None: ...
    @overload
    async def broadcast(
        self,
        rooms: Rooms,
        data: Any = ...,
        omit: Target = None,
        /,
        *,
        event: str | None = None,
        except_rooms: Rooms = (),
        **named: Any,
    ) -> None: ...
    async def broadcast(  # type: ignore[misc]
        self,
        rooms: Rooms,
        *args: Any,
        event: str | None = None,
        data: Any = MISSING,
        omit: Target = None,
        except_rooms: Rooms = (),
    ) -> None:
        """Send an event to all members of one room or several: ``broadcast(rooms, [event], data, [omit])``.

        The default event is ``message``. A socket in several of the rooms gets it once; ``omit`` (a socket, a request,
        an HTTP request with an ``X-Socket-Id``, or an id) and the members of ``except_rooms`` do not get it. When this
        returns the cast is handed, in order, to a connection that stands; delivery is at most once. Raises
        ``BusUnavailable`` at once while NATS is away (a cast is never kept to be delivered late), ``ValueError`` and
        ``TypeError`` before anything is sent.
        """
        names = room_list(rooms)
        cast = read_cast(args, event=event, data=data, omit=omit, except_rooms=except_rooms)
        payload = encode_data(cast.data, self._default, self._cast_limit)
        if not names:
            return
        sent = time.time_ns()
        messages = [
            (self._subjects.room(room, cast.event), cast_headers(sent, names[:i] + cast.except_rooms))
            for i, room in enumerate(names)
        ]
        await self._publish(messages, payload)

    @overload
    async def blast(self, text: str, /) -> NoReturn: ...
    @overload
    async def blast(self, event: str, data: Any, omit: Target = None, /, *, except_rooms: Rooms = ()) -> None: ...
    @overload
    async def blast(
        self,
        data: Any = ...,
        omit: Target = None,
        /,
        *,
        event: str | None = None,
        except_rooms: Rooms = (),
        **named: Any,
    ) -> None: ...
    async def blast(  # type: ignore[misc]
        self,
        *args: Any,
        event: str | None = None,
        data: Any = MISSING,
        omit: Target = None,
        except_rooms: Rooms = (),
    ) -> None:
        """Send an event to every connected socket: ``blast([event], data, [omit])``. As :meth:`broadcast` otherwise."""
        cast = read_cast(args, event=event, data=data, omit=omit, except_rooms=except_rooms)
        payload = encode_data(cast.data, self._default, self._cast_limit)
        headers = cast_headers(time.time_ns(), cast.except_rooms)
        await self._publish([(self._subjects.blast(cast.event), headers)], payload)

    async def flush(self, *, timeout: float = 5.0) -> None:
        """Wait until the NATS server has all casts sent so far. ``BusUnavailable``, ``BusTimeout``.

        ``PermissionDenied`` names a subject that NATS has refused since the last flush: that cast reached nobody.
        """
        try:
            await self.nats.flush(timeout)
        except (TimeoutError, nats_errors.FlushTimeoutError) as error:
            raise BusTimeout(f"NATS did not confirm within {timeout:g} s") from error
        except nats_errors.Error as error:
            raise BusUnavailable("NATS is away") from error

    async def _publish(self, messages: list[tuple[str, bytes]], payload: bytes) -> None:
        try:
            for subject, headers in messages:
                self.nats.send(subject, payload, "", headers)
        except nats_errors.MaxPayloadError as error:
            raise ValueError(f"NATS takes messages of {self.nats.max_payload} bytes at most") from error
        except nats_errors.Error as error:
            raise BusUnavailable(f"NATS is away, the cast was not sent ({type(error).__name__})") from error
        if self.nats.pending_data_size > UNSENT_PAUSE:
            try:
                await self.nats.drained()
            except nats_errors.Error as error:
                raise ConnectionLost("NATS went away; whether the cast was delivered is unknown") from error
