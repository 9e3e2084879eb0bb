"""NATS as the manifests configure it: the very files of an overlay, in processes on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from support.manifests import Overlay, container
from support.nats_servers import NatsServer, Port, nats_server_binary


class ManifestNode(NatsServer):
    """One pod's nats-server. Ports and folders are this machine's; all else is the manifests'.

    ``peers`` are the ports of the nodes' routes, by the nodes' names in the manifests.
    """

    def __init__(self, overlay: Overlay, pod: str, secrets: Mapping[str, str], peers: Mapping[str, int]) -> None:
        super().__init__(name=pod)
        self._peers = peers
        template = overlay.get("StatefulSet", "roomcast-nats")["spec"]["template"]
        self._variables = overlay.environment(container(template, "nats"), secrets, pod)
        self._files = overlay.get("ConfigMap", "nats-config")["data"]

    @property
    def pid_file(self) -> str:
        """Where the server writes its process id."""
        return str(self._directory / "nats.pid")

    @classmethod
    @contextmanager
    def guest(
        cls, overlay: Overlay, secrets: Mapping[str, str], nodes: Sequence[ManifestNode]
    ) -> Iterator[ManifestNode]:
        """A node of its own that tries to join these."""
        port = Port()
        node = cls(overlay, "guest", secrets, {**nodes[0]._peers, "guest": port.number})
        try:
            node.start(wait=False)
            yield node
        finally:
            node.close()
            port.release()

    def start(self, *, wait: bool = True) -> None:
        """Start the process; unless told otherwise, wait until it is fully healthy."""
        for name, text in self._files.items():
            own = text.replace("0.0.0.0:6222", f"127.0.0.1:{self._peers.get(self.name)}")
            (self._directory / name).write_text(own)
        variables = dict(self._variables)
        for pod, port in self._peers.items():
            address = f"{pod}.roomcast-nats-peers:6222"
            variables["NATS_ROUTES"] = variables["NATS_ROUTES"].replace(address, f"127.0.0.1:{port}")
        command = [nats_server_binary(), "-c", str(self._directory / "nats.conf"), "-a", "127.0.0.1"]
        command += ["-p", str(self.port), "-m", str(self.monitor_port), "-P", self.pid_file]
        variables["JETSTREAM_DIR"] = f'"{self._directory / "store"}"'
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **variables})
        if wait:
            self.wait_ready()

    def url_of(self, user: str, password: str) -> str:
        """Where this user connects."""
        return f"nats://{user}:{password}@127.0.0.1:{self.port}"


@contextmanager
def manifest_cluster(overlay: Overlay, secrets: Mapping[str, str]) -> Iterator[list[ManifestNode]]:
    """All nodes of an overlay, started together and healthy."""
    count = overlay.get("StatefulSet", "roomcast-nats")["spec"]["replicas"]
    pods = [f"roomcast-nats-{number}" for number in range(count)]
    with ExitStack() as stack:
        routes = [Port() for _ in pods] if count > 1 else []
        for port in routes:
            stack.callback(port.release)
        peers = {pod: port.number for pod, port in zip(pods, routes, strict=False)}
        nodes = [ManifestNode(overlay, pod, secrets, peers) for pod in pods]
        for node in nodes:
            stack.callback(node.close)
            node.start(wait=False)
        for node in nodes:
            node.wait_ready()
        yield nodes


def user_of(url: str) -> tuple[str, str]:
    """The user and the password in a URL."""
    parts = urlsplit(url)
    return parts.username or "", parts.password or ""
