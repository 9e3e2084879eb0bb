"""Fixtures of the conformance tests: the npm package, installed once."""

from __future__ import annotations

import pytest

from support.npm import installed, need_node

pytest.register_assert_rewrite("support.socketio_scenario")


def pytest_runtest_setup(item):
    """What the machine lacks is said once."""
    if "node_modules" in item.fixturenames:
        need_node()


@pytest.fixture(scope="session")
def node_modules():
    """The installed ``node_modules``."""
    return installed()
