"""Logging of an edge: one line an event, and few lines where a client or a publisher could cause many."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

import orjson

EVERY_SECONDS = 3.0
KEPT_KINDS = 1000


class Sampled:
    """Lines that may come in floods: the first of a kind at once, then one every few seconds with a count."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._kinds: dict[str, tuple[float, int]] = {}

    def warning(self, kind: str, detail: str) -> None:
        """Log this, unless the kind was logged just now; then count it for the next line."""
        now = time.monotonic()
        last, missed = self._kinds.get(kind, (-EVERY_SECONDS, 0))
        if now - last < EVERY_SECONDS:
            self._kinds[kind] = (last, missed + 1)
            return
        if len(self._kinds) >= KEPT_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (now, 0)
        more = f" (and {missed} more like it)" if missed else ""
        self._log.warning("%s%s%s", kind, f": {detail}" if detail else "", more)


class Lines(logging.Formatter):
    """Readable lines. What a stranger says cannot begin one of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without its traceback, which only a fault of our own has."""
        record.message = "".join(
            [char if char.isprintable() else char.encode("unicode_escape").decode() for char in record.message]
        )
        return super().formatMessage(record)


class JsonLines(logging.Formatter):
    """One JSON object an event: ``time`` (RFC 3339, UTC), ``level``, ``edge``, ``message``, perhaps ``exception``."""

    def __init__(self, edge: str) -> None:
        super().__init__()
        self._edge = edge

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        body: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "edge": self._edge,
            "message": record.getMessage(),
        }
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(body, default=str).decode()


def configure(level: str, form: str = "text", edge: str = "") -> None:
    """Lines of this form (``text`` or ``json``) on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(edge) if form == "json" else Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
