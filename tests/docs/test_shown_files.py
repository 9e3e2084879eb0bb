"""Code in the docs that is a file of the repository is that file: ``<!-- path -->`` stands over such a block.

``python tests/docs/test_shown_files.py`` writes the files into the docs.
"""

from __future__ import annotations

import re
from pathlib import Path

HOME = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- (\S+/\S+) -->\n```(\w+)\n)(.*?)(```\n)", re.DOTALL)


def written(page: Path) -> str:
    """The page with its blocks as the files are now."""

    def fill(found: re.Match[str]) -> str:
        return found[1] + (HOME / found[2]).read_text() + found[5]

    return BLOCK.sub(fill, page.read_text())


def test_what_the_docs_show_is_what_is_tested():
    shown = set()
    for page in HOME.glob("docs/*.md"):
        assert page.read_text() == written(page), f"{page.name} shows another file than there is; run {__file__}"
        shown |= {found[2] for found in BLOCK.finditer(page.read_text())}
    assert {"examples/fastapi-orders/main.py", "examples/node-service/service.mjs"} <= shown


if __name__ == "__main__":
    for page in HOME.glob("docs/*.md"):
        page.write_text(written(page))
