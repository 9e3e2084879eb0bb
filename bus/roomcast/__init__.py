"""Roomcast: an event bus for realtime applications. ``from roomcast import Bus`` is all that a service needs."""

from roomcast._version import __version__
from roomcast.bus import Bus
from roomcast.errors import (
    BusTimeout,
    BusUnavailable,
    Incomplete,
    MoveIncomplete,
    PermissionDenied,
    RemoteError,
    RoomcastError,
    SocketNotFound,
)
from roomcast.grants import Grant, Handshake
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
from roomcast.lifecycle import Lifecycle
from roomcast.membership import ChangeResult, EdgeResult, MoveResult, Socket

__all__ = [
    "BadRequest",
    "Bus",
    "BusTimeout",
    "BusUnavailable",
    "ChangeResult",
    "EdgeResult",
    "Forbidden",
    "Grant",
    "Handshake",
    "Incomplete",
    "Lifecycle",
    "MoveIncomplete",
    "MoveResult",
    "NotFound",
    "PermissionDenied",
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
