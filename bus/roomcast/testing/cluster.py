"""A whole Roomcast for tests: ``roomcast up`` on free ports, for as long as a block runs."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from roomcast.bus import Bus
from roomcast.commands.ports import HOST, free_row
from roomcast.connecting import Connecting
from roomcast.sync import SyncBus

UP_WITHIN = 90.0
DOWN_WITHIN = 20.0
ATTEMPTS = 5
"""How often other ports are tried when a program took one of the free ports in between."""


class Cluster:
    """NATS (one server, or a cluster of three) and edges, as processes of this machine. Enter it to start them.

    ``settings`` are those of the edges: ``client_rooms="chat-*"``, ``auth="bus"`` and so on.
    """

    def __init__(self, *, edges: int = 1, nodes: int = 1, **settings: object) -> None:
        self._edges, self._nodes = edges, nodes
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self.nats_url = ""
        """The URLs of NATS, comma-separated, as ``NATS_URL`` has it."""
        self.edge_urls: list[str] = []
        """Where clients of the dialect ``json`` connect: ``ws://127.0.0.1:…/ws``."""
        self.admin_urls: list[str] = []
        """The edges' admin ports: ``http://127.0.0.1:…``."""

    @property
    def prefix(self) -> str:
        """The prefix of all subjects."""
        return str(self._settings.get("prefix", "bus"))

    @property
    def log(self) -> str:
        """All that NATS and the edges have printed."""
        return self._log.read_text(errors="replace") if self._directory is not None else ""

    def bus(self, **options: Any) -> Connecting:
        """As ``Bus.connect``, to this cluster."""
        return Bus.connect(self.nats_url, **{"prefix": self.prefix, **options})

    def sync_bus(self, **options: Any) -> SyncBus:
        """As ``SyncBus.connect``, to this cluster."""
        return SyncBus.connect(self.nats_url, **{"prefix": self.prefix, **options})

    # -- its life ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        missing = [name for name in ("roomcast_edge", "websockets") if importlib.util.find_spec(name) is None]
        if missing:
            raise RuntimeError(f"{' and '.join(missing)} cannot be imported: pip install 'roomcast[testing]'")
        self._directory = tempfile.TemporaryDirectory(prefix="roomcast-testing-")
        try:
            for attempt in range(ATTEMPTS):
                self._start()
                if self._is_up():
                    return self
                if not re.search(r"port \d+ for .* is taken", self.log) or attempt == ATTEMPTS - 1:
                    raise RuntimeError(f"the test cluster did not start:\n{self.log}")
            raise AssertionError("the last attempt returns or raises")
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(DOWN_WITHIN)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    @property
    def _log(self) -> Path:
        assert self._directory is not None, "entered"
        return Path(self._directory.name) / "log"

    def _start(self) -> None:
        row = free_row(self._nodes + 2 * self._edges)
        nats, ports, admins = row[: self._nodes], row[self._nodes : -self._edges], row[-self._edges :]
        self.nats_url = ",".join(f"nats://{HOST}:{port}" for port in nats)
        self.edge_urls = [f"ws://{HOST}:{port}/ws" for port in ports]
        self.admin_urls = [f"http://{HOST}:{port}" for port in admins]
        numbers = {"edges": self._edges, "nodes": self._nodes, "nats-port": nats[0], "port": ports[0]}
        options = [f"--{name}={number}" for name, number in {**numbers, "admin-port": admins[0]}.items()]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("ROOMCAST_", "NATS_"))}
        environment |= {f"ROOMCAST_{name.upper()}": str(value) for name, value in self._settings.items()}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "roomcast", "up", "--no-demo", *options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # a Ctrl-C is for the tests; they end it
            )

    def _is_up(self) -> bool:
        assert self._process is not None, "started"
        deadline = time.monotonic() + UP_WITHIN
        while "Roomcast is up" not in self.log:
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True
