"""The committed dashboards, and what they ask of Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent.parent.parent / "dashboards" / "grafana"
FILES = sorted(HOME.glob("*.json"))
INTERVAL = "10s"
"""What Grafana would put for ``$__rate_interval``, for scrapes twice a second."""

_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)").fullmatch


def dashboards() -> dict[str, Any]:
    """All dashboards by the names of their files."""
    return {path.name: json.loads(path.read_text()) for path in FILES}


def panels(dashboard: Any) -> list[Any]:
    """The panels that show something, without the rows' heads."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of every panel and variable with all of everything chosen, after where it stands."""
    for name, dashboard in dashboards().items():
        variables = [v for v in dashboard["templating"]["list"] if v["type"] == "query"]
        for panel in panels(dashboard):
            for target in panel["targets"]:
                where = f"{name}: {panel['title']}, {target['refId']}"
                yield where, _filled(target["expr"], variables)
        for variable in variables:
            found = _LABEL_VALUES(variable["query"])
            assert found, f"{name}: the variable {variable['name']} asks for a label's values"
            selector, label = found.groups()
            yield f"{name}: ${variable['name']}", _filled(f"count by ({label}) ({selector})", variables)


def _filled(expr: str, variables: list[Any]) -> str:
    for variable in variables:
        expr = expr.replace(f"${variable['name']}", variable["allValue"])
    expr = expr.replace("$__rate_interval", INTERVAL)
    assert "$" not in expr, f"{expr}: a variable that the dashboard does not have"
    return expr
