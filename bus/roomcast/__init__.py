"""Roomcast: an event bus for realtime applications. ``from roomcast import Bus`` is all that a service needs."""

from roomcast._version import __version__
from roomcast.bus import Bus
from roomcast.errors import (
    BusRefused,
    BusTimeout,
    BusUnavailable,
    ConnectionLost,
    Incomplete,
    MoveIncomplete,
    OutcomeUnknown,
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
from roomcast.sync import SyncBus

__all__ = [
    "BadRequest",
    "Bus",
    "BusRefused",
    "BusTimeout",
    "BusUnavailable",
    "ChangeResult",
    "ConnectionLost",
    "EdgeResult",
    "Forbidden",
    "Grant",
    "Handshake",
    "Incomplete",
    "Lifecycle",
    "MoveIncomplete",
    "MoveResult",
    "NotFound",
    "OutcomeUnknown",
    "PermissionDenied",
    "RemoteError",
    "Request",
    "RoomcastError",
    "ServiceFault",
    "Socket",
    "SocketNotFound",
    "SyncBus",
    "TooLarge",
    "TooMany",
    "Unauthorized",
    "__version__",
]
