"""Fixtures of the tests of the manifests."""

from __future__ import annotations

import pytest

from support.manifests import OVERLAYS, Overlay, need_manifests, overlay


def pytest_runtest_setup(item):
    """What the machine lacks is said once."""
    need_manifests()


@pytest.fixture(params=OVERLAYS)
def each_overlay(request) -> Overlay:
    """Each overlay in turn, rendered."""
    return overlay(request.param)


@pytest.fixture(scope="session")
def prod() -> Overlay:
    """The overlay ``prod``, rendered."""
    return overlay("prod")


@pytest.fixture(scope="session")
def dev() -> Overlay:
    """The overlay ``dev``, rendered."""
    return overlay("dev")
