"""PyPI's python-socketio, as it is, across two edges."""

from __future__ import annotations

import pytest

from support.socketio_clients import Python
from support.socketio_scenario import Scenario


@pytest.fixture
async def kind():
    async with Python() as python:
        yield python


class TestPythonSocketIo(Scenario):
    """All of the scenario."""

    async def test_a_client_that_returns_no_pid_comes_back_as_a_new_socket(self, stage):
        client = await stage.guest()
        before = client.id
        client.client.pid = ""
        stage.front.cut()
        await client.sees("connect", 2)
        assert client.id != before
        assert await stage.bus.rooms(client.id) == frozenset()
