"""Fixtures of the conformance tests: the npm package, installed once."""

from __future__ import annotations

import pytest

from support.npm import installed

pytest.register_assert_rewrite("support.socketio_scenario")


@pytest.fixture(scope="session")
def node_modules():
    """The installed ``node_modules``; skips where there is no Node."""
    return installed()
