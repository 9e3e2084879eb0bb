"""How a command that talks to the bus runs: its options, its connection, its output, and one line for any error."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec

import click
import orjson

from roomcast.access import HELP, Access
from roomcast.bus import Bus
from roomcast.errors import RoomcastError

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a command: the bus it talks to and how it shows what it learns."""

    bus: Bus
    prefix: str
    timeout: float
    """Seconds."""
    as_json: bool

    def show(self, body: Any, *lines: str) -> None:
        """One JSON object on a line, or these lines for a human."""
        if self.as_json:
            click.echo(orjson.dumps(body))
        else:
            for line in lines:
                click.echo(printable(line))


def printable(text: str) -> str:
    """A text in which nothing can steer a terminal or begin a line: names and data come from strangers."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end; what goes wrong with the bus or the arguments becomes one line on stderr and exit code 1."""
    try:
        asyncio.run(work)
    except (RoomcastError, ValueError, TypeError) as error:
        raise failure(error) from error


def failure(error: object) -> click.ClickException:
    """An error as one line."""
    return click.ClickException(printable(" ".join(str(error).splitlines())) or type(error).__name__)


def nats_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--nats``: where NATS is."""
    return click.option(
        "--nats",
        "servers",
        envvar=["ROOMCAST_NATS", "NATS_URL"],
        default="nats://localhost:4222",
        show_default=True,
        show_envvar=True,
        metavar="URL[,URL…]",
        help="The NATS server, or several of one cluster.",
    )(command)


def access_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--nats-ca``, ``--nats-credentials`` …: as one :class:`Access`, the keyword argument ``access``."""

    @functools.wraps(command)
    def with_access(*args: Any, **arguments: Any) -> None:
        given = {field.name: arguments.pop(f"nats_{field.name}") for field in dataclasses.fields(Access)}
        try:
            access = Access(**given)
        except ValueError as error:
            raise failure(error) from error
        command(*args, access=access, **arguments)

    for name, text in reversed(HELP.items()):
        with_access = click.option(
            f"--nats-{name}",
            envvar=f"ROOMCAST_NATS_{name.upper()}",
            default="",
            show_envvar=True,
            metavar="TEXT" if name == "token" else "FILE",
            help=text,
        )(with_access)
    return with_access


def prefix_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--prefix``: which tenant's bus."""
    return click.option(
        "--prefix",
        envvar="ROOMCAST_PREFIX",
        default="bus",
        show_default=True,
        show_envvar=True,
        metavar="NAME",
        help="The prefix of the bus's subjects; each prefix is a tenant of its own.",
    )(command)


def connected(function: Callable[Concatenate[Call, P], Awaitable[None]]) -> Callable[..., Any]:
    """Make an ``async def`` that takes a :class:`Call` first what click runs, with the options they all have."""

    @nats_option
    @access_options
    @prefix_option
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for an answer.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, an object on a line.")
    @functools.wraps(function)
    def command(
        servers: str,
        access: Access,
        prefix: str,
        timeout: float,
        as_json: bool,
        *args: P.args,
        **arguments: P.kwargs,
    ) -> None:
        async def call() -> None:
            async with Bus.connect(servers, prefix=prefix, name="roomcast command", **access.options()) as bus:
                await function(Call(bus, prefix, timeout, as_json), *args, **arguments)

        run(call())

    return command
