"""The API from a shell: casts, changes of membership, and who is there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click
import orjson

from roomcast.commands.connected import Call, connected, failure
from roomcast.errors import Incomplete, MoveIncomplete, SocketNotFound
from roomcast.membership import ChangeResult, MoveResult, Socket
from roomcast.names import DEFAULT_EVENT

CAST_WORDS = "[EVENT] JSON"


def read_cast_words(_: click.Context, __: click.Parameter, words: Sequence[str]) -> tuple[str, Any]:
    """The event and the data of ``[EVENT] JSON``."""
    if len(words) > 2:
        raise click.UsageError(f"Expected {CAST_WORDS}, got {len(words)} arguments; does the JSON need quotes?")
    event, text = words if len(words) == 2 else (DEFAULT_EVENT, words[0])
    try:
        return event, orjson.loads(text)
    except orjson.JSONDecodeError as error:
        shown = text if len(text) <= 60 else text[:60] + "…"
        raise failure(f"the data is not JSON: {shown!r} ({error}); a text needs its own quotes: '\"hello\"'") from None


def cast_words(command: Any) -> Any:
    """The arguments ``[EVENT] JSON``, as the parameter ``cast``."""
    return click.argument("cast", nargs=-1, required=True, metavar=CAST_WORDS, callback=read_cast_words)(command)


def omit_options(command: Any) -> Any:
    """Who does not get a cast."""
    command = click.option("--except", "except_rooms", multiple=True, metavar="ROOM", help="Not to its members.")(
        command
    )
    return click.option("--omit", metavar="SOCKET", help="Not to this socket.")(command)


# -- casts -------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("room")
@cast_words
@omit_options
@connected
async def broadcast(
    call: Call, room: str, cast: tuple[str, Any], omit: str | None, except_rooms: Sequence[str]
) -> None:
    """Send an event to all members of ROOM.

    The event is "message" unless it is named. Returns when the NATS server has the event.
    """
    event, data = cast
    await call.bus.broadcast(room, event=event, data=data, omit=omit, except_rooms=except_rooms)
    await call.bus.flush(timeout=call.timeout)
    call.show({"room": room, "event": event}, f"sent {event} to {room}")


@click.command()
@cast_words
@omit_options
@connected
async def blast(call: Call, cast: tuple[str, Any], omit: str | None, except_rooms: Sequence[str]) -> None:
    """Send an event to every connected socket.

    The event is "message" unless it is named. Returns when the NATS server has the event.
    """
    event, data = cast
    await call.bus.blast(event=event, data=data, omit=omit, except_rooms=except_rooms)
    await call.bus.flush(timeout=call.timeout)
    call.show({"event": event}, f"sent {event} to everyone")


# -- changes of membership ---------------------------------------------------------------------------------------------


@click.command()
@click.argument("socket")
@click.argument("rooms", nargs=-1, required=True, metavar="ROOM…")
@connected
async def join(call: Call, socket: str, rooms: Sequence[str]) -> None:
    """Make SOCKET (an id) a member of rooms."""
    result: ChangeResult = await call.bus.join(socket, rooms, timeout=call.timeout)
    state = "joined" if result.changed else "was in"
    call.show({"socket": socket, "changed": result.changed}, f"{socket} {state} {', '.join(rooms)}")


@click.command()
@click.argument("socket")
@click.argument("rooms", nargs=-1, required=True, metavar="ROOM…")
@connected
async def leave(call: Call, socket: str, rooms: Sequence[str]) -> None:
    """End SOCKET's membership of rooms.

    A socket that is gone is no error.
    """
    result: ChangeResult = await call.bus.leave(socket, rooms, timeout=call.timeout)
    state = "left" if result.changed else "was not in"
    call.show({"socket": socket, "changed": result.changed}, f"{socket} {state} {', '.join(rooms)}")


@click.command("leave-all")
@click.argument("room")
@click.option("--everywhere", is_flag=True, help="Its members leave every room, not only this one.")
@connected
async def leave_all(call: Call, room: str, everywhere: bool) -> None:
    """Empty ROOM, on every edge."""
    await show_move(call, call.bus.leave_all(room, everywhere=everywhere, timeout=call.timeout))


def some_change(command: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a move that changes nothing, before anything is connected."""

    @functools.wraps(command)
    def checked(*, joined: Sequence[str], left: Sequence[str], **others: Any) -> None:
        if not joined and not left:
            raise click.UsageError("Say what to do with them: --join ROOM, --leave ROOM, or both.")
        command(joined=joined, left=left, **others)

    return checked


@click.command()
@click.argument("source", metavar="FROM")
@click.option("--join", "joined", multiple=True, metavar="ROOM", help="A room that they join; repeat it for several.")
@click.option("--leave", "left", multiple=True, metavar="ROOM", help="A room that they leave; repeat it for several.")
@some_change
@connected
async def move(call: Call, source: str, joined: Sequence[str], left: Sequence[str]) -> None:
    """Change the rooms of all who are in FROM.

    Everyone who is in the room FROM now joins and leaves these rooms, on every edge:

    \b
    roomcast move team-alpha --join events --join news --leave team-alpha
    """
    await show_move(call, call.bus.move(source, join=joined, leave=left, timeout=call.timeout))


@click.command()
@click.argument("target")
@click.option("--reason", default="", help="What the clients are told, at most 123 bytes.")
@connected
async def disconnect(call: Call, target: str, reason: str) -> None:
    """Close a socket, or all members of a room.

    TARGET is the socket's id or the room's name. The clients are told not to come back.
    """
    await show_move(call, call.bus.disconnect(target, reason=reason, timeout=call.timeout))


async def show_move(call: Call, work: Any) -> None:
    """Show the result of a bulk change per edge; of one that is incomplete too, before the error."""
    try:
        result: MoveResult = await work
    except MoveIncomplete as error:
        _show_result(call, error.result)
        raise
    _show_result(call, result)


def _show_result(call: Call, result: MoveResult) -> None:
    edges = {edge: {"matched": row.matched, "changed": row.changed} for edge, row in sorted(result.edges.items())}
    call.show(
        {"matched": result.matched, "changed": result.changed, "edges": edges, "missing": result.missing},
        f"matched {result.matched}, changed {result.changed}",
        *[f"  edge {edge}: matched {row['matched']}, changed {row['changed']}" for edge, row in edges.items()],
        *[f"  edge {edge}: did not confirm" for edge in result.missing],
    )


# -- who is there ------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("room")
@connected
async def members(call: Call, room: str) -> None:
    """List the connected sockets in ROOM."""
    async for socket in call.bus.members(room, timeout=call.timeout):
        user = f"  user {socket.user}" if socket.user else ""
        call.show(_socket_json(socket), f"{socket.id}  edge {socket.edge}{user}")


@click.command()
@click.argument("room")
@connected
async def count(call: Call, room: str) -> None:
    """Count the connected sockets in ROOM."""
    try:
        number = await call.bus.count(room, timeout=call.timeout)
    except Incomplete as error:
        raise failure(f"{error}; the others counted {error.known}") from error
    call.show({"room": room, "count": number}, str(number))


@click.command()
@click.argument("socket")
@connected
async def rooms(call: Call, socket: str) -> None:
    """List the rooms that SOCKET (an id) is in."""
    names = sorted(await call.bus.rooms(socket, timeout=call.timeout))
    call.show({"socket": socket, "rooms": names}, *names)


@click.command()
@click.argument("socket")
@connected
async def get(call: Call, socket: str) -> None:
    """Show one socket: its edge, user and rooms."""
    found = await call.bus.get(socket, timeout=call.timeout)
    if found is None:
        raise SocketNotFound(socket)
    body = _socket_json(found)
    call.show(body, *[f"{key:<12} {_value(value)}" for key, value in body.items()])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _socket_json(socket: Socket) -> dict[str, Any]:
    return {
        "id": socket.id,
        "edge": socket.edge,
        "user": socket.user,
        "rooms": sorted(socket.rooms),
        "data": socket.data,
        "dialect": socket.dialect,
        "connected_at": socket.connected_at,
    }


COMMANDS = (broadcast, blast, join, leave, leave_all, move, members, count, rooms, get, disconnect)
