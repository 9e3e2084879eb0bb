"""Writes the dashboards beside this file: ``python dashboards/grafana/generate.py`` after a change of one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fanout import fanout
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from membership import membership

HOME = Path(__file__).parent
DASHBOARDS = {"fanout.json": fanout, "membership.json": membership}


def text_of(dashboard: Any) -> str:
    """A dashboard as Grafana reads it."""
    return json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, make in DASHBOARDS.items():
        (HOME / name).write_text(text_of(make()))
