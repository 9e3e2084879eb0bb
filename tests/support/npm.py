"""The npm packages of tests and examples: installed once, from the lock file, by whichever worker comes first."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent / "conformance"


def installed(home: Path = HOME) -> Path:
    """``node_modules`` of a directory as its lock file says; :func:`need_node` comes before."""
    modules = home / "node_modules"
    stamp = modules / ".installed"
    wanted = hashlib.sha256((home / "package-lock.json").read_bytes()).hexdigest()
    with (home / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=150)
            assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
            stamp.write_text(wanted)
    return modules


def need_node() -> None:
    """Skip where there is no Node; where CI runs, that is a failure."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("Node and npm are not installed: real clients and services of JavaScript are not tested")


def missing(what: str) -> None:
    """Skip for what this machine lacks; CI lacks nothing, so fail there.

    Called from ``pytest_runtest_setup`` all skips for one reason are one line of pytest's summary.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
