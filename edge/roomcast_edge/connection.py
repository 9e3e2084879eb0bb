"""One TCP connection: the websocket handshake, the frames of the client, the ways in which it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, cast

from websockets.datastructures import Headers
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from roomcast_edge.closing import CloseCode
from roomcast_edge.dialects import Attachments, Connect, Decoded, Dialect, Emit, Leave, Refusal, Reply, Say
from roomcast_edge.frames import close_frame
from roomcast_edge.handshake import Handshake
from roomcast_edge.messages import Messages
from roomcast_edge.session_state import Event, closed_with
from roomcast_edge.sessions import Opened
from roomcast_edge.socket import EdgeSocket

if TYPE_CHECKING:
    from roomcast_edge.listener import Listener

UNANSWERED = 64
"""Changes that one client has asked for before no more is read from it, until they are written."""

FAR = 86_400.0
"""Seconds of the longest timer."""
NO_HEADERS = Headers()
END_OF_REQUEST = b"\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

quiet = logging.getLogger("roomcast.edge.websockets")
quiet.setLevel(logging.CRITICAL + 1)  # the library's own lines, one for each connection


class Connection(asyncio.Protocol):
    """From the accepted TCP connection to its end. After the handshake it has a socket, once the session is open."""

    __slots__ = (
        "__weakref__",
        "_answering",
        "_early",
        "_handshake",
        "_listener",
        "_messages",
        "_received",
        "_timer",
        "_transport",
        "_ws",
        "closed",
        "closing",
        "counted_at",
        "dialect",
        "heard",
        "peer",
        "pinged_at",
        "socket",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport
        self._ws = ServerProtocol(max_size=listener.settings.message_limit, logger=quiet)
        self._messages = Messages(listener.settings.message_limit)
        # Messages that came with the handshake, before the socket was greeted.
        self._early: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        # What the client asked for, until its session is being opened.
        self._handshake: Handshake | None = None
        self.dialect: Dialect | None = None
        self.socket: EdgeSocket | None = None
        self.closing: CloseCode | None = None
        self.closed = False
        self.heard = time.monotonic()
        self.pinged_at = self.heard
        # Changes that this client waits for.
        self._answering = 0
        self.peer = ""
        # The address at which the listener counts this connection.
        self.counted_at = ""
        # Bytes of the HTTP request so far; negative once it is there.
        self._received = 0

    # -- asyncio's callbacks -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected: it has so long to finish its handshake."""
        self._transport = transport = cast(asyncio.Transport, transport)
        # TLS pauses at "as much as", so with 0 always. (Either way the kernel takes no more when it does.)
        transport.set_write_buffer_limits(high=0 if transport.get_extra_info("sslcontext") is None else 1)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        self._listener.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._listener.settings.handshake_timeout, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        ws = self._ws
        self.heard = time.monotonic()
        if self._received >= 0 and self._is_too_large(data):
            return
        ws.receive_data(data)
        for event in ws.events_received():
            if isinstance(event, Request):
                self._on_request(event)
            elif isinstance(event, Frame) and self.closing is None:
                self._on_frame(event)
        self._after_receiving()

    def eof_received(self) -> bool:
        """The client sends no more: the connection is over."""
        self._ws.receive_eof()
        return False

    def pause_writing(self) -> None:
        """The kernel takes no more for this client."""
        if self.socket is not None:
            self.socket.pause()

    def resume_writing(self) -> None:
        """The kernel has taken everything."""
        if self.socket is not None:
            self.socket.resume()

    def connection_lost(self, _: Exception | None) -> None:
        """The TCP connection is gone."""
        self.closed = True
        self._cancel_timer()
        self._listener.discard(self)
        socket = self.socket
        if socket is None:
            self._untie()
            return
        socket.close()
        if self.closing is not None:
            event = closed_with(self.closing)
        else:
            received = self._ws.close_rcvd
            left = received is not None and socket.dialect.leaves_by(received.code)
            event = Event.LEFT if left else Event.LOST
        self._listener.leave(socket, event)
        self._listener.calls.lost(socket)
        socket.untie()
        self._untie()

    def _untie(self) -> None:
        # Frozen objects (see garbage.py) are freed by their reference counts alone: leave no cycle behind.
        self._ws.parser.close()
        del self._ws.parser

    # -- the handshake -----------------------------------------------------------------------------------------------

    def _is_too_large(self, data: bytes) -> bool:
        """Count bytes of the HTTP request; past the limit it is refused, whatever more of it comes."""
        limit = self._listener.settings.handshake_limit
        end = data.find(END_OF_REQUEST)
        self._received += len(data) if end < 0 else end + len(END_OF_REQUEST)
        if self._received <= limit:
            return False
        if not self._transport.is_closing():
            self._listener.metrics.handshakes["too_large"] += 1
            self._transport.write(TOO_LARGE)
            self._transport.close()
        return True

    def _on_request(self, request: Request) -> None:
        self._received = -1
        answer = self._listener.answer(self._ws, request, self)
        request.headers = NO_HEADERS  # the parser keeps the request for as long as the connection lives: 2 KiB of it
        self._ws.send_response(answer.response)
        if answer.handshake is None:
            self._listener.metrics.handshakes[answer.outcome] += 1
            return
        assert answer.dialect is not None, "a handshake is of a dialect"
        self.dialect, self._handshake = answer.dialect, answer.handshake
        self._after_receiving()
        opening = self.dialect.opening()
        if opening:
            self.write(opening)
        if self.dialect.connects_at_once:
            self._open(answer.handshake)

    def _open(self, handshake: Handshake) -> None:
        self._handshake = None
        self._cancel_timer()
        self._transport.pause_reading()  # until it is greeted: what it says meanwhile waits in the kernel
        self._listener.open(self, handshake)

    def make_socket(self, socket_id: str, secret_hash: str) -> EdgeSocket:
        """The socket of this connection, once its id is known."""
        assert self.dialect is not None, "the handshake is over"
        return EdgeSocket(
            self._transport,
            self.dialect,
            self._listener.settings.outbox_limit,
            self._too_slow,
            self.end,
            socket_id,
            secret_hash,
            plain=self._transport.get_extra_info("sslcontext") is None,
        )

    def is_open(self) -> bool:
        """Whether the client is still there to be greeted."""
        return not self.closed and self.closing is None and not self._transport.is_closing()

    def greet(self, opened: Opened, expires: float) -> None:
        """The socket is in the index: say so, then take what the client has said since the handshake.

        ``expires`` is when its grant ends, in seconds since the epoch; 0: never.
        """
        assert self.dialect is not None, "the handshake is over"
        self.socket = opened.socket
        self.socket.open()
        if self._transport.get_write_buffer_size():
            self.socket.pause()
        self._listener.fanout.send(self.socket, self.dialect.greeting(opened.socket.id, opened.session, opened.resumed))
        early, self._early = self._early, []
        for text in early:
            self._on_message(text)
        self._transport.resume_reading()
        self.expire_at(expires)

    def expire_at(self, expires: float) -> None:
        """Close the connection at this time, in seconds since the epoch (0: never), unless it is called again."""
        if not self.is_open():
            return
        self._cancel_timer()
        if expires:
            left = min(max(0.0, expires - time.time()), FAR)
            self._timer = asyncio.get_running_loop().call_later(left, self._expire, expires)

    def _expire(self, expires: float) -> None:
        if time.time() < expires:  # the clock was set back, or the timer was as long as timers may be
            self.expire_at(expires)
        else:
            self.end(CloseCode.TOKEN_EXPIRED, "the token has expired; come back with a fresh one")

    # -- frames of the client ----------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        try:
            text = self._messages.take(frame)
        except Refusal as refusal:
            self.refuse(refusal)
        else:
            if text is not None:
                self._on_message(text)

    def _on_message(self, text: bytes) -> None:
        if self.closing is not None:
            return
        if self.socket is None and self._handshake is None:
            self._early.append(text)
            return
        assert self.dialect is not None, "frames follow the handshake"
        try:
            self._take(self.dialect.decode(text))
        except Refusal as refusal:
            self.refuse(refusal)

    def _take(self, decoded: Decoded) -> None:
        if isinstance(decoded, Emit) and self.socket is not None:
            self._listener.on_emit(self, self.socket, decoded)
        elif isinstance(decoded, Reply) and self.socket is not None:
            self._listener.calls.take(self.socket, decoded)
        elif isinstance(decoded, Say):
            self.write(decoded.frame)
        elif isinstance(decoded, Connect) and self._handshake is not None:
            self._open(self._handshake.with_auth(decoded.auth, cast(Dialect, self.dialect).session_of(decoded.auth)))
        elif isinstance(decoded, Leave):
            self.end(CloseCode.NORMAL if decoded.for_good else CloseCode.GOING_AWAY, "")
        elif isinstance(decoded, Attachments) and self.socket is not None:
            self._messages.swallow(decoded.count)
            raise decoded.refusal
        elif decoded is not None:
            raise Refusal("bad_request", "not at this point of the protocol", close=CloseCode.PROTOCOL_ERROR)

    def refuse(self, refusal: Refusal) -> None:
        """Answer what is malformed or forbidden with an error where an answer is awaited, else close."""
        self._listener.metrics.invalid[refusal.code] += 1
        if refusal.reply_id is None:
            self.end(refusal.close, refusal.message)
        elif self.socket is not None and self.dialect is not None:
            frame = self.dialect.error(refusal.reply_id, refusal.code, refusal.message)
            self._listener.fanout.send(self.socket, frame)

    def _after_receiving(self) -> None:
        """Send what the protocol itself wants to send: the handshake, pongs, the answer to a close, an error."""
        ws = self._ws
        error = ws.parser_exc
        if error is not None and self.closing is None and ws.close_sent is not None:
            self._listener.metrics.invalid["protocol" if isinstance(error, ProtocolError) else "frame"] += 1
            code = CloseCode.TOO_LARGE if isinstance(error, PayloadTooBig) else CloseCode(ws.close_sent.code)
            self._note_close(code)
        for data in ws.data_to_send():
            if data:
                self.write(data)
            else:
                self._hang_up()
        if ws.handshake_exc is not None and not ws.eof_sent and ws.state is State.CONNECTING:
            self._hang_up()

    def write(self, frame: bytes) -> None:
        """Send a frame of the protocol itself, behind what waits for this client."""
        if self.socket is not None:
            self._listener.fanout.send(self.socket, frame)
        elif not self._transport.is_closing():
            self._transport.write(frame)

    def begin(self) -> None:
        """A change waits until it is written; with too many of them, nothing more is read from this client."""
        self._answering += 1
        if self._answering == UNANSWERED:
            self._transport.pause_reading()

    def done(self) -> None:
        """A change was answered."""
        self._answering -= 1
        if self._answering == UNANSWERED - 1 and not self._transport.is_closing():
            self._transport.resume_reading()

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self, code: CloseCode, reason: str) -> None:
        """Close with this code; abort on a deadline. Twice is no error: the first code counts."""
        if self.closing is not None or self.closed:
            return
        self._note_close(code)
        farewell = b""
        if self.socket is not None:
            farewell = self.socket.dialect.farewell(code)
        elif self.dialect is not None:
            farewell = self.dialect.denial(code, reason)
        if self._ws.state is State.OPEN:
            self._ws.send_close(code, reason.encode()[:123].decode("utf-8", "ignore"))
            self._ws.data_to_send()  # the frame is ours to send, behind what waits
        self.write(farewell + close_frame(code, reason))
        if self.socket is None:
            self._transport.resume_reading()  # its answer to the close
        else:
            self._listener.leave(self.socket, closed_with(code))

    def _note_close(self, code: CloseCode) -> None:
        self.closing = code
        self._listener.metrics.closes[str(int(code))] += 1
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(self._listener.settings.close_timeout, self.abort)

    def _hang_up(self) -> None:
        """Close the TCP connection once all is written."""
        if self.socket is not None and (self.socket.waiting or self.socket.backlog):
            self._listener.fanout.flush()
        if self.socket is not None:
            self.socket.close()
        self._transport.close()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._listener.settings.close_timeout, self.abort)

    def abort(self) -> None:
        """End the TCP connection now, whatever waits."""
        if self.socket is not None:
            self.socket.close()
        self._transport.abort()

    def _too_slow(self) -> None:
        if self.socket is None or self.closing is not None:
            return
        self._listener.metrics.slow_sockets_closed += 1
        self.socket.drop_backlog()
        self.end(CloseCode.TRY_LATER, "too slow: more waits for this client than it may")

    def _too_late(self) -> None:
        self._listener.metrics.handshakes["timeout"] += 1
        self._transport.abort()

    def check(self, now: float) -> None:
        """Ping a client that is silent; abort one that stays so, though its buffer may be full."""
        settings = self._listener.settings
        if self.socket is None or self.closing is not None:
            return
        dialect = self.socket.dialect
        answered = self.heard >= self.pinged_at
        if not answered and now - self.pinged_at > settings.ping_timeout:
            self._listener.metrics.closes[str(int(CloseCode.NO_ANSWER))] += 1
            self.abort()
        elif answered and now - (self.pinged_at if dialect.pings_always else self.heard) > settings.ping_interval:
            self.pinged_at = now
            self._listener.fanout.send(self.socket, dialect.ping)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
