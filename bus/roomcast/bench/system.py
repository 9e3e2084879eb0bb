"""What is measured: where NATS, the edges and their admin ports are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from roomcast.bench.connection import Target
from roomcast.bench.errors import BenchError
from roomcast.bench.machine import cpus, resolve


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge of the bench's own."""

    target: Target
    admin: str
    kill: Callable[[], None]
    """``kill -9``; returns when it is gone."""


@dataclass(frozen=True, slots=True)
class System:
    """Where everything is. Edge ``i`` has admin port ``i``."""

    nats: str
    prefix: str
    targets: list[Target]
    admins: list[str]
    start_edge: Callable[[], AbstractContextManager[Edge]] | None = None
    """Starts one more edge, where the system is of the bench's own; it is ended with its context."""
    edge_cpus: list[int] = field(default_factory=list)
    """Processors that only the edge uses; empty: nobody is kept from any."""
    load_cpus: list[int] = field(default_factory=list)

    @property
    def embedded(self) -> bool:
        """Whether the system is of the bench's own."""
        return self.start_edge is not None


def running(nats: str, prefix: str, edges: Sequence[str], admins: Sequence[str], remote: bool) -> System:
    """A system that runs already. :class:`BenchError` says which address is bad."""
    if len(edges) != len(admins):
        raise BenchError("each --edge needs its --admin: the edge's own CPU time and memory are read there")
    targets = []
    for edge in edges:
        parts = urlsplit(edge)
        if parts.scheme != "ws" or not parts.hostname:
            raise BenchError(f"--edge {edge}: give an edge's own address, as ws://127.0.0.1:8001/ws (no wss)")
        port = parts.port or 80
        family, address, local = resolve(parts.hostname, port)
        _check_local(parts.hostname, local, remote)
        targets.append(Target(address, port, parts.path or "/ws", family, local))
    for admin in admins:
        parts = urlsplit(admin)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchError(f"--admin {admin}: give an edge's admin port, as http://127.0.0.1:9001")
        _check_local(parts.hostname, resolve(parts.hostname, parts.port or 80)[2], remote)
    for url in nats.split(","):
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        if not parts.hostname:
            raise BenchError(f"--nats {url}: give a server, as nats://127.0.0.1:4222")
        _check_local(parts.hostname, resolve(parts.hostname, parts.port or 4222)[2], remote)
    return System(nats, prefix, targets, list(admins), load_cpus=cpus())


def _check_local(host: str, local: bool, remote: bool) -> None:
    if not local and not remote:
        raise BenchError(f"{host} is another machine, which the bench would put under load: --remote if you mean it")
