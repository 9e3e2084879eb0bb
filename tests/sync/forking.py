"""A program that uses a SyncBus, forks, and uses it on both sides: run by ``test_sync_bus.py``."""

import json
import os
import sys
import threading
import time
import urllib.request

from roomcast import SyncBus, sync

CHILDREN = 3
CASTS = 20
url, prefix, socket_id, monitor = sys.argv[1:]


def connections(name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/connz") as answer:
        return sum(each.get("name") == name for each in json.load(answer)["connections"])


bus = SyncBus.connect(url, prefix=prefix, name=prefix)
bus.join(socket_id, "room")
bus.broadcast("room", "before", [0, 0])


def parent_goes_on(turn: int) -> None:
    """Casts from a thread while the main thread forks."""
    for n in range(CASTS):
        bus.broadcast("room", "parent", [turn, n])


pids = []
go_read, go_write = os.pipe()
for child in range(CHILDREN):
    thread = threading.Thread(target=parent_goes_on, args=(child,))
    thread.start()
    pid = os.fork()
    if pid == 0:
        bus.join(socket_id, f"room-{child}")
        for n in range(CASTS):
            bus.broadcast(f"room-{child}", "child", [child, n])
        assert bus.count(f"room-{child}") == 1
        os.close(go_write)
        os.read(go_read, 1)  # lives on until the parent has closed
        bus.broadcast("room", "last words", [child, 0])
        os._exit(0)  # no flush, no atexit: what was cast is with the kernel
    thread.join()
    pids.append(pid)

sync.PAGE = 1
live = bus.members("room")
assert next(live).id == socket_id
pid = os.fork()
if pid == 0:
    try:
        next(live)
    except RuntimeError as error:
        if "before the process forked" in str(error):
            os.write(1, b"inherited\n")
            os._exit(0)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0

deadline = time.monotonic() + 20
while connections(prefix) != 1 + CHILDREN:
    assert time.monotonic() < deadline, f"{connections(prefix)} connections"
    time.sleep(0.01)
print("children", flush=True)
assert bus.count("room") == 1
print("parent", flush=True)
bus.close()
deadline = time.monotonic() + 3  # less than the server needs to find that nobody answers its pings
while connections(prefix) != CHILDREN:  # the children hold no copy of the parent's
    assert time.monotonic() < deadline, f"{connections(prefix)} connections after the parent has closed"
    time.sleep(0.01)
print("gone", flush=True)
os.close(go_write)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * CHILDREN
with SyncBus.connect(url, prefix=prefix) as another:
    another.blast("end", [0, 0])
