"""The command ``roomcast``: every command registers here; those of other packages are found by entry point."""

from __future__ import annotations

import click

from roomcast._version import __version__
from roomcast.commands import client, discovered
from roomcast.commands.bench import bench
from roomcast.commands.doctor import doctor
from roomcast.commands.tail import tail
from roomcast.commands.up import up


class Commands(click.Group):
    """The commands that are registered below, and those of other packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, those that lack an extra among them."""
        return sorted({*super().list_commands(ctx), *discovered.names()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        return super().get_command(ctx, cmd_name) or discovered.find(cmd_name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="roomcast")
def main() -> None:
    """Rooms and realtime events for a cluster of websocket edges, over NATS."""


for _command in (*client.COMMANDS, bench, doctor, tail, up):
    main.add_command(_command)
