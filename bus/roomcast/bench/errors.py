"""What keeps a figure from being measured, in one line for the person who runs the bench."""

from __future__ import annotations


class BenchError(Exception):
    """Something is not as the bench needs it; the text says what, and what to do."""
