"""A program that casts more than the kernel takes and ends without a word: run by ``test_sync_bus.py``."""

import sys

from roomcast import SyncBus

bus = SyncBus.connect(sys.argv[1])
bus.flush()
print("connected", flush=True)
sys.stdin.readline()
for n in range(200):
    bus.blast({"n": n, "text": "x" * 100_000})
print("cast", flush=True)
