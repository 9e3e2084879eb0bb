"""The admin port: /metrics, /healthz and /readyz, from a thread of its own: it answers when the loop is stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest

from roomcast_edge.metrics import Metrics

STUCK_SECONDS = 60.0
"""Seconds without a turn of the loop after which an edge counts as dead; load alone must not reach it."""


class Health:
    """What the loop tells the admin port: its pulse, and why it is not ready."""

    def __init__(self) -> None:
        self.pulse = time.monotonic()
        self.not_ready: Callable[[], str] = lambda: "starting"

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
                    late = time.monotonic() - health.pulse
                    alive = late < STUCK_SECONDS
                    self._send(200 if alive else 503, b"ok\n" if alive else b"the loop is stuck for %d s\n" % late)
                elif path == "/readyz":
                    reason = health.not_ready()
                    self._send(503 if reason else 200, f"{reason or 'ok'}\n".encode())
                else:
                    self._send(404, b"/metrics, /healthz and /readyz are here\n")

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
