"""What the tests of dashboards and alerts need beside Python."""

from __future__ import annotations

import pytest

from support.prometheus import need_prometheus


def pytest_runtest_setup(item):
    """What the machine lacks is said once."""
    if "needs_prometheus" in item.fixturenames:
        need_prometheus()


@pytest.fixture
def needs_prometheus() -> None:
    """For tests that run Prometheus or promtool."""
