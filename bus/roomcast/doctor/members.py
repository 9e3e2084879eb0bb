"""Checks of who takes part: edges that answer, their versions and clocks; services, and whether they are in each
other's way."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import orjson

from roomcast import __version__
from roomcast.doctor.bucket import skew
from roomcast.doctor.findings import Finding, Level, fail, ok, skip, warn
from roomcast.doctor.patient import Patient
from roomcast.errors import BusTimeout, BusUnavailable

SERVICE = "roomcast"
"""The name under which edges are a NATS micro service."""


async def check_edges(patient: Patient) -> AsyncIterator[Finding]:
    """Every edge with a lease answers; versions and clocks agree."""
    prefix = patient.subjects.prefix
    asked = {"subjects_filter": f"$KV.{prefix}.edge.>"}
    info = await patient.ask_json(f"$JS.API.STREAM.INFO.{patient.stream}", asked) or {}
    keys = list((info.get("state") or {}).get("subjects") or {})
    leases = [key.rpartition(".")[2] for key in keys if await _has_value(patient, key)]
    if not leases:
        yield fail("edges", "no edge holds a lease", "start one: roomcast edge --nats …")
        return
    versions: dict[str, list[str]] = defaultdict(list)
    answers = await asyncio.gather(*[_hello(patient, edge) for edge in leases])
    for edge, (answer, before, after) in zip(leases, answers, strict=True):
        if answer is None:
            yield fail(
                "edges",
                f"edge {edge} holds a lease and does not answer",
                "it has died (its lease ends within 30 s), or it hangs: see its /healthz and its log",
            )
            continue
        versions[str(answer.get("version", "?"))].append(edge)
        if "time" in answer:
            found = skew(f"edge {edge}", float(answer["time"]), before, after)
            if found.level is not Level.OK:
                yield found
    if versions:
        yield ok("edges", f"{sum(map(len, versions.values()))} of {len(leases)} answer")
    if len(versions) > 1:
        said = "; ".join(f"{version}: {', '.join(edges)}" for version, edges in sorted(versions.items()))
        yield warn("versions", f"edges of different versions run ({said})", "nothing in a deploy; else finish it")
    elif versions and __version__ not in versions:
        yield warn("versions", f"edges are {next(iter(versions))}, this command is {__version__}", "install the same")
    elif versions:
        yield ok("versions", f"all edges are {__version__}, as this command")


async def _has_value(patient: Patient, key: str) -> bool:
    read = await patient.ask_json(f"$JS.API.STREAM.MSG.GET.{patient.stream}", {"last_by_subj": key})
    return bool(((read or {}).get("message") or {}).get("data"))


async def _hello(patient: Patient, edge: str) -> tuple[dict[str, Any] | None, float, float]:
    before = time.time()
    try:
        answer = await patient.ask(patient.subjects.edge(edge), orjson.dumps({"op": "hello"}))
    except (BusTimeout, BusUnavailable):
        answer = None
    return None if answer is None else dict(orjson.loads(answer)), before, time.time()


async def check_services(patient: Patient) -> AsyncIterator[Finding]:
    """No two services take each other's requests; copies of one are of one version."""
    prefix = patient.subjects.prefix
    served: dict[tuple[str, str], set[str]] = defaultdict(set)
    versions: dict[str, set[str]] = defaultdict(set)
    copies = 0
    if patient.expected.role != "operator":
        yield skip("services", f"only operators ask who serves what, not {patient.expected.role}s")
        return
    for told in await patient.ask_all("$SRV.INFO"):
        subjects = [str(each.get("subject")) for each in told.get("endpoints") or ()]
        mine = [
            each for each in subjects if each.startswith((f"{prefix}.action.", f"{prefix}.route.", f"{prefix}.auth"))
        ]
        if told.get("name") == SERVICE or not mine:
            continue
        copies += 1
        versions[str(told["name"])].add(str(told.get("version")))
        for subject in mine:
            served[str(told["name"]), subject].add(str(told.get("id")))
    troubled = False
    for (one, first), (other, second) in itertools.combinations(sorted(served), 2):
        if one != other and overlap(first, second):
            troubled = True
            where = first if first == second else f"{first} and {second}"
            yield fail(
                "services",
                f"{one} and {other} both answer {where}: each gets some of the requests",
                "give each action and route to one service",
            )
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            troubled = True
            yield warn(
                "services",
                f"{name} runs in versions {', '.join(sorted(found))}",
                "nothing in a deploy; else end the old",
            )
    if not troubled:
        yield ok("services", f"{copies} of {len(versions)} names, none in another's way" if copies else "none runs")


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both of two patterns."""
    first, second = one.split("."), other.split(".")
    for i in range(max(len(first), len(second))):
        if (i < len(first) and first[i] == ">") or (i < len(second) and second[i] == ">"):
            return len(first) > i and len(second) > i
        if i >= len(first) or i >= len(second):
            return False
        if "*" not in (first[i], second[i]) and first[i] != second[i]:
            return False
    return True
