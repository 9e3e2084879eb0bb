"""The pace of a drain: bounded, whatever the loop does."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from roomcast_edge.drain import LEAST_RATE, TICK, Pace, come_back


@given(
    st.integers(1, 50_000),
    st.floats(0.5, 600),
    st.lists(st.one_of(st.floats(0, 0.2), st.floats(0, 30)), min_size=1, max_size=200),
)
def test_no_second_closes_more_than_its_share(sockets: int, seconds: float, pauses: list[float]):
    pace, now, closed = Pace(sockets, seconds, 0.0), 0.0, [(0.0, 0)]
    for pause in pauses:
        now += pause
        closed.append((now, pace.due(now)))
    for i, (since, _) in enumerate(closed):
        within = sum(count for at, count in closed[i:] if at <= since + 1.0)
        assert within <= pace.rate * (1.0 + 2 * TICK) + 1


@given(st.integers(1, 50_000), st.floats(0, 600))
def test_a_loop_that_keeps_up_is_done_in_time(sockets: int, seconds: float):
    pace, left, tick = Pace(sockets, seconds, 0.0), sockets, 0
    while left > 0:
        left -= pace.due(tick * TICK)
        tick += 1
    took = (tick - 1) * TICK
    assert took <= max(seconds, TICK) + TICK
    assert took <= sockets / LEAST_RATE + TICK, "few sockets need not take the whole time"


def test_the_hint_is_jittered_and_has_its_form():
    hints = {come_back((0.1, 1.0)) for _ in range(200)}
    found = [re.fullmatch(r"the edge goes away; come back in (\d+\.\d) s", hint) for hint in hints]
    seconds = [float(each[1]) for each in found if each]
    assert len(seconds) == len(hints) > 5
    assert min(seconds) >= 0.1
    assert max(seconds) <= 1.0
