"""nats-py's client, mended where it goes deaf, hangs or repeats stale work, and with a synchronous way in and out.

Each mend has a test in ``tests/bus/test_nats_client.py`` that shows the stock client's failure beside it, and
``tests/bus/test_nats_contract.py`` fails loudly when an internal of nats-py that is leaned on here moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from nats import errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from roomcast.access import masked
from roomcast.errors import BusRefused, BusUnavailable, PermissionDenied
from roomcast.lameduck import LAME_DUCK_SPREAD, another_node
from roomcast.wire import ChunkParser, LightSubscription, Sink

PING_INTERVAL = 1.0
"""Seconds between a client's pings; two that stay unanswered end the connection."""

MAX_UNSENT_BYTES = 32 * 1024 * 1024
"""What may wait for a NATS server that reads too slowly before publishing is refused."""

CLOSE_WITHIN = 1.0
"""Seconds that ``close()`` leaves a server to take what is still unsent."""

READ_SIZE = 1 << 20

_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE).match


class MendedClient(Client):
    """A NATS client that outlives what ends nats-py's reader or its reconnect, and never publishes late.

    Publishing while there is no connection raises ``ConnectionReconnectingError`` at once; what was pending when a
    connection broke is dropped, since whoever asked has given up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ps = ChunkParser(self)  # type: ignore[assignment]
        self._flush_due = False
        self._let_in = False
        """Whether a connection has ever stood: who is refused later keeps trying."""
        self._ended = False
        """Whether it was closed for good: a reconnect that has missed its cancellation sees it here."""
        self._leaving: asyncio.Task[None] | None = None
        self._next = ""
        """The server to reconnect to first, where one was chosen."""
        self._optional: set[str] = set()
        self._denied: PermissionDenied | None = None
        self.on_denied: Callable[[PermissionDenied], bool] | None = None
        """Called as soon as NATS says that a subject is not for this connection; says whether whoever used it knows."""

    # -- the synchronous way in and out ------------------------------------------------------------------------------

    def subscribe_light(
        self, subject: str, sink: Sink, *, queue: str = "", key: Any = None, optional: bool = False
    ) -> LightSubscription:
        """Interest in a subject; ``sink`` is called for each message, in the order of the connection. No I/O waits.

        Whatever is sent on this connection after this call reaches the server after the subscription. ``optional``:
        nobody is told when NATS does not let this user subscribe to it.
        """
        if optional:
            self._optional.add(subject)
        self._sid += 1
        sub = LightSubscription(self._sid, subject, queue, sink, key)
        self._subs[self._sid] = sub  # type: ignore[assignment]
        if self.is_connected:  # else the reconnect replays all of `_subs`
            self._write_soon(f"SUB {subject} {queue} {self._sid}\r\n".encode())
        return sub

    def unsubscribe_light(self, sub: LightSubscription) -> None:
        """End this interest. ``KeyError`` when it has ended before."""
        del self._subs[sub._id]
        if self.is_connected:
            self._write_soon(b"UNSUB %d\r\n" % sub._id)

    def send(self, subject: str, payload: bytes = b"", reply: str = "", headers: bytes = b"") -> None:
        """Publish in order with all that went before on this connection; leaves at the end of the loop's pass.

        ``subject`` and ``reply`` come from :class:`roomcast.names.Subjects` or from NATS itself: nothing is checked.
        Raises ``ConnectionReconnectingError`` while there is no connection, ``OutboundBufferLimitError`` when the
        server has stopped reading, ``MaxPayloadError`` above the server's limit.
        """
        if not self.is_connected:
            raise errors.ConnectionReconnectingError
        size = len(payload) + len(headers)
        if size > self._max_payload:
            raise errors.MaxPayloadError
        if self._pending_data_size > MAX_UNSENT_BYTES or self.unsent() > MAX_UNSENT_BYTES:
            raise errors.OutboundBufferLimitError
        if headers:
            head = f"HPUB {subject} {reply} {len(headers)} {size}\r\n".encode()
        else:
            head = f"PUB {subject} {reply} {size}\r\n".encode()
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        self._write_soon(b"%b%b%b\r\n" % (head, headers, payload))

    def unsent(self) -> int:
        """Bytes that the server has not taken yet from the connection's buffer."""
        transport = self._stream()
        return transport.get_write_buffer_size() if transport is not None else 0

    async def drained(self) -> None:
        """Wait until the server takes what is sent: the back pressure of a publisher in a tight loop.

        Raises ``ConnectionReconnectingError`` when the connection is reset meanwhile.
        """
        self._write_now()
        if self._transport is not None:
            try:
                await self._transport.drain()  # type: ignore[no-untyped-call]
            except OSError as error:  # it was reset while the server owed us room
                raise errors.ConnectionReconnectingError from error

    def _write_soon(self, command: bytes) -> None:
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._write_now)

    def _write_now(self) -> None:
        self._flush_due = False
        transport = self._stream()
        if not self._pending or transport is None or not self.is_connected:
            return
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_data_size = 0
        transport.write(data)

    def _stream(self) -> asyncio.WriteTransport | None:
        writer = getattr(self._transport, "_io_writer", None)
        return writer.transport if writer is not None else None

    # -- which server ------------------------------------------------------------------------------------------------

    @property
    def server_id(self) -> str:
        """Which server this client is connected to, whatever it was called by; empty where it never was to one."""
        return str(self._server_info.get("server_id", ""))

    def other_servers(self) -> list[str]:
        """The URLs of all known servers but the one that this client is connected to."""
        return [server.uri.geturl() for server in self._server_pool if server is not self._current_server]

    async def move_to(self, url: str) -> None:
        """Leave this server for another one of those that are known, as if the connection had broken."""
        self._server_pool.sort(key=lambda server: server.uri.geturl() != url)
        await self._process_op_err(errors.StaleConnectionError())

    # -- mends -------------------------------------------------------------------------------------------------------

    async def report(self, error: Exception) -> None:
        """Tell the error callback; what it raises itself must not end the reader."""
        with contextlib.suppress(Exception):
            await self._error_cb(error)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As nats-py's, but refused while there is no connection: a request must not run after it timed out."""
        if not self.is_connected and not self.is_closed:
            raise errors.ConnectionReconnectingError
        await super().publish(subject, payload, reply, headers)

    async def flush(self, timeout: float = 10) -> None:
        """As nats-py's, but it cannot hang on a connection that was replaced, nor hurt the reader when cancelled.

        Raises ``PermissionDenied`` for a subject that NATS has refused since the last flush, where nobody was told.
        """
        if self.is_closed:
            raise errors.ConnectionClosedError
        if not self.is_connected:
            raise errors.ConnectionReconnectingError
        await super().flush(timeout)  # type: ignore[arg-type]
        denied, self._denied = self._denied, None
        if denied is not None:
            raise denied

    async def _read_loop(self) -> None:
        self._ps.reset()  # the old connection's last chunk may have been parsed after its end was seen
        while not self.is_closed and not self.is_reconnecting and self._transport is not None:
            try:
                if self._transport.at_eof():
                    raise errors.UnexpectedEOF
                data = await self._transport.read(READ_SIZE)
                if data:  # a sign of life, however many messages stand before the PONG
                    self._pings_outstanding = 0
                await self._ps.parse(data)
            except asyncio.CancelledError:
                return
            except Exception as error:  # anything: a reader that ends without a reconnect leaves the client deaf
                await self.report(error)
                await self._process_op_err(error)
                return

    async def _process_pong(self) -> None:
        # One PONG answers one PING: a flush that was cancelled gives up its place, not its neighbour's.
        self._pings_outstanding = 0
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            return
        await super()._process_pong()

    async def _process_err(self, err_msg: str) -> None:
        if "stale connection" in err_msg.lower():
            await super()._process_err(err_msg.lower())
            return
        violation = _VIOLATION(err_msg)
        if violation is not None:
            operation = "publish" if violation[1].lower() == "publish" else "subscribe"
            if operation == "subscribe" and violation[2] in self._optional:
                return
            denied = PermissionDenied(operation, violation[2])
            if self.on_denied is None or not self.on_denied(denied):
                self._denied = self._denied or denied
            await self.report(denied)
            return
        # Where the server ends the connection too, its EOF leads to a reconnect; giving up for good is not ours.
        self._err = errors.Error(f"nats: {err_msg.lower()}")
        await self.report(self._err)

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_connected or self.is_connecting:
            for pong in self._pongs:
                if not pong.done():
                    pong.set_exception(errors.ConnectionReconnectingError())
                    pong.exception()  # the pings of the interval have nobody who waits for them
        await super()._process_op_err(e)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # Behind what is pending, so that a flush covers the subscriptions before it; and it never waits, since a
        # server that has stopped reading must not stop the check that finds this out.
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self._write_soon(b"PING\r\n")

    async def _process_connect_init(self) -> None:
        self._server_info = {}
        try:
            self._check_ended()
            await super()._process_connect_init()
            if not self.is_connected:  # nats-py takes an end of the connection here for a success
                for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                    if task is not None:
                        task.cancel()
                raise errors.UnexpectedEOF
        except asyncio.CancelledError:
            if (stream := self._stream()) is not None:
                stream.abort()
            raise
        except Exception as error:
            stream = self._stream()
            if stream is not None:
                stream.abort()
            self._transport = None  # after a TLS handshake that failed, waiting for its end would never end
            why = "" if self._let_in else _refusal(error, self._server_info)
            if why and self._current_server is not None:
                await super()._close(Client.DISCONNECTED, False)
                where = masked(self._current_server.uri.geturl())
                raise BusRefused(f"NATS at {where} cannot be used: {why}") from error
            raise
        self._let_in = True

    async def _connect_to_server(self, s: Any) -> None:
        self._check_ended()
        await super()._connect_to_server(s)

    def _check_ended(self) -> None:
        """A reconnect whose cancellation went by unseen must not bring a closed client back."""
        if self._ended:
            self._status = Client.CLOSED
            raise asyncio.CancelledError

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection:
            if "tls" in self.options and not info.get("tls_required"):
                # nats-py would go on in the clear, with the credentials.
                raise errors.SecureConnRequiredError
        elif info.get("ldm") and (self._leaving is None or self._leaving.done()):
            self._leaving = asyncio.get_running_loop().create_task(self._leave_lame_duck())
        await super()._process_info(info, initial_connection)

    async def _leave_lame_duck(self) -> None:
        """The node is about to end: go to another one that takes clients, before it must be, and not all at once."""
        await asyncio.sleep(random.uniform(0.0, LAME_DUCK_SPREAD))
        node = self._server_info.get("server_id", "")
        while self.is_connected and self._server_info.get("server_id") == node:
            # The address of this node too: it may be a name behind which others are.
            other = await another_node([server.uri for server in self._server_pool], node)
            if other is None:
                await asyncio.sleep(1.0)  # as long as nobody else is there, a lame duck is better than none
                continue
            self._next = other.netloc
            with contextlib.suppress(errors.Error, TimeoutError):
                await self.flush(2)  # what was sent has arrived, and what had come before is heard
            if self.is_connected:
                await self._process_op_err(errors.Error("nats: this node goes away (lame duck)"))
            return

    async def _attempt_reconnect(self) -> None:
        transport = self._stream()
        if transport is not None:
            transport.abort()  # close() would wait for a stalled server to take the buffer
        self._pending.clear()  # subscriptions are replayed; a request that timed out must not run later
        self._pending_data_size = 0
        while True:
            try:
                await super()._attempt_reconnect()
                return
            except Exception as error:  # what nats-py does not expect must not end the attempts
                await self.report(error)
                await asyncio.sleep(random.uniform(0.2, 1.0))

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._ended = self._ended or status == Client.CLOSED
        if self._leaving is not None:
            self._leaving.cancel()
        transport = self._stream()
        if transport is None:
            await super()._close(status, do_cbs)
            return
        overdue = asyncio.get_running_loop().call_later(CLOSE_WITHIN, transport.abort)
        try:
            await super()._close(status, do_cbs)
        finally:
            overdue.cancel()

    async def _select_next_server(self) -> None:
        if self._next:
            first, self._next = self._next, ""
            self._server_pool.sort(key=lambda server: server.uri.netloc != first)
        # All clients of a dead node come back at once otherwise.
        tries = min((server.reconnects for server in self._server_pool), default=0)
        self.options["reconnect_time_wait"] = random.uniform(0.5, 1.0) * min(2.0, 0.1 * 2 ** min(tries, 5))
        await super()._select_next_server()


def _refusal(error: Exception, info: dict[str, Any]) -> str:
    """Why a server will never take this client as it is; empty where trying again may help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); name its CA with nats_ca"
    if info.get("tls_verify") and isinstance(error, ssl.SSLError | ConnectionError | errors.UnexpectedEOF):
        return "it wants a client certificate that it trusts: nats_cert and nats_key"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails ({str(error.reason).lower().replace('_', ' ')})"
    if isinstance(error, errors.SecureConnRequiredError):
        return "it does not speak TLS, which nats_ca or nats_cert ask for"
    text = str(error).removeprefix("nats: ").strip("'")
    if any(word in text.lower() for word in ("authorization", "authentication expired", "authentication revoked")):
        return f"it refuses these credentials ({text})"
    if "tls required" in text.lower():
        return f"it wants TLS ({text})"
    return ""


Callback = Callable[[], Awaitable[None]]


async def _quiet(_: Exception) -> None:
    """Errors of a connection for a look: whoever looks sees what came of it."""


async def connect(
    servers: list[str],
    *,
    name: str,
    on_error: Callable[[Exception], Awaitable[None]] = _quiet,
    on_disconnect: Callback | None = None,
    on_reconnect: Callback | None = None,
    on_closed: Callback | None = None,
    retry: bool = False,
    **options: Any,
) -> MendedClient:
    """A client that is connected and reconnects for ever, with jitter.

    ``retry`` decides about a NATS that is not there now: keep trying (True), or raise :class:`BusUnavailable` (False).
    One that is there and refuses this client is :class:`BusRefused` in either case.
    ``options`` are nats-py's (TLS context, credentials, user, token).
    """
    client = MendedClient()
    while True:
        try:
            await client.connect(
                servers=servers,
                name=name,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                closed_cb=on_closed,
                allow_reconnect=True,
                max_reconnect_attempts=-1 if retry else 1,
                connect_timeout=2,
                ping_interval=PING_INTERVAL,  # type: ignore[arg-type]
                max_outstanding_pings=2,
                **options,
            )
        except (TimeoutError, OSError, errors.Error) as error:
            if not retry:
                cause = client.last_error or error
                where = ", ".join(map(masked, servers))
                raise BusUnavailable(f"NATS does not answer at {where}: {cause or 'no answer'}") from error
            await asyncio.sleep(random.uniform(0.5, 1.5))
            continue
        client.options["max_reconnect_attempts"] = -1
        return client


__all__ = ["PING_INTERVAL", "LightSubscription", "MendedClient", "Subscription", "connect"]
