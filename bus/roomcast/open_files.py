"""The limit of open files: a socket is one, and many systems begin with 1,024 although they allow far more."""

from __future__ import annotations

import resource


def raise_file_limit() -> int:
    """Let this process, and those that it starts, open as many files as it may; returns how many these are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
