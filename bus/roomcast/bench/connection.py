"""One websocket of the load, and how it connects."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass

from roomcast.bench.frames import FIRST

PER_SOURCE = 5_000
"""Connections from one source address: a kernel that has given most ports away looks long for a free one."""
CHOOSE_PORT_LATE = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
"""Linux: the port of a source address is chosen when it is known where the connection leads."""
NARROW_WINDOW = 4096
"""Bytes that the kernel takes for a socket that does not read."""
NARROW_SEGMENT = 536
"""Bytes of a packet, as far away: over loopback's large ones a sender's kernel takes megabytes for it."""
LINGER_NONE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an edge takes websockets."""

    host: str
    port: int
    path: str = "/ws"
    family: int = socket.AF_INET
    loopback: bool = True


class Conn:
    """One websocket of the load."""

    __slots__ = ("answers", "fd", "id", "index", "next", "rest", "shaking", "sock", "waits")

    def __init__(self, sock: socket.socket, index: int, waits: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.index = index
        self.id = ""
        self.rest = b""
        # The number that the next cast bears.
        self.next = FIRST
        # 1: connecting; 2: the request is sent; 0: frames.
        self.shaking = 1
        # Frames (the greeting, answers to hellos) until this one is ready.
        self.waits = waits
        self.answers = 0

    def end(self) -> None:
        """Close it, at once."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)  # keeps no port in TIME_WAIT
        self.sock.close()


def connect(target: Target, index: int, narrow: bool) -> tuple[socket.socket, str]:
    """A socket that connects to an edge, and why it does not, or an empty text.

    ``narrow``: its kernel, and the edge's, hold little for it, so that the edge sees soon that it does not read.
    """
    sock = socket.socket(target.family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        if narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_WINDOW)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, NARROW_SEGMENT)
        if target.loopback and target.family == socket.AF_INET:  # every 127.x.y.z is this machine
            if sys.platform == "linux":
                sock.setsockopt(socket.IPPROTO_IP, CHOOSE_PORT_LATE, 1)
            sock.bind((f"127.0.0.{2 + index // PER_SOURCE % 250}", 0))
        failed = sock.connect_ex((target.host, target.port))
    except OSError as error:
        failed = error.errno or errno.EINVAL
    if failed in (0, errno.EINPROGRESS):
        return sock, ""
    return sock, f"connecting to {target.host}:{target.port}: {os.strerror(failed)}"
