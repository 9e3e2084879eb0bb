"""What the doctor finds: a line for each check, and what to do where it is not well. Pure code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    level: Level
    text: str
    advice: str = ""
    """What to do; empty where all is well."""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, text)


def warn(check: str, text: str, advice: str) -> Finding:
    """It works, but not for long, or not as well as it could."""
    return Finding(check, Level.WARN, text, advice)


def fail(check: str, text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, Level.FAIL, text, advice)


def skip(check: str, text: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, Level.SKIP, text)
