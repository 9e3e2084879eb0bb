"""docs/operations.md has every setting, as the program has it. ``UPDATE_DOCS=1`` writes the table anew."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from roomcast_edge.command import shown
from roomcast_edge.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
BEGIN = "<!-- settings: written by tests/edge/test_operations_page.py -->\n"
END = "<!-- end of settings -->\n"


def table() -> str:
    """The settings as the page should have them."""
    rows = ["| setting | default | |", "| --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        default = shown(field, field.default)
        other = f" Also `{field.metadata['env']}`." if field.metadata["env"] else ""
        what = field.metadata["help"].replace("|", "\\|")
        rows.append(f"| `{field.name}` | {f'`{default}`' if default else '–'} | {what}{other} |")
    return "\n".join(rows) + "\n"


def test_the_table_of_settings_is_that_of_the_program():
    before, _, rest = PAGE.read_text().partition(BEGIN)
    there, _, after = rest.partition(END)
    wanted = "\n" + table() + "\n"
    if os.environ.get("UPDATE_DOCS") == "1":
        PAGE.write_text(before + BEGIN + wanted + END + after)
        there = wanted
    assert there == wanted, "run UPDATE_DOCS=1 pytest tests/edge/test_operations_page.py"
