"""``roomcast bench``: a run from its start to its table and its file, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands.system import ENV, roomcast
from support.edges import StartEdge
from support.nats_servers import NatsServer
from support.until import until

SOCKETS = 200
SCENARIOS = {
    *("memory", "limit", "fanout-1", "fanout-10", "fanout-50", "slow", "small-rooms"),
    *("connect", "resume", "requests", "moves"),
}


def value(report: dict[str, Any], scenario: str, figure: str) -> float:
    return float(report["scenarios"][scenario]["figures"][figure]["value"])


async def test_a_quick_run_gives_a_table_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    ran = await roomcast("bench", "--quick", "--sockets", str(SOCKETS), "--json", str(file))
    assert ran.code == 0, ran
    report = json.loads(file.read_text())
    assert set(report["scenarios"]) == SCENARIOS
    for name, scenario in report["scenarios"].items():
        assert scenario["trouble"] is None
        assert f"\n{name}: {scenario['text']}\n" in ran.out
        for key, figure in scenario["figures"].items():
            assert set(figure) == {"text", "value", "unit"}
            assert figure["value"] >= 0, (name, key)
            if key in ("lost", "gaps", "duplicates", "closed", "not_opened", "not_back", "new", "not_in_room"):
                assert figure["value"] == 0, (name, key)
    for burst in (1, 10, 50):
        name = f"fanout-{burst}"
        assert value(report, name, "deliveries_per_cpu_second") > 1000
        assert value(report, name, "latency_p50_ms") <= value(report, name, "latency_p99_ms")
        assert 0 < value(report, name, "latency_p99_ms") <= value(report, name, "latency_max_ms")
        assert value(report, name, "latency_max_ms") <= value(report, name, "last_max_ms")
    assert value(report, "fanout-50", "times_the_limit") > value(report, "fanout-1", "times_the_limit")
    assert value(report, "slow", "closed_as_slow") <= value(report, "slow", "stalled") == SOCKETS // 20
    assert value(report, "requests", "requests_per_cpu_second") > 1000
    assert value(report, "resume", "resumes_per_cpu_second") > 100
    machine = report["machine"]
    assert machine["cpus"] >= 1
    assert all(machine[key] for key in ("cpu", "python", "roomcast", "date", "system"))
    assert report["settings"]["sockets"] == SOCKETS


async def test_a_running_system_whose_clients_may_not_join(
    nats: NatsServer, start_edge: StartEdge, prefix: str, tmp_path: Path
) -> None:
    """Two edges that grant nothing: joins are made through the SDK, and what needs clients' own says what to grant."""
    file = tmp_path / "bench.json"
    where = ["--nats", nats.url, "--prefix", prefix]
    for _ in range(2):
        edge = await start_edge(nats.urls)
        where += ["--edge", edge.url, "--admin", f"http://127.0.0.1:{edge.admin_port}"]
    words = ["--quick", "--sockets", "60", "--only", "fanout-10,moves,connect,resume", "--json", str(file)]
    ran = await roomcast("bench", *where, *words)
    assert ran.code == 1, ran
    report = json.loads(file.read_text())
    assert value(report, "fanout-10", "deliveries_per_cpu_second") > 1000
    for scenario in ("fanout-10", "moves"):
        assert all(value(report, scenario, figure) == 0 for figure in ("lost", "duplicates", "closed"))
    assert report["settings"]["edges"] == 2
    assert report["settings"]["embedded"] is False
    assert "ROOMCAST_CLIENT_ROOMS=bench-*" in report["scenarios"]["connect"]["trouble"]
    assert "only to its own" in report["scenarios"]["resume"]["trouble"]


async def test_a_whole_run_on_a_running_system_leaves_out_what_kills_an_edge(
    nats: NatsServer, start_edge: StartEdge, prefix: str
) -> None:
    edge = await start_edge(nats.urls, client_rooms="bench-*")
    where = [
        "--nats",
        nats.url,
        "--prefix",
        prefix,
        "--edge",
        edge.url,
        "--admin",
        f"http://127.0.0.1:{edge.admin_port}",
    ]
    ran = await roomcast("bench", *where, "--quick", "--sockets", "20", "--seconds", "0.5")
    assert ran.code == 0, ran
    assert {line.partition(":")[0] for line in ran.out.splitlines() if re.match("[a-z0-9-]+: ", line)} == SCENARIOS - {
        "resume"
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "everything"], "there is no scenario 'everything'"),
        (["--nats", "nats://127.0.0.1:4222"], "needs --nats, --edge and --admin"),
        (["--sockets", "5"], "5 is not in the range"),
        (["--json", "/nowhere/at/all.json"], "No such file"),
    ],
)
async def test_what_makes_no_sense_is_refused(words: list[str], says: str) -> None:
    ran = await roomcast("bench", *words)
    assert ran.code != 0
    assert says in ran.err


async def test_another_machine_is_left_alone() -> None:
    """An address that is not this machine's is refused, before anything is sent to it."""
    where = ["--edge", "ws://192.0.2.1:8001/ws", "--admin", "http://192.0.2.1:9001", "--nats", "nats://192.0.2.1:4222"]
    ran = await roomcast("bench", *where)
    assert ran.code == 1
    assert "192.0.2.1 is another machine" in ran.err
    assert "--remote" in ran.err


async def test_nothing_listens_there() -> None:
    where = ["--edge", "ws://127.0.0.1:1/ws", "--admin", "http://127.0.0.1:1", "--nats", "nats://127.0.0.1:1"]
    ran = await roomcast("bench", "--quick", "--only", "fanout-1", *where)
    assert ran.code == 1
    assert "not measured: a socket cannot be opened: " in ran.out
    assert "Connection refused" in ran.out


async def test_too_many_sockets_for_the_open_files() -> None:
    ran = await roomcast("bench", "--only", "connect", "--sockets", "200000")
    assert ran.code == 1
    assert "200000 sockets need 200300 open files" in ran.out
    assert "--sockets" in ran.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_ends_what_it_started(number: signal.Signals) -> None:
    """A run that is interrupted leaves no process behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "roomcast", "bench", "--only", "fanout-1", "--sockets", "50", "--seconds", "60"],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children: set[int] = set()

    def started() -> bool:
        children.update(children_of(process.pid))
        return len(children_of(process.pid)) >= 3  # NATS, the edge, the load

    try:
        await until(started, 60.0, "NATS, the edge and the load run")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        for pid in [process.pid, *children] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "Traceback" not in out + err
    await until(lambda: not any(is_alive(pid) for pid in children), 10.0, "all that it started is gone")


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
