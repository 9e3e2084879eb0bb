"""Fixtures of the tests in a browser."""

from __future__ import annotations

import pytest

from support.browser import Browser


@pytest.fixture
async def browser():
    """A headless Chromium of the test's own; skips where there is none."""
    async with Browser() as browser:
        yield browser
