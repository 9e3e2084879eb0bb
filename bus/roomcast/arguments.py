"""How ``broadcast`` and ``blast`` read what stands behind the rooms: ``[event], data, [omit]``. Pure code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from roomcast.membership import parse_socket, request_headers, room_list, socket_id
from roomcast.names import DEFAULT_EVENT, check_event, is_socket_id


class Missing(Enum):
    """The type of an argument that was not given, where None is a value."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


@dataclass(frozen=True, slots=True)
class Cast:
    """A cast as it was asked for: the event's token, the data, and the rooms that do not get it."""

    event: str
    data: Any
    except_rooms: tuple[str, ...]


def read_cast(
    positional: tuple[Any, ...],
    *,
    event: str | None,
    data: Any,
    omit: Any,
    except_rooms: Any,
) -> Cast:
    """The cast that these arguments mean. ``TypeError`` and ``ValueError`` say what to write instead."""
    rest = list(positional)
    if rest and isinstance(rest[0], str):
        if len(rest) == 1 and data is MISSING:
            raise TypeError(
                f"is {rest[0]!r} the event or the data? Write data={rest[0]!r} to send a text as event 'message', "
                "or give both: event, data"
            )
        if event is not None:
            raise TypeError("the event is given twice, by position and by name")
        event = rest.pop(0)
    if rest:
        if data is not MISSING:
            raise TypeError("the data is given twice, by position and by name")
        data = rest.pop(0)
    if rest:
        if omit is not None:
            raise TypeError("omit is given twice, by position and by name")
        omit = rest.pop(0)
    if rest:
        raise TypeError(f"too many arguments: after [event], data, [omit] nothing follows, but {rest[0]!r} does")
    if data is MISSING:
        raise TypeError("no data: give an object, or data=None for null")
    excepted = room_list(except_rooms, "except_rooms")
    omitted = omitted_id(omit)
    if omitted is not None:
        excepted = (*excepted, omitted)
    return Cast(check_event(DEFAULT_EVENT if event is None else event), data, excepted)


SOCKET_ID_HEADER = "X-Socket-Id"
"""The header in which a page's HTTP request names the page's own socket."""


def omitted_id(omit: Any) -> str | None:
    """The id of the socket to leave out; None for None and for a request that came over no socket and names none.

    An HTTP request names its socket in the header ``X-Socket-Id``. What has not the form of a socket's id omits nobody,
    as an id that nobody has: a header may be forged, and a room's name in it must not keep the cast from that room.
    """
    if omit is None:
        return None
    headers = request_headers(omit)
    if parse_socket(omit) is None and headers is not None:
        omit = headers.get(SOCKET_ID_HEADER) or ""
        return omit if is_socket_id(omit) else None
    if not isinstance(omit, str) and parse_socket(omit) is None and getattr(omit, "socket", MISSING) is None:
        return None
    named = socket_id(omit)
    return named if is_socket_id(named) else None
