"""What the edges say about themselves on their admin ports: CPU time, memory, and every ``roomcast_…`` number."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException

from roomcast.bench.errors import BenchError

TIMEOUT = 20.0
_BOUND = re.compile(r'\ble="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """The metrics of all edges, added up, at one moment. Keys have their labels, as they were scraped."""

    values: dict[str, float]

    def total(self, name: str) -> float:
        """The sum of a metric over its labels; 0 where it is missing."""
        return sum(value for key, value in self.values.items() if key == name or key.startswith(name + "{"))

    @property
    def cpu(self) -> float:
        """Seconds of CPU time that the edges have used, user and system."""
        return self.total("process_cpu_seconds_total")

    @property
    def memory(self) -> float:
        """Resident bytes of the edges."""
        return self.total("process_resident_memory_bytes")

    def since(self, before: Sample, name: str) -> float:
        """How much a counter has grown."""
        return self.total(name) - before.total(name)

    def highest_since(self, before: Sample, name: str) -> float:
        """The upper bound of the highest bucket of a histogram that has grown; 0 where none has."""
        found = 0.0
        so_far: dict[float, float] = {}
        for key, value in self.values.items():
            if key.startswith(f"{name}_bucket{{"):
                bound = _BOUND.search(key)
                if bound is not None:
                    so_far[float(bound[1])] = value - before.values.get(key, 0.0)
        below = 0.0
        for limit in sorted(so_far):
            if so_far[limit] > below:
                found = limit
            below = so_far[limit]
        return found


def sample(admins: Sequence[str]) -> Sample:
    """Scrape all edges. :class:`BenchError` says which does not answer."""
    values: dict[str, float] = {}
    for admin in admins:
        url = admin.rstrip("/") + "/metrics"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:  # noqa: S310 - the scheme was checked
                text = response.read().decode()
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "reason", error)
            raise BenchError(f"the edge's metrics are not to be had at {url}: {why}") from error
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            key, _, value = line.rpartition(" ")
            try:
                values[key] = values.get(key, 0.0) + float(value)
            except ValueError:
                raise BenchError(f"{url} does not answer with metrics") from None
    if "process_cpu_seconds_total" not in values:
        raise BenchError(f"no CPU time among the metrics of {', '.join(admins)}: the bench measures edges on Linux")
    return Sample(values)
