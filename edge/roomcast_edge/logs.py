"""Logging of an edge: one line an event, and few lines where a client or a publisher could cause many."""

from __future__ import annotations

import logging
import time

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


def configure(level: str) -> None:
    """Readable lines on standard error."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(message)s", force=True)
