"""A service of plain functions that runs until SIGTERM: run by ``test_sync_bus.py``."""

import os
import signal
import sys
import time

from roomcast import Request, SyncBus

url, prefix = sys.argv[1:]
bus = SyncBus.connect(url, prefix=prefix, name="work")


@bus.action("work")
def work(req: Request) -> str:
    if req.data["signal"]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)  # the work: longer than the signal takes
    return "done"


print("ready", flush=True)
bus.serve()
