"""Writes prometheusrule.yaml from the rules that Prometheus itself reads; run it after these have changed."""

from __future__ import annotations

from pathlib import Path

import yaml

HERE = Path(__file__).parent
RULES = HERE.parents[2] / "dashboards" / "prometheus" / "rules.yaml"
RULE = HERE / "prometheusrule.yaml"


def generated() -> str:
    """The PrometheusRule with exactly the groups of ``dashboards/prometheus/rules.yaml``."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "roomcast"},
        "spec": {"groups": yaml.safe_load(RULES.read_text())["groups"]},
    }
    head = "# Made from dashboards/prometheus/rules.yaml by generate.py: change it there.\n"
    return head + yaml.safe_dump(rule, sort_keys=False, allow_unicode=True, width=110)


if __name__ == "__main__":
    RULE.write_text(generated())
