"""What can go wrong, as the caller of the SDK sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roomcast.membership import MoveResult


class RoomcastError(Exception):
    """Anything that Roomcast raises beside ``ValueError`` and ``TypeError``, which come before anything is sent."""


class SocketNotFound(RoomcastError):
    """No socket has this id: it never was, or it has been gone for longer than the resume window."""

    def __init__(self, socket_id: str) -> None:
        super().__init__(f"no socket has the id {socket_id!r}")
        self.socket_id = socket_id


class OutcomeUnknown(RoomcastError):
    """No answer came: whether the change was made is unknown. Asking for it again is safe."""


class BusTimeout(OutcomeUnknown):
    """No answer came in time."""


class BusUnavailable(RoomcastError):
    """NATS, or the part of it that the call needs, is away now. Nothing was done, but for :class:`ConnectionLost`."""


class BusRefused(BusUnavailable):
    """NATS does not let this client in, or shows a certificate that is not trusted. Trying again changes nothing."""


class ConnectionLost(BusUnavailable, OutcomeUnknown):
    """The connection to NATS broke after the request was sent and before its answer came."""


class PermissionDenied(RoomcastError):
    """NATS lets this connection not use a subject. ``operation`` is ``publish`` or ``subscribe``."""

    def __init__(self, operation: str, subject: str) -> None:
        preposition = "on" if operation == "publish" else "to"
        super().__init__(f"NATS does not let this user {operation} {preposition} {subject}; its permissions lack it")
        self.operation = operation
        self.subject = subject


class RemoteError(RoomcastError):
    """An edge refused the request. ``code`` is one of the codes of the protocol (``bad_request``, …)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class MoveIncomplete(RoomcastError):
    """Some edges did not confirm a bulk change in time. It is durable: they apply it as soon as they can.

    ``result`` says per edge what was done, and names those that did not answer.
    """

    def __init__(self, result: MoveResult) -> None:
        super().__init__(
            f"{len(result.missing)} of {len(result.missing) + len(result.edges)} edges did not confirm in time: "
            f"{', '.join(result.missing)}; the change is durable and they will apply it"
        )
        self.result = result


class Incomplete(RoomcastError):
    """Some edges did not answer: ``missing`` names them; ``known`` is the count without them (None for a list)."""

    def __init__(self, what: str, missing: list[str], known: int | None = None) -> None:
        super().__init__(f"{what} is incomplete: no answer from {', '.join(missing)}")
        self.missing = missing
        self.known = known
