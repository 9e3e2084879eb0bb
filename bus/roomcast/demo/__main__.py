"""``python -m roomcast.demo``: the chat service as a process."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence

import click

from roomcast import Bus
from roomcast.access import Access
from roomcast.commands.connected import access_options, nats_option, prefix_option, run
from roomcast.demo.service import Chat


@click.command()
@nats_option
@access_options
@prefix_option
@click.option(
    "--page", "pages", multiple=True, metavar="URL", help="An edge's page of the chat; repeat it for each edge."
)
def main(servers: str, access: Access, prefix: str, pages: Sequence[str]) -> None:
    """Answer the chat's requests until SIGTERM or Ctrl-C. Several copies share the work."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    run(serve(servers, access, prefix, pages))


async def serve(servers: str, access: Access, prefix: str, pages: Sequence[str]) -> None:
    """Serve until a signal."""
    ended = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, ended.set)
    async with Bus.connect(servers, prefix=prefix, name="chat demo", **access.options()) as bus:
        subject = await Chat(bus, prefix, pages).start()
        click.echo(f"chat service listens on {subject}")
        await ended.wait()


if __name__ == "__main__":
    main(prog_name="python -m roomcast.demo")
