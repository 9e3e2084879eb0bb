"""``roomcast doctor``: what is wrong with a running system, and what to do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import click
import orjson

from roomcast.access import Access
from roomcast.commands.connected import access_options, failure, nats_option, prefix_option, printable
from roomcast.connecting import server_urls
from roomcast.doctor.bucket import check_bucket
from roomcast.doctor.findings import Finding, Level, fail, skip
from roomcast.doctor.members import check_edges, check_services
from roomcast.doctor.nats import check_permissions, check_server
from roomcast.doctor.patient import Expected, examine
from roomcast.envelope import MAX_CAST_BYTES
from roomcast.errors import BusUnavailable
from roomcast.names import Subjects


@click.command()
@nats_option
@access_options
@prefix_option
@click.option(
    "--as",
    "role",
    type=click.Choice(["operator", "edge", "service"]),
    default="operator",
    show_default=True,
    help="Whose credentials these are: what such a user must be allowed to do is tried.",
)
@click.option(
    "--kv-replicas",
    type=click.IntRange(0, 5),
    default=0,
    envvar="ROOMCAST_KV_REPLICAS",
    show_envvar=True,
    help="How many replicas the bucket should have (0: not said).",
)
@click.option(
    "--cast-limit",
    type=click.IntRange(1, 8 << 20),
    default=MAX_CAST_BYTES,
    envvar="ROOMCAST_CAST_LIMIT",
    show_default=True,
    show_envvar=True,
    help="Bytes of a cast's data at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object on a line.")
def doctor(
    servers: str, access: Access, prefix: str, role: str, kv_replicas: int, cast_limit: int, as_json: bool
) -> None:
    """Look what is wrong with a running system.

    Checks NATS, what these credentials may do there, JetStream and the bucket, clocks, edges and services, and says
    what to do. It changes nothing: what it writes is a key that vanishes after 5 seconds. Exit code 1 where something
    fails; warnings are no failure.
    """
    try:
        expected = Expected(cast_limit, kv_replicas, role)
        found = asyncio.run(_examine(server_urls(servers), access, Subjects(prefix), expected, as_json))
    except ValueError as error:
        raise failure(error) from error
    sys.exit(1 if Level.FAIL in found else 0)


async def _examine(
    servers: list[str], access: Access, subjects: Subjects, expected: Expected, as_json: bool
) -> set[Level]:
    levels = set()
    try:
        async with examine(servers, subjects, expected, access.options()) as patient:
            checks = [check_server(patient), check_permissions(patient)]
            if expected.role != "service":
                checks += [check_bucket(patient), check_edges(patient)]
            else:
                checks.append(_not_looked_at())
            for check in (*checks, check_services(patient)):
                async for finding in check:
                    levels.add(finding.level)
                    _show(finding, as_json)
    except BusUnavailable as error:
        advice = "start NATS, or mend --nats and the credentials; nothing else was looked at"
        _show(fail("nats", str(error), advice), as_json)
        levels.add(Level.FAIL)
    return levels


async def _not_looked_at() -> AsyncIterator[Finding]:
    for check in ("jetstream", "edges"):
        yield skip(check, "services have nothing to do with it: run this as an operator")


def _show(finding: Finding, as_json: bool) -> None:
    if as_json:
        body = {"check": finding.check, "level": finding.level.value.lower()}
        click.echo(orjson.dumps({**body, "text": finding.text, "advice": finding.advice}))
        return
    click.echo(printable(f"{finding.level.value:<4}  {finding.check:<12} {finding.text}"))
    if finding.advice:
        click.echo(printable(f"      {'':<12} → {finding.advice}"))
