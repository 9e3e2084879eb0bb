"""The admin port: /metrics, /healthz and /readyz, from a thread of its own: it answers when the loop is stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest

from roomcast_edge.metrics import Metrics

STUCK_SECONDS = 60.0
"""Seconds without a turn of the loop after which an edge counts as dead; load alone must not reach it."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """One thing that an edge needs to take clients, and how it is."""

    name: str
    state: str
    ready: bool


class Health:
    """What the loop tells the admin port: its pulse, and how what it depends on is."""

    def __init__(self) -> None:
        self.pulse = time.monotonic()
        self.dependencies: Callable[[], list[Dependency]] = list
        """Called from the admin port's thread."""

    def alive(self) -> tuple[bool, str]:
        """Whether the loop turns, and how late it is."""
        late = time.monotonic() - self.pulse
        alive = late < STUCK_SECONDS
        return alive, "ok" if alive else f"the loop is stuck for {late:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """Whether new clients should come, and a line for each thing that this depends on."""
        alive, loop = self.alive()
        rows = [Dependency("loop", loop, alive), *self.dependencies()]
        ready = all(row.ready for row in rows)
        lines = [f"{'ok  ' if row.ready else 'FAIL'} {row.name}: {row.state}" for row in rows]
        return ready, "\n".join(["ready" if ready else "not ready", *lines])

    def beat(self) -> None:
        """The loop turns."""
        self.pulse = time.monotonic()


class AdminServer:
    """Serves the admin port."""

    def __init__(self, address: tuple[str, int], metrics: Metrics, health: Health) -> None:
        registry = CollectorRegistry()
        registry.register(metrics)
        ProcessCollector(registry=registry)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._send(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                elif path == "/healthz":
                    self._tell(*health.alive())
                elif path == "/readyz":
                    self._tell(*health.ready())
                else:
                    self._send(404, b"/metrics, /healthz and /readyz are here\n")

            def _tell(self, well: bool, text: str) -> None:
                self._send(200 if well else 503, text.encode() + b"\n")

            def _send(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """A scrape is no news."""

        self._server = ThreadingHTTPServer(address, Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="admin", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
