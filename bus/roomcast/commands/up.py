"""``roomcast up``: NATS, edges and the demo on this machine, for trying things out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from roomcast.commands import discovered, embedded, ready
from roomcast.commands.connected import failure
from roomcast.commands.ports import HOST, Port, check_ports
from roomcast.commands.processes import Child, Family, GaveUp, Say


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs, and on which ports."""

    nats: list[int]
    edges: list[int]
    admins: list[int]
    demo: bool
    binary: str

    @property
    def urls(self) -> list[str]:
        """The NATS servers' URLs."""
        return [f"nats://{HOST}:{port}" for port in self.nats]

    @property
    def pages(self) -> list[str]:
        """The URLs of the demo's page, one for each edge."""
        return [f"http://localhost:{port}/" for port in self.edges]


@click.command()
@click.option("--edges", type=click.IntRange(1, 100), default=2, show_default=True, help="How many edges.")
@click.option("--nodes", type=click.Choice(["1", "3"]), default="1", show_default=True, help="How many NATS servers.")
@click.option("--nats-port", default=4222, show_default=True, help="The first NATS server's; others follow.")
@click.option("--port", default=8001, show_default=True, help="The first edge's for websockets; others follow.")
@click.option("--admin-port", default=9001, show_default=True, help="The first edge's for metrics; others follow.")
@click.option("--no-demo", is_flag=True, help="Neither the demo's page nor its service.")
def up(edges: int, nodes: str, nats_port: int, port: int, admin_port: int, no_demo: bool) -> None:
    """Run it all here, to try it out.

    Runs a NATS server (or a cluster of 3), edges and a chat demo on this machine until Ctrl-C. Everything listens on
    127.0.0.1 and is forgotten at the end. A process that dies is started again after a second: try kill -9 on an
    edge. Of NATS's output only warnings and errors are shown.
    """
    trouble = discovered.trouble("edge")
    if trouble is not None:
        raise click.ClickException(trouble)
    try:
        plan = Plan(
            nats=[nats_port + i for i in range(int(nodes))],
            edges=[port + i for i in range(edges)],
            admins=[admin_port + i for i in range(edges)],
            demo=not no_demo,
            binary=embedded.find_binary(),
        )
        check_ports(
            [Port(number, "a NATS server", "--nats-port") for number in plan.nats]
            + [Port(number, "an edge's websockets", "--port") for number in plan.edges]
            + [Port(number, "an edge's admin", "--admin-port") for number in plan.admins]
        )
        with tempfile.TemporaryDirectory(prefix="roomcast-", ignore_cleanup_errors=True) as directory:
            asyncio.run(run(plan, Path(directory)))
    except (OSError, ValueError) as error:
        raise failure(error) from error
    except GaveUp as error:
        raise click.ClickException(str(error)) from error


async def run(plan: Plan, directory: Path) -> None:
    """Start everything, keep it running until a signal, end it in order."""
    family = Family()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, family.end)

    def say(line: str) -> None:
        try:
            click.echo(line)
        except OSError:  # whoever read this has gone, as a terminal that was closed
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process
            family.end()

    await family.run(_bring_up(plan, directory, family, say))


async def _bring_up(plan: Plan, directory: Path, family: Family, say: Say) -> None:
    def shows(line: str) -> bool:  # while a cluster starts or ends, its nodes complain about each other
        return "[INF]" not in line and (family.is_up or not ("[WRN]" in line or "[ERR]" in line))

    configs = embedded.write_configs(directory, plan.nats)
    family.start(
        [
            Child(f"nats {port}", [plan.binary, "-c", str(path)], say, shows=shows)
            for port, path in zip(plan.nats, configs, strict=True)
        ]
    )
    say("starting NATS …" if len(plan.nats) == 1 else f"starting a cluster of {len(plan.nats)} NATS servers …")
    await ready.wait_nats(plan.urls)
    say("starting the edges …")
    family.start([_edge(plan, i, say) for i in range(len(plan.edges))])
    await asyncio.gather(*[ready.wait_edge(port, admin) for port, admin in zip(plan.edges, plan.admins, strict=True)])
    if plan.demo:
        demo = _demo(plan, say)
        family.start([demo])
        await demo.spoke.wait()
    for line in _summary(plan):
        say(line)


def _edge(plan: Plan, i: int, say: Say) -> Child:
    urls = plan.urls
    near = i % len(urls)  # edge i prefers node i
    command = [sys.executable, "-m", "roomcast", "edge", "--nats", ",".join(urls[near:] + urls[:near])]
    command += ["--listen", f"{HOST}:{plan.edges[i]}", "--admin", f"{HOST}:{plan.admins[i]}"]
    if plan.demo:
        command += ["--page", str(Path(__file__).parents[1] / "demo" / "chat.html")]
    return Child(
        f"edge {plan.edges[i]}", command, say, env={"ROOMCAST_KV_REPLICAS": str(len(urls)), "ROOMCAST_DRAIN_TIME": "1"}
    )


def _demo(plan: Plan, say: Say) -> Child:
    command = [sys.executable, "-m", "roomcast.demo", "--nats", ",".join(plan.urls)]
    for page in plan.pages:
        command += ["--page", page]
    return Child("demo", command, say)


def _summary(plan: Plan) -> list[str]:
    nats = "" if plan.nats[0] == 4222 else f" --nats nats://localhost:{plan.nats[0]}"
    lines = ["", "Roomcast is up. Ctrl-C ends it.", ""]
    if plan.demo:
        lines.append(f"  chat       {'  '.join(plan.pages)}")
    lines += [
        f"  websocket  {'  '.join(f'ws://localhost:{port}/ws' for port in plan.edges)}",
        f"  metrics    {'  '.join(f'http://localhost:{port}/metrics' for port in plan.admins)}",
        f"  NATS       {','.join(f'nats://localhost:{port}' for port in plan.nats)}",
        "",
    ]
    if plan.demo:
        lines += ["Chat in the browser, best with one window on each edge, and send from a shell:", ""]
    else:
        lines += ["Send from a shell:", ""]
    return [*lines, f'  roomcast broadcast lobby chat \'{{"text":"hi"}}\'{nats}', ""]
