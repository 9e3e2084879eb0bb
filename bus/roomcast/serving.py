"""Serves a service's handlers on NATS: actions, routes, who may connect, lifecycle events."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from nats import micro
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.micro.request import Request as Message
from nats.micro.service import Endpoint, Service, ServiceConfig

from roomcast.envelope import encode_data, error_body, error_headers
from roomcast.errors import PermissionDenied
from roomcast.grants import Grant, Handshake
from roomcast.handlers import BadRequest, Handler, Inputs, Request, ServiceFault, Unauthorized
from roomcast.lifecycle import Lifecycle
from roomcast.names import Subjects, encode_room
from roomcast.nats_client import MendedClient
from roomcast.routes import Route

log = logging.getLogger("roomcast")

REPLY_LIMIT = 1 << 20
UNDER_WAY = 500
"""Requests that one service works on at once; more wait in NATS's client."""
DRAIN_SECONDS = 10.0

Default = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Served:
    """One handler and where it listens."""

    name: str
    tokens: str
    answer: Callable[[dict[str, Any], str], Awaitable[Any]]
    """From a request's body and the tokens of its subject to what is answered."""
    route: Route | None = None


class Serving:
    """The handlers of one Bus, and their life on NATS."""

    def __init__(
        self, client: MendedClient, subjects: Subjects, name: str, version: str, default: Default | None
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._name = name
        self._version = version
        self._default = default
        self._served: dict[str, _Served] = {}
        self._lifecycle: list[tuple[str, Callable[[Lifecycle], Awaitable[None]]]] = []
        self._hearing: list[Subscription] = []
        self._service: Service | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(UNDER_WAY)

    # -- registering -------------------------------------------------------------------------------------------------

    def action(self, name: str, handler: Handler) -> None:
        """Answer clients that emit this event. ``ValueError``: a bad name, or one that is served already."""
        tokens = f"action.{encode_room(name, 'an action name')}"
        inputs = Inputs(handler)

        async def answer(body: dict[str, Any], _: str) -> Any:
            request = Request.from_json(body)
            return await handler(request, **inputs.read(request))

        self._add(_Served(name.replace(".", "-"), tokens, answer))

    def route(self, text: str, handler: Handler) -> None:
        """Answer requests of clients that have methods and paths. ``ValueError`` as for :meth:`action`."""
        route = Route.parse(text)
        name = "-".join([route.method, *(segment.lstrip(":") or "root" for segment in route.segments)])
        inputs = Inputs(handler)

        async def answer(body: dict[str, Any], tokens: str) -> Any:
            request = Request.from_json(body, route.params(tokens.removeprefix("route.")))
            return await handler(request, **inputs.read(request))

        self._add(_Served(name, f"route.{route.tokens()}", answer, route))

    def authenticate(self, handler: Callable[[Handshake], Awaitable[Grant | None]]) -> None:
        """Say who may connect. ``ValueError``: that is said already; ``TypeError``: the handler is none."""
        if not inspect.iscoroutinefunction(handler):
            raise TypeError(f"a handler must be an `async def`; {handler!r} is none")

        async def answer(body: dict[str, Any], _: str) -> dict[str, Any]:
            grant = await handler(Handshake.from_json(body))
            if grant is None:
                raise Unauthorized("refused")
            if not isinstance(grant, Grant):
                raise TypeError(f"a handler of handshakes returns a Grant or None, not {type(grant).__name__}")
            return grant.to_json()

        self._add(_Served("auth", "auth", answer))

    def on_lifecycle(self, subject: str, handler: Callable[[Lifecycle], Awaitable[None]]) -> None:
        """Hear of each session that begins, or is over; copies of this service share them. ``TypeError``."""
        if not inspect.iscoroutinefunction(handler):
            raise TypeError(f"a handler must be an `async def`; {handler!r} is none")
        if self._service is not None:
            raise RuntimeError("register handlers before serving")
        self._lifecycle.append((subject, handler))

    def _add(self, served: _Served) -> None:
        if self._service is not None:
            raise RuntimeError("register handlers before serving")
        if served.tokens in self._served:
            raise ValueError(f"{served.tokens!r} is served already")
        self._served[served.tokens] = served

    # -- serving -----------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is under way."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, stop.set)
        try:
            async with self.serving():
                await stop.wait()
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve while the block runs."""
        await self._start()
        try:
            yield
        finally:
            await self._stop()

    async def _start(self) -> None:
        if self._service is not None:
            raise RuntimeError("this bus is serving already")
        config = ServiceConfig(name=self._name, version=self._version, metadata={"prefix": self._subjects.prefix})
        self._service = await micro.add_service(self._client, config)
        for served in self._served.values():
            await self._service.add_endpoint(
                name=_endpoint_name(served.name),
                subject=f"{self._subjects.prefix}.{served.tokens}",
                handler=self._taker(served),
            )
        for subject, handler in self._lifecycle:
            hearing = await self._client.subscribe(subject, queue=self._name, cb=self._teller(handler))
            self._hearing.append(hearing)
        try:
            await self._client.flush()
        except PermissionDenied:
            await self._stop()
            raise

    async def _stop(self) -> None:
        service, self._service = self._service, None
        try:
            if self._client.is_connected:
                for hearing in self._hearing:
                    await hearing.unsubscribe()
                if service is not None:
                    await service.stop()
        except NatsError as error:
            log.warning("stopped serving without a word to NATS: %s", error)
        self._hearing.clear()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    def _teller(self, handler: Callable[[Lifecycle], Awaitable[None]]) -> Callable[[Msg], Awaitable[None]]:
        async def tell(event: Lifecycle) -> None:
            try:
                await handler(event)
            except Exception:
                log.exception("the handler %r failed", handler)
            finally:
                self._places.release()

        async def take(message: Msg) -> None:
            try:
                event = Lifecycle.from_json(orjson.loads(message.data))
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("what came on %s is no event of a socket's life", message.subject)
                return
            await self._places.acquire()
            self._spawn(tell(event))

        return take

    # -- one request -------------------------------------------------------------------------------------------------

    def _taker(self, served: _Served) -> Callable[[Message], Awaitable[None]]:
        async def take(message: Message) -> None:
            tokens = message.subject.removeprefix(f"{self._subjects.prefix}.")
            # Of overlapping routes in one queue group NATS picks any: the most literal one is meant.
            meant = self._meant(tokens) if served.route is not None else served
            await self._places.acquire()
            self._spawn(self._work(meant or served, tokens, message))

        return take

    def _meant(self, tokens: str) -> _Served | None:
        path = tokens.removeprefix("route.")
        matching = [each for each in self._served.values() if each.route is not None and each.route.covers(path)]
        return min(matching, key=lambda each: each.route.rank if each.route else (), default=None)

    async def _work(self, served: _Served, tokens: str, message: Message) -> None:
        began = time.perf_counter_ns()
        failure = ""
        try:
            payload = await self._answer(served, tokens, message.data)
            self._reply(message, payload)
        except ServiceFault as fault:
            failure = f"{fault.code}: {fault}"
            self._refuse(message, fault.code, str(fault))
        except Exception:
            mark = secrets.token_hex(4)
            failure = f"internal: {mark}"
            log.exception("the handler of %s failed [%s]", tokens, mark)
            self._refuse(message, "internal", f"the service failed [{mark}]")
        finally:
            self._places.release()
            self._count(served, began, failure)

    async def _answer(self, served: _Served, tokens: str, data: bytes) -> bytes:
        try:
            body = orjson.loads(data) if data else {}
        except orjson.JSONDecodeError:
            raise BadRequest("the request is not JSON") from None
        if not isinstance(body, dict):
            raise BadRequest("the request must be a JSON object with data and socket")
        return encode_data(await served.answer(body, tokens), self._default, REPLY_LIMIT)

    def _reply(self, message: Message, payload: bytes, headers: bytes = b"") -> None:
        if message._msg.reply and self._client.is_connected:
            self._client.send(message._msg.reply, payload, "", headers)

    def _refuse(self, message: Message, code: str, text: str) -> None:
        self._reply(message, error_body(code, text), error_headers(code, text))

    def _count(self, served: _Served, began: int, failure: str) -> None:
        # NATS's own statistics: the micro service counted the request when it was taken, not when it was done.
        endpoint = self._endpoint(served)
        if endpoint is None:
            return
        endpoint._processing_time += time.perf_counter_ns() - began
        endpoint._average_processing_time = endpoint._processing_time // max(1, endpoint._num_requests)
        if failure:
            endpoint._num_errors += 1
            endpoint._last_error = failure  # type: ignore[assignment]

    def _endpoint(self, served: _Served) -> Endpoint | None:
        endpoints = self._service._endpoints if self._service is not None else ()
        subject = f"{self._subjects.prefix}.{served.tokens}"
        return next((each for each in endpoints if each._subject == subject), None)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _endpoint_name(name: str) -> str:
    """A name that NATS allows for an endpoint."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in name)
