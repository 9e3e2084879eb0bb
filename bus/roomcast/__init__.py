"""Roomcast: an event bus for realtime applications. ``from roomcast import Bus`` is all that a service needs."""

from roomcast._version import __version__
from roomcast.bus import Bus
from roomcast.errors import (
    BusRefused,
    BusTimeout,
    BusUnavailable,
    Incomplete,
    MoveIncomplete,
    RemoteError,
    RoomcastError,
    SocketNotFound,
)
from roomcast.handlers import (
    BadRequest,
    Forbidden,
    NotFound,
    Request,
    ServiceFault,
    TooLarge,
    TooMany,
    Unauthorized,
)
from roomcast.membership import ChangeResult, EdgeResult, MoveResult, Socket

__all__ = [
    "BadRequest",
    "Bus",
    "BusRefused",
    "BusTimeout",
    "BusUnavailable",
    "ChangeResult",
    "EdgeResult",
    "Forbidden",
    "Incomplete",
    "MoveIncomplete",
    "MoveResult",
    "NotFound",
    "RemoteError",
    "Request",
    "RoomcastError",
    "ServiceFault",
    "Socket",
    "SocketNotFound",
    "TooLarge",
    "TooMany",
    "Unauthorized",
    "__version__",
]
