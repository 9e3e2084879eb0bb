"""A real Prometheus for tests: scrapes what it is told, with the project's rules, as fast as a test needs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from support.nats_servers import Port
from support.npm import missing
from support.until import until

HOME = Path(__file__).parent.parent.parent / "dashboards" / "prometheus"
SCRAPE = "500ms"
HELD = "2s"
"""What every alert's ``for`` is cut down to."""


def need_prometheus() -> None:
    """Skip where Prometheus is not installed; where CI runs, that is a failure."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        missing("Prometheus is not installed (Debian's package): dashboards and alerts are not tried")


def rules() -> list[dict[str, Any]]:
    """All rules of the project: those that record, then those that alert."""
    groups = yaml.safe_load((HOME / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


class Prometheus:
    """What a running Prometheus is asked."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """What an expression gives now: series with ``metric`` and a ``value`` that is a number."""
        answer = await self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        assert answer["data"]["resultType"] == "vector", f"{expr} is no vector"
        return [row for row in answer["data"]["result"] if not math.isnan(float(row["value"][1]))]

    async def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire now, by name and instance."""
        answer = await self._get("/api/v1/alerts")
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for alert in answer["data"]["alerts"]
            if alert["state"] == "firing"
        }

    async def rule_errors(self) -> list[str]:
        """What went wrong with rules at their last evaluation."""
        answer = await self._get("/api/v1/rules")
        groups = answer["data"]["groups"]
        return [f"{rule['name']}: {rule['lastError']}" for g in groups for rule in g["rules"] if rule.get("lastError")]

    async def is_ready(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(OSError, ValueError):  # not yet there; there, and not yet ready
            return (await self._get("/api/v1/status/buildinfo"))["status"] == "success"
        return False

    async def _get(self, path: str) -> dict[str, Any]:
        def fetch() -> dict[str, Any]:
            try:
                with urllib.request.urlopen(self._base + path, timeout=10) as response:
                    return dict(json.load(response))
            except urllib.error.HTTPError as error:
                return dict(json.load(error))

        return await asyncio.to_thread(fetch)


@asynccontextmanager
async def prometheus(targets: Mapping[str, list[str]]) -> AsyncIterator[Prometheus]:
    """Prometheus with the project's configuration and rules, but these targets by job, and hastier."""
    config = yaml.safe_load((HOME / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    for scrape in config["scrape_configs"]:
        scrape["static_configs"] = [{"targets": targets[scrape["job_name"]]}]
    hasty = yaml.safe_load((HOME / "rules.yaml").read_text())
    for group in hasty["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = HELD
    port = Port()
    with tempfile.TemporaryDirectory(prefix="roomcast-prometheus-") as directory:
        home = Path(directory)
        (home / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (home / "rules.yaml").write_text(yaml.safe_dump(hasty))
        with (home / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                "prometheus",
                f"--config.file={home / 'prometheus.yaml'}",
                f"--storage.tsdb.path={home / 'data'}",
                f"--web.listen-address=127.0.0.1:{port.number}",
                stdout=log,
                stderr=log,
            )
        try:
            server = Prometheus(port.number)
            await until(server.is_ready, 30, f"Prometheus answers; its log: {(home / 'log').read_text()[-2000:]}")
            yield server
        finally:
            process.terminate()
            await process.wait()
            port.release()
