"""This machine: what it is, which processors the bench uses for what, and how many files may be open."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from roomcast._version import __version__
from roomcast.bench.errors import BenchError

SPARE_FILES = 300
"""Files that a process opens beside its websockets."""
BUSY = 0.5
"""A load average above this part of the processors spoils the figures."""


def facts() -> dict[str, Any]:
    """What a reader of the figures must know."""
    return {
        "cpu": _cpu_model(),
        "cpus": len(cpus()),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "roomcast": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def is_busy() -> bool:
    """Whether others use this machine now."""
    return os.getloadavg()[0] > BUSY * len(cpus())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def cpus() -> list[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(numbers: Sequence[int]) -> None:
    """Keep this process, and those that it starts, on these processors, where the system can; all: no numbers."""
    if numbers and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, numbers)


def check_sockets(sockets: int, allowed: int, processes: int) -> None:
    """:class:`BenchError` when so many processes that share the sockets may not open so many files each."""
    each = -(-sockets // processes) + SPARE_FILES
    if each > allowed:
        raise BenchError(
            f"{sockets} sockets need {each} open files in one process, and {allowed} are allowed here: "
            f"raise the limit (ulimit -Hn), or ask for fewer with --sockets"
        )


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, str, bool]:
    """The family and the address of a host, and whether it is this machine. :class:`BenchError`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise BenchError(f"{host} has no address: {error.strerror}") from error
    name = str(address[0])
    return family, name, ipaddress.ip_address(name.partition("%")[0]).is_loopback
