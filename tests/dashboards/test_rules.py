"""Prometheus's rules: well-formed, each alert tried in a made-up fault and in health, each with a section to read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.prometheus import HOME, rules

ROOT = HOME.parent.parent
TRIED = Path(__file__).parent / "rules_test.yaml"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str) -> None:
    """Run promtool; its findings are the failure."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, cwd=TRIED.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_one(needs_prometheus):
    promtool("check", "config", str(HOME / "prometheus.yaml"))


def test_each_alert_fires_in_its_fault_and_is_silent_otherwise(needs_prometheus):
    promtool("test", "rules", TRIED.name)


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_is_tried_both_ways(name):
    tried = [
        case
        for scene in yaml.safe_load(TRIED.read_text())["tests"]
        for case in scene["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert any(case["exp_alerts"] for case in tried), "it fires"
    assert any(not case["exp_alerts"] for case in tried), "it is silent"


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_what_is_the_matter_and_where_to_read_on(name):
    alert = ALERTS[name]
    notes = alert["annotations"]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert notes["summary"].endswith((".", "within the hour.")), name
    assert len(notes["description"]) > 30
    page, _, anchor = notes["runbook_url"].partition("#")
    sections: dict[str, Any] = dict(
        re.findall(r"^### (\S+)\n\n((?:(?!^#).*\n?)*)", (ROOT / page).read_text(), re.MULTILINE)
    )
    assert name.lower() == anchor
    assert "1. " in sections[name], "its section says what to do first"


def test_no_section_is_of_an_alert_that_is_gone():
    headings = re.findall(r"^### (Roomcast\w+)", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert headings == list(ALERTS), "in the order of the rules"
