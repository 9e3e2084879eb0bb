"""Clients of Socket.IO as tests drive them: the real ones of npm, in a Node process, and of PyPI, in this one."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
import socketio

from support.until import until

HARNESSES = Path(__file__).parent.parent / "conformance"

Seen = dict[str, Any]


class SocketIo:
    """One client. What it observes is in ``seen``, in order: ``{"saw": "connect" | "event" | "ack" | …, …}``."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._refs = itertools.count(1)

    @property
    def id(self) -> str:
        """Its id, as it was told last."""
        return str(self.all("connect")[-1]["id"])

    @property
    def session(self) -> str:
        """The secret with which it may return, as it was told last."""
        seen = self.all("connect")[-1]
        return str(seen["session"]) if "session" in seen else str(seen["pid"]).partition("~")[0]

    @property
    def events(self) -> list[tuple[str, list[Any]]]:
        """The events that it heard: name and arguments."""
        return [(item["event"], item["args"]) for item in self.all("event")]

    def all(self, saw: str) -> list[Seen]:
        """All observations of a kind."""
        return [item for item in self.seen if item["saw"] == saw]

    async def sees(self, saw: str, count: int = 1, within: float = 10.0) -> Seen:
        """Wait until there are so many observations of a kind in all; returns the last of them."""
        found = await until(lambda: self.all(saw)[count - 1 : count], within, f"{count} × {saw} are seen")
        return found[0]

    async def hears(self, event: str, *args: Any, within: float = 10.0) -> None:
        """Wait until it has heard this event with these arguments."""
        heard = (event, list(args))
        try:
            await until(lambda: heard in self.events, within)
        except AssertionError:
            raise AssertionError(f"never heard {heard}; the last that was seen: {self.seen[-5:]}") from None

    async def emit(self, *args: Any) -> None:
        """Emit without an acknowledgement: the event's name, then its arguments."""
        raise NotImplementedError

    async def ask(self, *args: Any) -> Any:
        """Emit, and wait for the acknowledgement: its one argument."""
        raise NotImplementedError

    def reply(self, event: str, answer: Any) -> None:
        """Acknowledge calls of this event by this answer from now on."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect as a client that leaves."""
        raise NotImplementedError

    @property
    def gave_up(self) -> bool:
        """Whether it was disconnected and does not come back by itself."""
        raise NotImplementedError


class Kind(Protocol):
    """Makes clients of one kind."""

    transport_closed: frozenset[str]
    """The reasons that ``disconnect`` gives when the connection was lost: such a client comes back by itself."""
    server_disconnect: str
    """The reason when the server has said DISCONNECT."""
    carries_session: str
    """What carries the session of a client that returns: the ``pid`` of its auth, or the ``session`` of its query."""

    async def open(
        self, url: str, *, auth: Any = None, query: str = "", wait: bool = True, path: str = "/"
    ) -> SocketIo:
        """A client of ``http://host:port``, connected to a namespace unless it shall not be waited for."""
        ...


# -- socket.io-client of npm -------------------------------------------------------------------------------------------


class JsSocketIo(SocketIo):
    """A socket of the Node process."""

    def __init__(self, node: Node, name: str) -> None:
        super().__init__()
        self._node = node
        self._name = name

    def tell(self, command: str, **more: Any) -> None:
        """Have the Node process do something to this socket."""
        self._node.tell({"do": command, "name": self._name, **more})

    async def emit(self, *args: Any) -> None:
        self.tell("emit", args=args)

    async def ask(self, *args: Any, **more: Any) -> Any:
        ref = next(self._refs)
        if isinstance(args[-1], bytes):
            *args, data = args  # type: ignore[assignment]
            more["bytes"] = list(data)
        self.tell("emit", args=args, ref=ref, **more)
        [answer] = await until(
            lambda: [item for item in self.all("ack") if item["ref"] == ref], 10, f"{args} is answered"
        )
        [only] = answer["args"]
        return only

    def reply(self, event: str, answer: Any) -> None:
        self.tell("reply", event=event, answer=answer)

    async def close(self) -> None:
        self.tell("close")
        await self.sees("disconnect", len(self.all("disconnect")) + 1)

    @property
    def gave_up(self) -> bool:
        ends = self.all("disconnect")
        return bool(ends) and not ends[-1]["active"]


J = TypeVar("J", bound=JsSocketIo)


class Node:
    """A Node process with any number of socket.io-clients, of one version. Enter it to start."""

    transport_closed = frozenset({"transport close", "transport error"})
    server_disconnect = "io server disconnect"
    harness = "client.cjs"

    def __init__(self, package: str = "socket.io-client", carries_session: str = "pid") -> None:
        self.carries_session = carries_session
        self._package = package
        self._names = itertools.count(1)
        self._sockets: dict[str, JsSocketIo] = {}
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]

    async def __aenter__(self) -> Node:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            "node", str(HARNESSES / self.harness), self._package, stdin=pipe, stdout=pipe, limit=1 << 24
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), 10)
        await self._reader

    def tell(self, command: dict[str, Any]) -> None:
        """One command."""
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None, "a pipe"
        async for line in self._process.stdout:
            seen = json.loads(line)
            self._sockets[seen.pop("name")].seen.append(seen)

    def _add(self, client: J) -> J:
        self._sockets[client._name] = client
        return client

    async def open(
        self, url: str, *, auth: Any = None, query: str = "", wait: bool = True, path: str = "/", **more: Any
    ) -> JsSocketIo:
        client = self._add(JsSocketIo(self, f"socket {next(self._names)}"))
        options: dict[str, Any] = {"auth": auth} if auth is not None else {}
        if query:
            options["query"] = dict(pair.split("=", 1) for pair in query.split("&"))
        client.tell("connect", url=url + path, options=options, **more)
        if wait:
            await client.sees("connect")
        return client


# -- sails.io.js of npm ------------------------------------------------------------------------------------------------


class SailsSocket(JsSocketIo):
    """What ``io.sails.connect`` gives: ``await socket.request("get", "/orders/42", {…})``."""

    async def request(self, verb: str, *args: Any, within: float = 10.0) -> Seen:
        """``io.socket.get(url, data)`` and its like, or ``io.socket.request(options)``; the JWR that comes back."""
        ref = next(self._refs)
        self.tell("ask", ref=ref, verb=verb, args=args)
        jwr = await until(
            lambda: [item for item in self.all("jwr") if item["ref"] == ref], within, f"{verb} {args} is answered"
        )
        return jwr[0]

    async def ask(self, *args: Any, **_: Any) -> Any:
        ref = next(self._refs)
        self.tell("raw", ref=ref, args=args)
        [answer] = await until(
            lambda: [item for item in self.all("ack") if item["ref"] == ref], 10, f"{args} is answered"
        )
        return answer["args"][0]


class SailsNode(Node):
    """A Node process with any number of sockets of sails.io.js. Enter it to start."""

    harness = "sails.cjs"

    def __init__(self, package: str = "socket.io-client-2.0") -> None:
        super().__init__(package, carries_session="session")

    async def connect(self, url: str, *, wait: bool = True, returns: bool = False, **options: Any) -> SailsSocket:
        """A socket; ``options`` are those of ``io.sails.connect``. ``returns``: with its session, if it is lost."""
        client = self._add(SailsSocket(self, f"socket {next(self._names)}"))
        client.tell("connect", url=url, options=options, returns=returns)
        if wait:
            await client.sees("connect")
        return client


# -- python-socketio ---------------------------------------------------------------------------------------------------


class _Recovering(socketio.AsyncClient):
    """It does by hand what the npm package does by itself: it keeps the ``pid``, and returns it when it connects."""

    pid = ""

    async def _handle_connect(self, namespace: str | None, data: Any) -> None:
        self.pid = (data or {}).get("pid", "")
        await super()._handle_connect(namespace, data)


class PySocketIo(SocketIo):
    """A client of python-socketio."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        super().__init__()
        self.client = client = _Recovering(
            http_session=session,
            handle_sigint=False,
            reconnection_delay=0.05,
            reconnection_delay_max=0.2,
            randomization_factor=0,
        )
        note = self.seen.append
        client.on("connect", lambda: note({"saw": "connect", "id": client.get_sid(), "pid": client.pid}))
        client.on("disconnect", lambda reason: note({"saw": "disconnect", "reason": reason}))
        client.on("*", lambda event, *args: note({"saw": "event", "event": event, "args": list(args)}))
        # python-socketio hands "message" to no catch-all.
        client.on("message", lambda *args: note({"saw": "event", "event": "message", "args": list(args)}))

    async def emit(self, *args: Any) -> None:
        await self.client.emit(args[0], tuple(args[1:]))

    async def ask(self, *args: Any) -> Any:
        return await self.client.call(args[0], tuple(args[1:]), timeout=10)

    def reply(self, event: str, answer: Any) -> None:
        self.client.on(event, lambda *_: answer)

    async def close(self) -> None:
        await self.client.shutdown()

    @property
    def gave_up(self) -> bool:
        return not self.client.connected and self.client._reconnect_task is None


def _error(error: Any) -> Seen:
    return error if isinstance(error, dict) else {"message": str(error)}


class Python:
    """Clients of python-socketio. Enter it to start."""

    transport_closed = frozenset({"transport close", "transport error"})
    server_disconnect = "server disconnect"
    carries_session = "pid"

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession
        self._opened: list[PySocketIo] = []

    async def __aenter__(self) -> Python:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._opened:
            await client.close()
        await self._session.close()

    async def open(
        self, url: str, *, auth: Any = None, query: str = "", wait: bool = True, path: str = "/"
    ) -> PySocketIo:
        made = PySocketIo(self._session)
        made.client.on(
            "connect_error", lambda error: made.seen.append({"saw": "connect_error", **_error(error)}), namespace=path
        )
        self._opened.append(made)

        def say() -> dict[str, Any]:
            return (auth or {}) | ({"pid": made.client.pid} if made.client.pid else {})

        connected: Callable[..., Any] = made.client.connect
        try:
            await connected(f"{url}?{query}", auth=say, transports=["websocket"], namespaces=[path], wait_timeout=10)
        except socketio.exceptions.ConnectionError:
            if wait:
                raise
        return made
