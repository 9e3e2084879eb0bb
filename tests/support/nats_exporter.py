"""NATS's monitoring under the names of prometheus-nats-exporter (``-varz -jsz=streams``), for tests without its binary.

Of ``/varz`` each number is a gauge ``gnatsd_varz_…``; of ``/jsz`` the figures of servers and streams are
``jetstream_server_…`` and ``jetstream_stream_…``. All values come from real servers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.nats_servers import NatsServer

SERVER = {
    "jetstream_disabled": ("disabled",),
    "max_memory": ("config", "max_memory"),
    "max_storage": ("config", "max_storage"),
    "total_streams": ("streams",),
    "total_consumers": ("consumers",),
    "total_messages": ("messages",),
    "total_message_bytes": ("bytes",),
}
STREAM = {
    "total_messages": "messages",
    "total_bytes": "bytes",
    "first_seq": "first_seq",
    "last_seq": "last_seq",
    "consumer_count": "consumer_count",
}


def exported(server: NatsServer) -> Iterator[str]:
    """The lines of one server; none while it is away."""
    varz, jsz = server.monitor("varz"), server.monitor("jsz?streams=true")
    if not varz or not jsz:
        return
    for key, value in varz.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield _line(f"gnatsd_varz_{key}", {"server_id": server.name}, value)
    meta = jsz.get("meta_cluster") or {}
    labels = {
        "server_id": server.name,
        "server_name": varz["server_name"],
        "cluster": meta.get("name", ""),
        "domain": jsz["config"].get("domain", ""),
        "meta_leader": meta.get("leader", ""),
        "is_meta_leader": str(not meta or meta.get("leader") == varz["server_name"]).lower(),
    }
    for name, path in SERVER.items():
        yield _line(f"jetstream_server_{name}", labels, _at(jsz, path))
    for account in jsz.get("account_details", []):
        for stream in account.get("stream_detail", []):
            leader = (stream.get("cluster") or {}).get("leader", "")
            more = {
                "account": account["name"],
                "account_id": account["id"],
                "stream_name": stream["name"],
                "stream_leader": leader,
                "is_stream_leader": str(leader in ("", varz["server_name"])).lower(),
            }
            for name, key in STREAM.items():
                yield _line(f"jetstream_stream_{name}", {**labels, **more}, stream["state"].get(key, 0))


@contextmanager
def exporter(servers: Sequence[NatsServer]) -> Iterator[int]:
    """Serves ``/metrics`` of these servers; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "".join(line for server in servers for line in exported(server)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A scrape is no news."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield web.server_address[1]
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def _at(body: Any, path: Sequence[str]) -> float:
    for key in path:
        body = body.get(key, 0)
    return float(body)


def _line(name: str, labels: dict[str, str], value: float) -> str:
    listed = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{listed}}} {float(value)}\n"
