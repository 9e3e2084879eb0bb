"""Children that are kept running: started again, given up, ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from roomcast.commands import processes
from roomcast.commands.processes import Child, Family, GaveUp
from support.until import until


async def forever() -> None:
    """Work that is done at once: the children go on."""


def python(name: str, code: str, said: list[str]) -> Child:
    return Child(name, [sys.executable, "-c", code], said.append)


async def test_output_passes_through_with_a_prefix() -> None:
    said: list[str] = []
    child = python("talker", "import sys; print('a\\nb'); print('x' * 200000); sys.stdout.write('end')", said)
    running = asyncio.create_task(child.keep_running())
    await until(lambda: "talker    | end" in said, 10)
    child.tell_to_stop()
    await running
    assert said[:4] == ["talker    | a", "talker    | b", "talker    | " + "x" * 200000, "talker    | end"]


async def test_a_child_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RESTART_PAUSE", 0.01)
    said: list[str] = []
    child = python("one", "import os, time; print(os.getpid()); time.sleep(100)", said)
    running = asyncio.create_task(child.keep_running())
    await until(lambda: len(said) == 1, 10)
    os.kill(int(said[0].split()[-1]), signal.SIGKILL)
    await until(lambda: len(said) == 3, 10)
    assert said[1] == "one was killed by SIGKILL; it is started again in 0.01 s"
    child.tell_to_stop()
    await running
    assert len(said) == 3


async def test_a_child_that_keeps_dying_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RESTART_PAUSE", 0.01)
    said: list[str] = []
    family = Family()
    family.start([python("good", "import time; time.sleep(100)", said)])
    family.start([python("bad", "print('no luck'); raise SystemExit(3)", said)])
    with pytest.raises(GaveUp) as raised:
        await family.run(forever())
    assert str(raised.value) == "bad ended with exit code 3, 3 times in a row; its last words:\n  no luck"


async def test_groups_end_in_the_reverse_order_and_the_stubborn_are_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "STOP_WAIT", 0.3)
    said: list[str] = []
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(100)"
    polite = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('ends')))\n"
        "print('up')\n"
        "time.sleep(100)"
    )
    family = Family()
    family.start([python("first", polite, said)])
    family.start([python("deaf", deaf, said), python("second", polite, said)])

    async def end() -> None:
        await until(lambda: len(said) == 3, 10)
        family.end()

    await family.run(end())
    assert said[3:] == ["second    | ends", "first     | ends"]


async def test_what_ends_before_the_work_is_done_cancels_the_work() -> None:
    family = Family()
    family.end()
    with contextlib.suppress(asyncio.CancelledError):
        await family.run(asyncio.sleep(100))
