"""What the Prometheus Operator is given: the rules of ``dashboards/``, and jobs under the names that they know."""

from __future__ import annotations

import importlib.util
import re

import yaml

from support.manifests import ROOT, named, overlay

RULES = ROOT / "dashboards" / "prometheus" / "rules.yaml"


def strict(required: list[str], **properties: dict) -> dict:
    """The schema of an object that has these fields and no others."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT: dict = {"type": "string", "minLength": 1}
DURATION: dict = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d|w|y))+$"}
TEXTS: dict = {"type": "object", "additionalProperties": TEXT}
ENDPOINT = strict(["port"], port=TEXT, path=TEXT, interval=DURATION, scrapeTimeout=DURATION)
RECORD = strict(["record", "expr"], record=TEXT, expr=TEXT, labels=TEXTS)
ALERT = strict(["alert", "expr"], alert=TEXT, expr=TEXT, labels=TEXTS, annotations=TEXTS)
ALERT["properties"] |= {"for": DURATION, "keep_firing_for": DURATION}
RULE = {"oneOf": [RECORD, ALERT]}
GROUP = strict(["name", "rules"], name=TEXT, interval=DURATION, rules={"type": "array", "items": RULE, "minItems": 1})
OPERATOR = {
    # The part of the operator's definitions that the manifests may use: there is no packaged schema that is strict.
    "ServiceMonitor": strict(
        ["selector", "endpoints"],
        selector=strict(["matchLabels"], matchLabels=TEXTS),
        endpoints={"type": "array", "items": ENDPOINT, "minItems": 1},
    ),
    "PrometheusRule": strict(["groups"], groups={"type": "array", "items": GROUP, "minItems": 1}),
}


def test_the_rules_are_those_of_the_dashboards(prod):
    [rule] = prod.of_kind("PrometheusRule")
    assert rule["spec"]["groups"] == yaml.safe_load(RULES.read_text())["groups"], (
        "python k8s/components/monitoring/generate.py writes them anew"
    )


def test_the_rules_are_written_as_the_generator_writes_them():
    path = ROOT / "k8s" / "components" / "monitoring" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate_prometheusrule", path)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.RULE.read_text() == generate.generated()


def test_each_monitor_finds_one_service_which_gives_the_job_its_name(prod):
    jobs = set()
    for monitor in prod.of_kind("ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        found = [each for each in prod.of_kind("Service") if selector.items() <= each["metadata"]["labels"].items()]
        assert len(found) == 1
        ports = {port["name"] for port in found[0]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
        jobs.add(named(found[0]))
    assert jobs == {"roomcast-edge", "roomcast-nats"}
    asked = set(re.findall(r'job="([^"]+)"', RULES.read_text()))
    assert asked, "the rules ask for jobs"
    assert asked <= jobs


def test_the_kinds_of_the_operator_have_only_fields_that_it_knows(prod):
    import jsonschema

    for kind, schema in OPERATOR.items():
        assert prod.of_kind(kind)
        for each in prod.of_kind(kind):
            assert each["apiVersion"] == "monitoring.coreos.com/v1"
            jsonschema.validate(each["spec"], schema, jsonschema.Draft202012Validator)


def test_the_overlay_to_try_it_needs_no_operator():
    assert not [each for each in overlay("dev").objects if "monitoring.coreos.com" in each["apiVersion"]]
