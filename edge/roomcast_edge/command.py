"""``roomcast edge``: runs one edge until it is told to stop."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
import uvloop

from roomcast.open_files import raise_file_limit
from roomcast_edge.logs import configure
from roomcast_edge.server import Edge
from roomcast_edge.settings import Settings

log = logging.getLogger("roomcast.edge")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag and an environment variable for each field of the settings."""
    for field in reversed(dataclasses.fields(Settings)):
        meta = field.metadata
        variable = f"ROOMCAST_{field.name.upper()}"
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            field.name,
            default=field.default,
            type=meta["type"],
            envvar=[variable, meta["env"]] if meta["env"] else variable,
            help=f"{meta['help']}  [{variable}]",
            show_default=_shown(field.default),
        )(command)
    return command


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return (
            ":".join(map(str, default))
            if len(default) == 2 and isinstance(default[1], int)
            else ",".join(default) or "none"
        )
    return str(default) or "none"


@click.command()
@_options
def edge(**values: Any) -> None:
    """Run one edge: clients connect to it, NATS brings it what they should hear."""
    try:
        settings = Settings(**values)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    configure(settings.log_level)
    raise_file_limit()
    sys.exit(uvloop.run(_main(settings)))


async def _main(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        server = Edge(settings)
    except OSError as error:
        log.error("the admin port %s:%d cannot be used: %s", *settings.admin, error.strerror)
        return 1
    except ValueError as error:
        log.error("%s", error)
        return 2
    starting = asyncio.ensure_future(server.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and isinstance(starting.exception(), OSError):
        taken = starting.exception()
        log.error("the port %s:%d cannot be used: %s", *settings.listen, getattr(taken, "strerror", taken))
        await server.stop()
        return 1
    if starting.done():
        starting.result()
        await stopping
    starting.cancel()
    await server.stop()
    return 0
