"""The chat service: clients' requests on ``<prefix>.action.chat.*`` in, answers and casts out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from nats import errors as nats_errors
from nats.aio.msg import Msg

from roomcast import Bus, OutcomeUnknown, RoomcastError, Socket, SocketNotFound
from roomcast.envelope import ERROR_CODE_HEADER, STATUS_OF_CODE
from roomcast.membership import parse_socket

log = logging.getLogger("roomcast.demo")

QUEUE = "demo"
MAX_TEXT = 2000
MAX_NAME = 40
MAX_SHOWN = 200
"""Members that ``chat.who`` lists; the count is of all."""
MAX_ROOMS = 1000
"""Rooms whose members' names are kept."""

Data = Mapping[str, Any]


class Refused(Exception):
    """A request that is not carried out: a code of the protocol and a text for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Chat:
    """Answers chat requests. Several may run: each request goes to one of them, and little is kept in memory."""

    def __init__(self, bus: Bus, prefix: str, pages: Sequence[str] = ()) -> None:
        self._bus = bus
        self._subject = f"{prefix}.action.chat.*"
        self._pages = list(pages)
        self._names: dict[str, dict[str, str]] = {}
        """By room, then socket id: names that this copy of the service has heard, of those who are still there."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._actions: dict[str, Callable[[Socket, Data], Awaitable[Any]]] = {
            "join": self.join,
            "leave": self.leave,
            "say": self.say,
            "who": self.who,
            "blast": self.blast,
        }

    async def start(self) -> str:
        """Subscribe, so that requests come; returns the subject."""
        await self._bus.nats.subscribe(self._subject, queue=QUEUE, cb=self._on_request)
        await self._bus.flush()
        return self._subject

    async def _on_request(self, message: Msg) -> None:
        # A task each: a join that waits for an edge holds up nobody else's message.
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Msg) -> None:
        headers = None
        try:
            body: Any = await self._act(message)
        except Refused as error:
            body = {"error": {"code": error.code, "message": str(error)}}
            headers = {ERROR_CODE_HEADER: str(STATUS_OF_CODE[error.code])}
        if not message.reply:
            return
        try:
            await self._bus.nats.publish(message.reply, orjson.dumps(body), headers=headers)
        except nats_errors.Error as error:
            log.warning("an answer was lost, NATS is away: %s", error)

    async def _act(self, message: Msg) -> Any:
        verb = message.subject.rpartition(".")[2]
        action = self._actions.get(verb)
        if action is None:
            raise Refused("not_found", f"there is no action chat.{verb}")
        socket, data = _read(message.data)
        try:
            return await action(socket, data)
        except SocketNotFound as error:
            raise Refused("not_found", str(error)) from error
        except OutcomeUnknown as error:
            raise Refused("timeout", str(error)) from error
        except RoomcastError as error:
            raise Refused("unavailable", str(error)) from error
        except ValueError as error:
            raise Refused("bad_request", str(error)) from error
        except Refused:
            raise
        except Exception as error:
            log.exception("chat.%s failed", verb)
            raise Refused("internal", "the chat service failed; its log says why") from error

    async def join(self, socket: Socket, data: Data) -> Any:
        """``{room, name}``: the socket becomes a member, and the others hear ``chat.joined``."""
        room, name = _text(data, "room"), _text(data, "name", MAX_NAME)
        await self._bus.join(socket, room)
        self._learn(room, socket, data)
        await self._bus.broadcast(room, "chat.joined", {"id": socket.id, "name": name, "room": room}, socket)
        return await self.who(socket, data)

    async def leave(self, socket: Socket, data: Data) -> Any:
        """``{room}``: the socket is a member no more, and the others hear ``chat.left``."""
        room = _text(data, "room")
        await self._bus.leave(socket, room)
        name = self._names.get(room, {}).pop(socket.id, None)
        await self._bus.broadcast(room, "chat.left", {"id": socket.id, "name": name, "room": room})
        return {"left": room}

    async def say(self, socket: Socket, data: Data) -> Any:
        """``{room, text, name}``: everyone in the room hears ``chat``, whoever said it too."""
        room, text = _text(data, "room"), _text(data, "text", MAX_TEXT)
        self._learn(room, socket, data)
        await self._bus.broadcast(room, "chat", {"room": room, **_said(socket, data, text)})
        return {"sent": True}

    async def blast(self, socket: Socket, data: Data) -> Any:
        """``{text, name}``: every connected socket hears ``chat.blast``."""
        await self._bus.blast("chat.blast", _said(socket, data, _text(data, "text", MAX_TEXT)))
        return {"sent": True}

    async def who(self, socket: Socket, data: Data) -> Any:
        """``{room}``: who is there, how many, the asker's edge, and the pages of all edges."""
        room = _text(data, "room")
        known = list(self._names.get(room, ()))
        there = [member async for member in self._bus.members(room, partial=True)]
        ids = {member.id for member in there}
        names = self._names.get(room, {})
        for gone in known:
            if gone not in ids:
                names.pop(gone, None)
        shown = [{"id": m.id, "edge": m.edge, "name": names.get(m.id)} for m in there[:MAX_SHOWN]]
        return {"room": room, "members": shown, "count": len(there), "edge": socket.edge, "pages": self._pages}

    def _learn(self, room: str, socket: Socket, data: Data) -> None:
        name = _name(data)
        if name is not None:
            names = self._names.pop(room, {})
            names[socket.id] = name
            self._names[room] = names  # the room that was used last is the last one
            if len(self._names) > MAX_ROOMS:
                del self._names[next(iter(self._names))]


def _said(socket: Socket, data: Data, text: str) -> dict[str, Any]:
    return {"id": socket.id, "name": _name(data), "text": text, "at": int(time.time() * 1000)}


def _read(payload: bytes) -> tuple[Socket, Data]:
    """Who asks, and the data; :class:`Refused` when it is no request of a client."""
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        body = None
    socket = parse_socket(body) if isinstance(body, dict) else None
    if socket is None:
        raise Refused("bad_request", "a request is an object that says which socket it comes from")
    data = body.get("data")
    if not isinstance(data, dict):
        raise Refused("bad_request", "the data is an object")
    return socket, data


def _name(data: Data) -> str | None:
    """The name that the client sends with what it does; None when it is none."""
    name = data.get("name")
    return name.strip()[:MAX_NAME] or None if isinstance(name, str) else None


def _text(data: Data, key: str, limit: int = MAX_NAME) -> str:
    """A field that must be a text with something in it, of at most so many characters."""
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Refused("bad_request", f"{key} is missing")
    if len(value) > limit:
        raise Refused("bad_request", f"{key} has at most {limit} characters")
    return value.strip()
