"""The ports of ``roomcast up``: each is checked before anything starts."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass

HOST = "127.0.0.1"
QUIET_PORTS = range(10_000, 32_000)
"""Below what the kernel gives to outgoing connections: none of those sits on the port of a server that restarts."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that somebody will listen on, what for, and the option that changes it."""

    number: int
    purpose: str
    option: str


def check_ports(ports: Iterable[Port]) -> None:
    """``ValueError`` names the first port that cannot be had, what it is for, and the option that changes it."""
    seen: dict[int, Port] = {}
    for port in ports:
        if not 1 <= port.number <= 65535:
            raise ValueError(f"there is no port {port.number} for {port.purpose}: choose another with {port.option}")
        other = seen.setdefault(port.number, port)
        if other is not port:
            raise ValueError(
                f"port {port.number} is wanted twice, for {other.purpose} and for {port.purpose}: "
                f"choose another with {other.option} or {port.option}"
            )
        why = _trouble(port.number)
        if why is not None:
            raise ValueError(f"port {port.number} for {port.purpose} {why}: choose another with {port.option}")


def _trouble(number: int) -> str | None:
    for family, host in ((socket.AF_INET, HOST), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "is taken"
            if family == socket.AF_INET:  # a machine without IPv6 is no trouble
                return f"cannot be had ({error.strerror})"
    return None


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. ``OSError`` when there are none."""
    found: list[int] = []
    for number in random.sample(QUIET_PORTS, 200):
        if len(found) < count and _trouble(number) is None:
            found.append(number)
    if len(found) < count:
        raise OSError("no free ports were found")
    return found


def free_row(count: int) -> list[int]:
    """Ports in a row that nobody listens on now. ``OSError`` when there are none."""
    for first in random.sample(QUIET_PORTS, 200):
        row = list(range(first, first + count))
        if all(_trouble(number) is None for number in row):
            return row
    raise OSError(f"no {count} free ports in a row were found")
