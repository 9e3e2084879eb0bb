"""``roomcast edge`` whose loop can be stuck: SIGUSR1 blocks it for ``STUCK_FOR`` seconds, and that counts sooner.

Started as ``python stuck_edge.py …`` with the arguments of ``roomcast``; the environment has ``STUCK_FOR`` and
``STUCK_AFTER``, the seconds without a turn of the loop after which it counts as dead.
"""

from __future__ import annotations

import os
import signal
import time

from roomcast.commands import main
from roomcast_edge import admin

admin.STUCK_SECONDS = float(os.environ["STUCK_AFTER"])
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(float(os.environ["STUCK_FOR"])))
main(prog_name="roomcast")
