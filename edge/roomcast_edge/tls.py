"""TLS for clients: the certificate of an edge, and a renewed one without a restart."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from roomcast.access import check_file, load_pair

log = logging.getLogger("roomcast.edge")

LOOK_SECONDS = 10.0
"""Seconds between two looks at the files."""


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """The context of a server with this certificate and key (PEM files). ``ValueError`` says what is wrong."""
    if not cert or not key:
        raise ValueError("tls_cert and tls_key belong together: give both or neither")
    check_file("tls_cert", cert)
    check_file("tls_key", key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_pair(context, "tls", cert, key)
    return context


class Certificate:
    """The certificate that new connections get: that of the files, also after they were replaced."""

    def __init__(self, cert: str, key: str) -> None:
        self._files = cert, key
        self.context = server_context(cert, key)
        self._seen = self._stamp()

    async def watch(self) -> None:
        """For ever: take up a renewed certificate; one that cannot be used changes nothing."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Take up what has changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            server_context(*self._files)
            load_pair(self.context, "tls", *self._files)
        except ValueError as error:
            log.error("the old certificate stays in use: %s", error)
        else:
            log.info("new connections get the renewed certificate")

    def _stamp(self) -> list[tuple[int, int]]:
        stamps = []
        for path in map(Path, self._files):
            try:
                told = path.stat()
            except OSError:
                stamps.append((0, 0))
            else:
                stamps.append((told.st_mtime_ns, told.st_ino))
        return stamps
