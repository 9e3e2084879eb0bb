"""Metrics: what is exposed is documented, no label is anybody's to choose, and histograms count right."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import roomcast_edge
from roomcast_edge.metrics import LATENCY_BOUNDS, OTHER, Histogram, Metrics, Tally

DOCS = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
ROW = re.compile(r"^\| `((?:roomcast|process)_\w+)` \| (.*?) \|", re.MULTILINE)
TALLIES = {name: each for name, each in vars(Metrics()).items() if isinstance(each, Tally)}
COUNTED_LATER = {"Refusal": ("invalid", 0), "Answer": ("handshakes", 1), "_later": ("handshakes", 3)}
"""Calls whose argument at this place is counted, and by which tally."""
UNITS = ("_seconds", "_bytes", "_total", "_info")
COUNTED = {
    *("sockets", "connections", "slow_sockets", "rooms", "subscriptions", "records_lagging", "requests_under_way"),
    *("ready", "draining", "nats_connected"),
}
"""What is a plain number of things, or a yes or no."""


def documented() -> dict[str, str]:
    """What the tables of the documentation say, by metric."""
    return dict(ROW.findall(DOCS.read_text()))


def sources() -> Iterator[ast.AST]:
    """Every node of the edge's sources."""
    for path in Path(roomcast_edge.__file__).parent.rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text()))


async def test_every_metric_is_documented_and_nothing_else(nats, start_edge):
    edge = await start_edge(nats.urls)
    _, text = await edge.get("/metrics")
    exposed = {}
    for family in text_string_to_metric_families(text):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        exposed[family.name.removesuffix(suffix) + suffix] = family
    assert set(documented()) == set(exposed)
    dialects = [sample.labels["dialect"] for sample in exposed["roomcast_sockets"].samples]
    assert [each for each in dialects if f"`{each}`" not in documented()["roomcast_sockets"]] == []
    for name, family in exposed.items():
        if name.startswith("roomcast_"):
            assert name.endswith(UNITS) or name.removeprefix("roomcast_") in COUNTED, f"{name} has no unit"
            assert len(family.documentation) > 20, f"{name} does not say how to read it"


@pytest.mark.parametrize("name", TALLIES)
def test_every_value_of_a_label_is_documented(name):
    tally = TALLIES[name]
    text = documented()[f"roomcast_{tally.name}_total"]
    assert f"`{tally.label}`" in text
    if name != "closes":  # whose table is the protocol's
        assert [value for value in tally if f"`{value}`" not in text] == []


def test_a_value_that_nobody_foresaw_is_counted_as_other():
    tally = Tally("things", "Things.", "kind", ("one", "two"))
    tally["one"] += 1
    tally["unheard of"] += 1
    tally["strange"] += 2
    tally["unheard of"] += 1
    [*samples] = tally.family().samples
    assert tally == {"one": 1, "two": 0, OTHER: 4}
    assert {(sample.labels["kind"], sample.value) for sample in samples} == {("one", 1), ("two", 0), (OTHER, 4)}
    for number in range(1000):
        tally[f"stranger {number}"] += 1
    assert len(tally) < 100, "whoever chooses values makes no series, though nobody scrapes"
    tally.fold()
    assert tally == {"one": 1, "two": 0, OTHER: 1004}


def test_whatever_the_edge_counts_by_name_was_foreseen():
    """``metrics.resumes["…"] += 1`` in the sources names a value of that tally, and so does what is counted later."""
    counted = set()
    for node in sources():
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr in TALLIES:
            counted |= {(node.value.attr, each) for each in texts(node.slice)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in COUNTED_LATER:
            tally, place = COUNTED_LATER[node.func.id]
            counted |= {(tally, each) for each in texts(node.args[place])}
    counted.remove(("handshakes", "accepted"))  # which is counted when it is known how it went on
    assert len(counted) > 20, "they are found"
    assert sorted((name, value) for name, value in counted if value not in TALLIES[name]) == []


def texts(node: ast.AST) -> set[str]:
    """The strings that an expression may be."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


@pytest.mark.parametrize("seed", range(20))
def test_many_values_at_once_are_counted_as_one_by_one(seed: int):
    rng = random.Random(seed)
    values = [rng.choice([0.0, *LATENCY_BOUNDS, 11.0, rng.expovariate(100)]) for _ in range(rng.randint(1, 60))]
    at_once, one_by_one = Histogram("a", ""), Histogram("b", "")
    for value in values:
        one_by_one.observe(value)
    at_once.observe_all(list(values))
    assert at_once.counts == one_by_one.counts
    assert at_once.total == pytest.approx(one_by_one.total)
    for bound, count in zip(LATENCY_BOUNDS, at_once.family().samples, strict=False):
        assert count.value == sum(value <= bound for value in values)
