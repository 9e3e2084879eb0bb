"""``roomcast edge`` runs one edge until it is told to stop; ``roomcast config`` prints what its settings would be."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
import orjson
import uvloop
from click.core import ParameterSource

from roomcast.access import MASK, masked
from roomcast.errors import BusRefused, PermissionDenied
from roomcast.open_files import raise_file_limit
from roomcast_edge.environment import check_environment, variable
from roomcast_edge.logs import configure
from roomcast_edge.server import Edge
from roomcast_edge.settings import Settings

log = logging.getLogger("roomcast.edge")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag and an environment variable for each field of the settings."""
    for field in reversed(dataclasses.fields(Settings)):
        meta = field.metadata
        names = _variables(field)
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            field.name,
            default=field.default,
            type=meta["type"],
            envvar=names if len(names) > 1 else names[0],
            help=f"{meta['help']}  [{names[0]}]",
            show_default=shown(field, field.default) or "none",
        )(command)
    return command


def _variables(field: dataclasses.Field[Any]) -> list[str]:
    other = field.metadata["env"]
    return [variable(field.name), *([other] if other else [])]


def shown(field: dataclasses.Field[Any], value: Any) -> str:
    """A setting's value as a flag takes it, without what is secret."""
    if value and field.metadata["secret"]:
        return MASK
    if isinstance(value, tuple):
        if len(value) == 2 and isinstance(value[1], int):
            host = f"[{value[0]}]" if ":" in value[0] else value[0]
            return f"{host}:{value[1]}"
        return ",".join(masked(each) if field.name == "nats" else each for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(values: dict[str, Any]) -> Settings:
    try:
        check_environment(os.environ, [field.name for field in dataclasses.fields(Settings)])
        return Settings(**values)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@click.command()
@_options
def edge(**values: Any) -> None:
    """Run one edge: clients connect to it, NATS brings it what they should hear.

    SIGTERM, or Ctrl-C, ends it in order: it is unready, then closes its sockets at a pace. A second one hurries.
    """
    settings = _settings(values)
    configure(settings.log_level, settings.log_format)
    raise_file_limit()
    sys.exit(uvloop.run(_main(settings)))


async def _main(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        server = Edge(settings)
    except OSError as error:
        log.error("the admin port %s:%d cannot be used: %s", *settings.admin, error.strerror)
        return 1
    except ValueError as error:
        log.error("%s", error)
        return 2
    configure(settings.log_level, settings.log_format, server.id)

    def told() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    starting = asyncio.ensure_future(server.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    failed = starting.exception() if starting.done() else None
    if isinstance(failed, OSError):
        log.error("the port %s:%d cannot be used: %s", *settings.listen, getattr(failed, "strerror", failed))
    elif isinstance(failed, BusRefused | PermissionDenied):
        log.error("%s", failed)
    elif failed is not None:
        raise failed
    if failed is not None:
        await server.stop()
        return 1
    if starting.done():
        await stopping
    starting.cancel()
    await server.stop()
    return 0


@click.command()
@_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object on a line.")
@click.pass_context
def config(context: click.Context, /, as_json: bool, **values: Any) -> None:
    """Print the settings that an edge would have here, and where each comes from.

    It takes the same flags and variables as "roomcast edge", and refuses the same. Secrets are not shown.
    """
    settings = _settings(values)
    rows = [(field, getattr(settings, field.name)) for field in dataclasses.fields(settings)]
    width = max(len(field.name) for field, _ in rows)
    for field, value in rows:
        source, text = _source(context, field), shown(field, value)
        if as_json:
            click.echo(orjson.dumps({"name": field.name, "value": text, "source": source}))
        else:
            click.echo(f"{field.name:<{width}}  {text or '-':<32}  {source}")


def _source(context: click.Context, field: dataclasses.Field[Any]) -> str:
    source = context.get_parameter_source(field.name)
    if source is ParameterSource.COMMANDLINE:
        return f"--{field.name.replace('_', '-')}"
    if source is ParameterSource.ENVIRONMENT:
        return next((name for name in _variables(field) if os.environ.get(name)), "environment")
    return "default"
