"""The table of close codes: who comes back, and which ends are the end of the session too."""

from __future__ import annotations

import pytest

from roomcast_edge.closing import CloseCode

COME_BACK = {1012, 1013, 4000}
STAY_AWAY = {1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 4500, 4501, 4502, 4503}
GOES_ON = {1001, 1006, 4503}
"""The connection ends alone: its client may be back, or went on elsewhere."""


def test_the_table_is_whole():
    assert {int(code) for code in CloseCode} == COME_BACK | STAY_AWAY
    assert {int(code) for code in CloseCode if code.come_back} == COME_BACK


@pytest.mark.parametrize("code", list(CloseCode))
def test_who_may_come_back_keeps_the_session(code: CloseCode):
    assert code.ends_session == (code in STAY_AWAY - GOES_ON)
