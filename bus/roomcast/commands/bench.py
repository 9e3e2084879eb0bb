"""``roomcast bench``: measures a system as its users would before they rely on it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import orjson

from roomcast.bench import machine
from roomcast.bench.errors import BenchError
from roomcast.bench.progress import Progress
from roomcast.bench.report import Result, document, table
from roomcast.bench.run import Run, Size
from roomcast.bench.scenarios import SCENARIOS, Scenario
from roomcast.bench.system import System, running
from roomcast.commands.connected import failure
from roomcast.open_files import raise_file_limit

NAMES = [scenario.name for scenario in SCENARIOS]


def read_names(_: click.Context, __: click.Parameter, words: Sequence[str]) -> list[Scenario]:
    """The scenarios of ``--only``; none where it is not given."""
    wanted = {name.strip() for word in words for name in word.split(",") if name.strip()}
    unknown = sorted(wanted - set(NAMES))
    if unknown:
        raise click.BadParameter(f"there is no scenario {unknown[0]!r}; there are {', '.join(NAMES)}")
    return [scenario for scenario in SCENARIOS if scenario.name in wanted]


@click.command(epilog="Scenarios: " + "; ".join(f"{each.name} ({each.text})" for each in SCENARIOS) + ".")
@click.option("--nats", metavar="URL[,URL…]", help="A running system's NATS; the first server is published to.")
@click.option("--edge", "edges", multiple=True, metavar="WS_URL", help="A running edge; repeat it for several.")
@click.option("--admin", "admins", multiple=True, metavar="URL", help="The admin port of each --edge, in their order.")
@click.option("--prefix", default="bus", show_default=True, metavar="NAME", help="A running system's prefix.")
@click.option("--embedded", is_flag=True, help="Start NATS and one edge for it here; so by default.")
@click.option("--remote", is_flag=True, help="Allow addresses of other machines.")
@click.option("--only", "chosen", multiple=True, callback=read_names, metavar="NAME[,NAME…]", help="These scenarios.")
@click.option("--sockets", type=click.IntRange(20, 200_000), help="Sockets of every scenario.  [2,000 to 10,000]")
@click.option("--seconds", type=click.FloatRange(0.5, 120), help="How long casts are published.  [6]")
@click.option("--processes", type=click.IntRange(1, 64), help="Processes of the load.  [one for each free processor]")
@click.option("--quick", is_flag=True, help="Less of everything: under half a minute; the figures are rough.")
@click.option("--full", is_flag=True, help="More: the memory of 50,000 rooms.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to a file.")
def bench(
    nats: str | None,
    edges: Sequence[str],
    admins: Sequence[str],
    prefix: str,
    embedded: bool,
    remote: bool,
    chosen: Sequence[Scenario],
    sockets: int | None,
    seconds: float | None,
    processes: int | None,
    quick: bool,
    full: bool,
    file: Path | None,
) -> None:
    """Measure a system: memory, fan-out, storms, moves.

    Without addresses it measures itself: a NATS server and one edge are started on this machine, the edge on a
    processor of its own where there are two. A running system needs --nats, and --edge and --admin for each edge; it
    is put under load, in rooms that are named bench-…, and its clients feel it.
    """
    given = [bool(nats), bool(edges), bool(admins)]
    if any(given) and (embedded or not all(given)):
        raise click.UsageError("A running system needs --nats, --edge and --admin, and no --embedded.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    allowed = raise_file_limit()
    about = machine.facts()
    if machine.is_busy():
        click.echo(f"this machine is busy (load average {about['load_average']}): the figures will be worse", err=True)
    size = Size(quick, full, sockets, seconds)
    try:
        if file is not None:
            file.touch()
        with _system(nats, prefix, edges, admins, remote) as system:
            run = Run(system, size, allowed, processes or 0)
            usual = [scenario for scenario in SCENARIOS if system.embedded or not scenario.own]
            results = measure_all(run, chosen or usual)
    except (BenchError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) if isinstance(error, BenchError) else failure(error) from error
    click.echo(table(about, results))
    if file is not None:
        settings = {
            "embedded": system.embedded,
            "edges": len(system.targets),
            "sockets": sockets,
            "seconds": size.seconds,
            "quick": quick,
            "full": full,
        }
        file.write_bytes(orjson.dumps(document(about, settings, results), option=orjson.OPT_INDENT_2))
        click.echo(f"\nall figures are in {file}", err=True)
    if any(result.trouble for result in results):
        sys.exit(1)


@contextmanager
def _system(
    nats: str | None, prefix: str, edges: Sequence[str], admins: Sequence[str], remote: bool
) -> Iterator[System]:
    if nats:
        yield running(nats, prefix, edges, admins, remote)
    else:
        from roomcast.bench.embedded import start_embedded  # it leans on other commands: not before all are there

        with start_embedded() as system:
            yield system


def measure_all(run: Run, scenarios: Sequence[Scenario]) -> list[Result]:
    """Measure one after the other; one that cannot be measured keeps no other from it."""
    results = []
    with Progress([scenario.name for scenario in scenarios]) as progress:
        run.tick = progress.tick
        for number, scenario in enumerate(scenarios):
            progress.begin(number)
            began = time.monotonic()
            try:
                figures, trouble = scenario.measure(run), ""
            except BenchError as error:
                figures, trouble = [], str(error)
            results.append(Result(scenario.name, scenario.text, time.monotonic() - began, figures, trouble))
    return results
