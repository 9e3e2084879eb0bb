"""Fixtures of the tests in a browser."""

from __future__ import annotations

import pytest

from support.browser import Browser, need_browser
from support.npm import installed, need_node


def pytest_runtest_setup(item):
    """What the machine lacks is said once."""
    if "browser" in item.fixturenames:
        need_browser()
    if "node_modules" in item.fixturenames:
        need_node()


@pytest.fixture
async def browser():
    """A headless Chromium of the test's own."""
    async with Browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def node_modules():
    """The installed ``node_modules`` of the conformance tests."""
    return installed()
