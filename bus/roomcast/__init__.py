"""Roomcast: an event bus for realtime applications. ``from roomcast import Bus`` is all that a service needs."""

from roomcast._version import __version__
from roomcast.bus import Bus
from roomcast.errors import (
    BusTimeout,
    BusUnavailable,
    Incomplete,
    MoveIncomplete,
    RemoteError,
    RoomcastError,
    SocketNotFound,
)
from roomcast.membership import ChangeResult, EdgeResult, MoveResult, Socket

__all__ = [
    "Bus",
    "BusTimeout",
    "BusUnavailable",
    "ChangeResult",
    "EdgeResult",
    "Incomplete",
    "MoveIncomplete",
    "MoveResult",
    "RemoteError",
    "RoomcastError",
    "Socket",
    "SocketNotFound",
    "__version__",
]
