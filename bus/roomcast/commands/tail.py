"""``roomcast tail``: the casts on the bus as they pass, whoever they are for."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import click
import orjson

from roomcast.commands.connected import Call, connected, printable
from roomcast.names import Subjects, decode_event, decode_room
from roomcast.wire import LightSubscription

MAX_UNSHOWN = 10_000
"""Casts that wait for a slow terminal; more are counted and dropped."""


class Heard:
    """Casts between the bus and the terminal: a bounded queue that counts what it drops."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(MAX_UNSHOWN)
        self.dropped = 0

    def take(self, _: LightSubscription, subject: bytes, __: bytes, payload: bytes, ___: bytes) -> None:
        """A cast has come."""
        try:
            self.queue.put_nowait((subject.decode("utf-8", "replace"), payload))
        except asyncio.QueueFull:
            self.dropped += 1


def describe(subject: str, payload: bytes, prefix: str) -> dict[str, Any]:
    """What a message on a cast's subject says, with names decoded; what breaks the rules is shown as it came."""
    kind, _, tokens = subject.removeprefix(f"{prefix}.").partition(".")
    room, _, event = tokens.rpartition(".")
    cast: dict[str, Any] = {"kind": kind}
    try:
        if kind == "room":
            cast["room"] = decode_room(room)
        cast["event"] = decode_event(event)
    except ValueError as error:
        cast |= {"subject": subject, "error": str(error)}
    try:
        cast["data"] = orjson.loads(payload)
    except orjson.JSONDecodeError:
        cast["not_json"] = payload.decode("utf-8", "backslashreplace")
    return cast


def line(cast: dict[str, Any]) -> str:
    """A cast for a human: where to, the event, the data."""
    where = f"room {cast.get('room', cast.get('subject'))}" if cast["kind"] == "room" else cast["kind"]
    if "error" in cast:
        where += f" [{cast['error']}]"
    data = orjson.dumps(cast["data"]).decode() if "data" in cast else f"[not JSON] {cast['not_json']}"
    return f"{where}  {cast.get('event', '')}  {data}"


@click.command()
@click.argument("room", required=False)
@connected
async def tail(call: Call, room: str | None) -> None:
    """Show casts as they pass, until Ctrl-C.

    All of them, or those to ROOM alone.
    """
    subjects = Subjects(call.prefix)
    wanted = [f"{call.prefix}.room.>", subjects.blast_all] if room is None else [subjects.room_events(room)]
    heard, ended = Heard(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, ended.set)
    for subject in wanted:
        call.bus.nats.subscribe_light(subject, heard.take)
    await call.bus.flush(timeout=call.timeout)
    click.echo(f"listening on {' and '.join(wanted)}; Ctrl-C ends", err=True)
    showing = asyncio.create_task(show_all(call, heard))
    ending = asyncio.create_task(ended.wait())
    await asyncio.wait({showing, ending}, return_when=asyncio.FIRST_COMPLETED)
    if showing.done():
        showing.result()
    showing.cancel()
    ending.cancel()


async def show_all(call: Call, heard: Heard) -> None:
    """Show each cast that was heard, for ever."""
    told = 0
    while True:
        subject, payload = await heard.queue.get()
        cast = describe(subject, payload, call.prefix)
        call.show(cast, line(cast))
        if heard.dropped > told and heard.queue.empty():
            click.echo(printable(f"{heard.dropped - told} casts were not shown: they came too fast"), err=True)
            told = heard.dropped
