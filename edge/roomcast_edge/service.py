"""Listens on NATS for what concerns this edge, and hands each request to the workshop or the coordinator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from nats import micro
from nats.micro.request import Request
from nats.micro.service import Service as MicroService
from nats.micro.service import ServiceConfig

from roomcast import __version__
from roomcast.names import Subjects
from roomcast.nats_client import LightSubscription, MendedClient
from roomcast_edge.answers import Refused, answer, answer_error, parse_request
from roomcast_edge.coordinator import Coordinator
from roomcast_edge.keeper import Elsewhere
from roomcast_edge.workshop import Workshop

Handler = Callable[[dict[str, Any], str], Awaitable[dict[str, Any] | None]]


class Service:
    """Every subject of the API, and what answers there."""

    def __init__(
        self,
        edge: str,
        subjects: Subjects,
        client: MendedClient,
        workshop: Workshop,
        coordinator: Coordinator,
    ) -> None:
        self._edge = edge
        self._subjects = subjects
        self._client = client
        self._workshop = workshop
        self._coordinator = coordinator
        self._tasks: set[asyncio.Task[None]] = set()
        self._own: list[LightSubscription] = []
        self._micro: MicroService | None = None
        self._operations: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "moved": self._moved,
            "hello": self._hello,
            "count": lambda body: workshop.count(body["room"]),
            "members": lambda body: workshop.members(body["room"], body["after"], body["bytes"]),
            "alive": self._alive,
            "release": lambda body: workshop.release(body["id"], bool(body.get("rival"))),
        }

    async def start(self) -> None:
        """Subscribe. The API is a NATS micro service, so that NATS's own tools list it."""
        client, subjects = self._client, self._subjects
        self._own = [
            client.subscribe_light(subjects.edge_sockets(self._edge), self._on_socket),
            client.subscribe_light(subjects.edge(self._edge), self._on_edge),
            client.subscribe_light(subjects.moved, self._on_moved),
        ]
        config = ServiceConfig(
            name="roomcast",
            version=__version__,
            description="Rooms, broadcasts and membership for realtime applications.",
            metadata={"edge": self._edge, "prefix": subjects.prefix},
        )
        self._micro = await micro.add_service(client, config)
        coordinator = self._coordinator
        endpoints: dict[str, Handler] = {
            "change": coordinator.change,
            "get": coordinator.change,
            "call": coordinator.change,
            "move": lambda body, _: coordinator.move(body),
            "members": lambda body, _: coordinator.members(body),
            "count": lambda body, _: coordinator.count(body),
        }
        for verb, handler in endpoints.items():
            await self._micro.add_endpoint(
                name=verb, subject=subjects.api(verb), queue_group="edges", handler=self._endpoint(handler)
            )

    async def stop(self) -> None:
        """Take no more requests of the API; finish those under way."""
        if self._micro is not None and self._client.is_connected:
            await self._micro.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=4.0)

    async def leave(self) -> None:
        """Hear nothing more; answer what NATS had already sent. From then on it says that nobody is here."""
        own, self._own = self._own, []
        for sub in own:
            self._client.unsubscribe_light(sub)
        await self._client.flush(1)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        await self._client.flush(1)

    def _endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[None]]:
        async def handle(request: Request) -> None:
            # The micro service takes requests one by one; each is worked on beside the others.
            self._spawn(self._serve(handler, request.data, request._msg.reply))

        return handle

    async def _serve(self, handler: Handler, payload: bytes, reply: str) -> None:
        try:
            body = await handler(parse_request(payload), reply)
        except Exception as error:
            answer_error(self._client, reply, error)
            return
        if body is not None:
            answer(self._client, reply, body)

    def _on_moved(self, *_: object) -> None:
        self._workshop.follower.poke()

    def _on_socket(self, _: LightSubscription, subject: bytes, reply: bytes, payload: bytes, __: bytes) -> None:
        """A change of, or an ask about, a socket whose id this edge gave."""
        name = ".".join(subject.decode().rsplit(".", 2)[1:])
        self._change(name, payload, reply.decode(), "")

    def _change(self, name: str, payload: bytes, reply: str, coordinator: str) -> None:
        """Change a socket here and answer ``reply``; a coordinator is told that this was done."""

        def tell(told: dict[str, Any] | BaseException) -> None:
            if isinstance(told, Elsewhere):
                answer_error(self._client, coordinator or reply, told)
            elif isinstance(told, BaseException):
                answer_error(self._client, reply, told)
                answer(self._client, coordinator, {"told": True})
            else:
                answer(self._client, reply, told)
                answer(self._client, coordinator, {"told": True})

        try:
            body = parse_request(payload)
            if self._workshop.work_now(name, body, tell):
                return
            if not self._workshop.holds(name):
                tell(Elsewhere())
                return
        except Exception as error:
            tell(error)
            return
        self._spawn(self._change_later(name, body, tell))

    async def _change_later(
        self, name: str, body: dict[str, Any], tell: Callable[[dict[str, Any] | BaseException], None]
    ) -> None:
        try:
            tell(await self._workshop.work(name, body))
        except Exception as error:
            tell(error)

    def _on_edge(self, _: LightSubscription, __: bytes, reply: bytes, payload: bytes, ___: bytes) -> None:
        """What another edge asks of this one."""
        to = reply.decode()
        try:
            body = parse_request(payload)
            operation = body.get("op")
            if operation == "change":
                self._change(str(body.get("id")), payload, str(body.get("answer", "")), to)
                return
            handler = self._operations.get(str(operation))
            if handler is None:
                raise Refused("bad_request", f"this edge ({__version__}) knows no operation {operation!r}")
        except Exception as error:
            answer_error(self._client, to, error)
            return
        self._spawn(self._operate(handler, body, to))

    async def _operate(
        self, handler: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]], body: dict[str, Any], reply: str
    ) -> None:
        try:
            answer(self._client, reply, await handler(body))
        except KeyError as error:
            answer_error(self._client, reply, Refused("bad_request", f"{error} is missing"))
        except Exception as error:
            answer_error(self._client, reply, error)

    async def _hello(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"edge": self._edge, "version": __version__, "time": time.time()}

    async def _moved(self, body: dict[str, Any]) -> dict[str, Any]:
        done = await self._workshop.moved(int(body["sequence"]))
        # The caller hears it from this edge itself: behind this edge's interest on the route to the caller's node.
        if body.get("confirm"):
            self._client.send(body["confirm"], self._edge.encode())
        return done

    async def _alive(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"edge": self._edge}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
