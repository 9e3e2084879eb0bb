"""The dashboards are what their sources say, fit Grafana's schema, and can be read."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from support.dashboards import FILES, HOME, panels

UNITS = {"short", "none", "s", "bytes", "Bps", "cps", "reqps", "wps", "percent", "percentunit"}
COLUMNS = 24


@pytest.fixture(params=FILES, ids=[path.name for path in FILES])
def dashboard(request) -> Any:
    return json.loads(request.param.read_text())


def test_they_are_what_their_sources_say(tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import generate as g, json\n"
    code += "print(json.dumps({name: g.text_of(make()) for name, make in g.DASHBOARDS.items()}))"
    done = subprocess.run([sys.executable, "-c", code, str(HOME)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {path.name: path.read_text() for path in FILES}, (
        "run dashboards/grafana/generate.py"
    )


def test_they_fit_grafanas_schema(dashboard):
    """Read into Grafana's types and written again, nothing is lost: a field that Grafana does not know would be."""
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))
    assert again == dashboard


def test_the_grid_is_full_and_nothing_overlaps(dashboard):
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        for y in range(grid["y"], grid["y"] + grid["h"]):
            for x in range(grid["x"], grid["x"] + grid["w"]):
                assert 0 <= x < COLUMNS, f"{panel['title']} is wider than the grid"
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]
    lines = {y for _, y in taken}
    assert lines == set(range(len(lines))), "no line is empty"
    assert len(taken) == COLUMNS * len(lines), "every line is full"


def test_every_panel_says_what_it_shows(dashboard):
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    for panel in panels(dashboard):
        title = panel["title"]
        assert len(panel["description"]) > 15, title
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, title
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        references = [target["refId"] for target in panel["targets"]]
        assert references, title
        assert len(references) == len(set(references)), title
        assert all(target["legendFormat"] for target in panel["targets"]), title
    for first, second in combinations(panels(dashboard), 2):
        assert first["title"] != second["title"] or first["gridPos"]["y"] != second["gridPos"]["y"], first["title"]


def test_the_variables_choose_a_datasource_a_cluster_and_an_edge(dashboard):
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert list(variables)[:3] == ["datasource", "job", "instance"]
    for name, variable in variables.items():
        if name != "datasource":
            assert variable["multi"], name
            assert variable["includeAll"], name
            used = [t["expr"] for panel in panels(dashboard) for t in panel["targets"] if f"${name}" in t["expr"]]
            assert used, f"nothing asks for ${name}"


def test_grafana_is_told_of_the_datasource_and_the_folder():
    home = HOME.parent / "provisioning"
    [source] = yaml.safe_load((home / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    [provider] = yaml.safe_load((home / "dashboards" / "roomcast.yaml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
