"""The task in a real worker of two processes, with a real edge and real websockets."""

import subprocess
import sys

import pytest
import tasks


@pytest.fixture
def worker(roomcast_sync_bus, tmp_path, monkeypatch):
    monkeypatch.setenv("CELERY_FOLDER", str(tmp_path))
    folders = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path)}
    monkeypatch.setitem(tasks.app.conf, "broker_transport_options", folders)
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork", "--concurrency", "2"]
    process = subprocess.Popen([*command, "--without-gossip", "--without-mingle", "--without-heartbeat"])
    yield process
    process.terminate()
    assert process.wait(20) == 0


def test_a_task_tells_the_others(worker, roomcast_sync_bus, roomcast_sync_client):
    page, other = roomcast_sync_client(), roomcast_sync_client()
    roomcast_sync_bus.join([page.id, other.id], "order-42")
    for _ in range(4):
        tasks.ship.delay("42", omit=page.id)
    for _ in range(4):
        assert other.heard("orderUpdated", timeout=20) == {"id": "42", "status": "shipped"}
    assert page.caught_up(roomcast_sync_bus) == [], "the page that asked was omitted"
