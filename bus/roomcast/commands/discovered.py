"""Commands of other packages, found by entry point; one whose extra is not installed says which."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

GROUP = "roomcast.commands"
"""The entry-point group in which another package registers a command. The package ``roomcast_x`` needs the extra x."""


def names() -> set[str]:
    """The names of all commands that other packages register."""
    return entry_points(group=GROUP).names


def find(name: str) -> click.Command | None:
    """The command of this name, or one in its place that says what to install; None when nobody registers it."""
    for entry in entry_points(group=GROUP, name=name):
        command = _load(entry)
        return _lacking(entry, command) if isinstance(command, str) else command
    return None


def trouble(name: str) -> str | None:
    """One line on why the command of this name cannot run, or None when it can."""
    for entry in entry_points(group=GROUP, name=name):
        command = _load(entry)
        return command if isinstance(command, str) else None
    return f"roomcast {name} is not installed: pip install 'roomcast[{name}]'"


def _load(entry: EntryPoint) -> click.Command | str:
    """The command, or one line on what it lacks."""
    try:
        command = entry.load()
    except ImportError as error:
        return f"roomcast {entry.name} needs what is not installed ({error}): {_install(entry)}"
    assert isinstance(command, click.Command), f"the entry point {entry.name!r} names a click command"
    return command


def _lacking(entry: EntryPoint, why: str) -> click.Command:
    def refuse() -> None:
        raise click.ClickException(why)

    return click.Command(
        entry.name,
        callback=refuse,
        short_help=f"Not installed: {_install(entry)}",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _install(entry: EntryPoint) -> str:
    extra = entry.module.partition(".")[0].removeprefix("roomcast_")
    return f"pip install 'roomcast[{extra}]'"
