"""The settings of an edge: one typed object, from flags and ``ROOMCAST_…`` variables of the environment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from roomcast.access import HELP, Access, check_url
from roomcast.envelope import MAX_CAST_BYTES
from roomcast.names import Subjects
from roomcast_edge.tls import server_context


class Address(click.ParamType[tuple[str, int]]):
    """HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """The host and the port; an IPv6 host stands in brackets."""
        if isinstance(value, tuple):
            return value
        host, colon, port = str(value).rpartition(":")
        if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
            self.fail(f"{value!r} is not HOST:PORT, for example 0.0.0.0:8001", param, ctx)
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - ":8001" means every address


class Listed(click.ParamType[tuple[str, ...]]):
    """Comma-separated texts."""

    name = "A,B,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The parts, trimmed, without empty ones."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


ADDRESS = Address()
LISTED = Listed()


def setting(default: Any, text: str, kind: Any = None, env: str = "", secret: bool = False) -> Any:
    """A field of :class:`Settings` with its flag's help. The flag and the variable bear the field's name."""
    metadata = {"help": text, "type": kind, "env": env, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """What an edge can be told. Each field is ``--name`` and ``ROOMCAST_NAME``."""

    nats: tuple[str, ...] = setting(("nats://localhost:4222",), "NATS servers, comma-separated.", LISTED, "NATS_URL")
    prefix: str = setting("bus", "First token of all subjects, and name of the KV bucket.")
    listen: tuple[str, int] = setting(("127.0.0.1", 8001), "Where clients connect.", ADDRESS)
    admin: tuple[str, int] = setting(("127.0.0.1", 9001), "Where /metrics, /healthz and /readyz are.", ADDRESS)
    auth: str = setting(
        "none",
        "Who may connect: everybody, whoever has a signed token, or whom a service on the bus grants it.",
        click.Choice(["none", "jwt", "bus"]),
    )
    jwt_secret: str = setting("", "Secret of tokens that are signed by HS256, 32 bytes at least.", secret=True)
    jwt_keys: str = setting("", "A PEM or JWKS file of public keys for tokens signed by RS256, ES256 or EdDSA.")
    jwt_issuer: str = setting("", "The iss that tokens must have (none: any).")
    jwt_audience: str = setting("", "The aud that tokens must have (none: any).")
    jwt_leeway: float = setting(10.0, "Seconds by which clocks may differ.", click.FloatRange(0, 600))
    origins: tuple[str, ...] = setting(
        (), "Origins that browsers may connect from, such as https://*.example.com; * is any text (none: any).", LISTED
    )
    proxies: int = setting(
        0, "Trusted proxies in front of the edge, whose X-Forwarded-For is believed.", click.IntRange(0, 10)
    )
    connections_per_address: int = setting(
        0, "Connections from one address at most (0: no limit).", click.IntRange(0, 1 << 20)
    )
    client_rooms: tuple[str, ...] = setting((), "Rooms that clients may join by themselves; * is any text.", LISTED)
    kv_replicas: int = setting(
        1, "Replicas of the KV bucket, when this edge makes it: 3 in a cluster.", click.IntRange(1, 5)
    )
    resume_window: float = setting(120.0, "Seconds for which a socket may come back.", click.FloatRange(1, 3600))
    cast_limit: int = setting(MAX_CAST_BYTES, "Bytes of a cast's data at most.", click.IntRange(1, 8 << 20))
    connect_rate: float = setting(
        0.0, "New websockets a second; more are sent away with 503 (0: no limit).", click.FloatRange(0, 1e6)
    )
    message_limit: int = setting(64 * 1024, "Bytes of a client's message at most.", click.IntRange(128, 8 << 20))
    outbox_limit: int = setting(1 << 20, "Bytes that may wait for one socket.", click.IntRange(4096, 1 << 30))
    ping_interval: float = setting(
        25.0, "Seconds of a client's silence before it is pinged.", click.FloatRange(0.1, 3600)
    )
    ping_timeout: float = setting(20.0, "Seconds that a pinged client has to answer.", click.FloatRange(0.1, 3600))
    handshake_limit: int = setting(
        16 * 1024, "Bytes of a client's HTTP request at most.", click.IntRange(1024, 1 << 20)
    )
    handshake_timeout: float = setting(
        10.0, "Seconds that a client has to finish its handshake.", click.FloatRange(0.1, 600)
    )
    close_timeout: float = setting(5.0, "Seconds that a closed client has to go.", click.FloatRange(0.1, 600))
    action_timeout: float = setting(5.0, "Seconds that a service has to answer a client.", click.FloatRange(0.1, 600))
    requests_per_socket: int = setting(
        256, "Requests of one client to services that may wait for their answers.", click.IntRange(1, 1 << 20)
    )
    requests_per_edge: int = setting(
        10_000, "Requests of all clients of this edge that may wait for their answers.", click.IntRange(1, 1 << 20)
    )
    request_rate: float = setting(1000.0, "Requests of one client a second (0: no limit).", click.FloatRange(0, 1e6))
    page: str = setting("", "An HTML file to serve at / of the clients' port.")
    drain_delay: float = setting(
        0.0,
        "Seconds at the end, before the first socket is closed, in which load balancers see that this edge is unready.",
        click.FloatRange(0, 600),
    )
    drain_time: float = setting(
        10.0, "Seconds over which the sockets are closed at the end, in paced batches.", click.FloatRange(0, 3600)
    )
    ready_grace: float = setting(
        30.0, "Seconds for which NATS or the bucket may be away before this edge is unready.", click.FloatRange(0, 3600)
    )
    tls_cert: str = setting("", "A certificate (PEM file, with its chain): clients then connect by wss.")
    tls_key: str = setting("", "The key of that certificate (PEM file).")
    nats_ca: str = setting("", HELP["ca"])
    nats_cert: str = setting("", HELP["cert"])
    nats_key: str = setting("", HELP["key"])
    nats_credentials: str = setting("", HELP["credentials"])
    nats_nkey: str = setting("", HELP["nkey"])
    nats_token: str = setting("", HELP["token"], secret=True)
    log_format: str = setting(
        "text", "Lines to read, or one JSON object for each event.", click.Choice(["text", "json"])
    )
    log_level: str = setting("info", "How much is logged.", click.Choice(["debug", "info", "warning", "error"]))

    def __post_init__(self) -> None:
        Subjects(self.prefix)
        if not self.nats:
            raise ValueError("no NATS server is named: --nats nats://localhost:4222")
        for url in self.nats:
            check_url(url)
        self.access.options()
        if self.tls_cert or self.tls_key:
            server_context(self.tls_cert, self.tls_key)
        for pattern in (*self.client_rooms, *self.origins):
            text_pattern(pattern)
        if self.page and not Path(self.page).is_file():
            raise ValueError(f"--page {self.page}: there is no such file")

    @property
    def access(self) -> Access:
        """What is shown to NATS, and what it must show."""
        return Access(**{field.name: getattr(self, f"nats_{field.name}") for field in fields(Access)})


def text_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern in which ``*`` stands for any text; ``ValueError`` when it is empty."""
    if not pattern:
        raise ValueError("a pattern is not empty; * alone is any text")
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
