"""Debian's HAProxy as the load balancer in front of edges: it goes by their /readyz."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from support.nats_servers import Port
from support.npm import missing


def need_haproxy() -> None:
    """Skip where there is no HAProxy; where CI runs, that is a failure."""
    if shutil.which("haproxy") is None:
        missing("HAProxy is not installed: nothing is tested behind a real load balancer")


class HaProxy:
    """Balances ``port`` over the edges at these pairs of a clients' and an admin port. It runs while it is entered."""

    def __init__(self, backends: list[tuple[int, int]]) -> None:
        self._mark = Port()
        self.port = self._mark.number
        self._directory = Path(tempfile.mkdtemp(prefix="roomcast-haproxy-"))
        servers = "\n".join(
            f"  server s{i} 127.0.0.1:{port} check port {admin} inter 200ms fastinter 100ms fall 1 rise 1"
            for i, (port, admin) in enumerate(backends)
        )
        (self._directory / "haproxy.cfg").write_text(
            "global\n  maxconn 8000\n  nbthread 1\n"
            "defaults\n  mode http\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n"
            "  timeout tunnel 1h\n  retries 5\n  option redispatch 1\n"
            f"frontend clients\n  bind 127.0.0.1:{self.port}\n  default_backend edges\n"
            "backend edges\n  balance leastconn\n  option httpchk GET /readyz\n"
            f"  http-check expect status 200\n{servers}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(self._directory / "haproxy.cfg")], stdout=log, stderr=log
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None, "entered"
        self._process.kill()
        self._process.wait()
        self._mark.release()
        shutil.rmtree(self._directory, ignore_errors=True)
