"""The examples' own tests, run as their users run them: in a directory of their own, with what is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["fastapi-orders", "django-orders", "celery-orders"])
def test_an_examples_own_tests_pass(name, tmp_path):
    home = shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "NATS_"))}
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(home), "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout
