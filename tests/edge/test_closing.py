"""The table of close codes: who comes back, and which ends are the end of the session too."""

from __future__ import annotations

import pytest

from roomcast_edge.closing import CloseCode, is_deliberate

COME_BACK = {1012, 1013, 4000}
STAY_AWAY = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 4500, 4501, 4502, 4503}


def test_the_table_is_whole():
    assert {int(code) for code in CloseCode} == COME_BACK | STAY_AWAY
    assert {int(code) for code in CloseCode if code.come_back} == COME_BACK


@pytest.mark.parametrize("code", sorted(COME_BACK | STAY_AWAY | {0, 1005, 1006, 3000, 4999, 65535}))
def test_only_a_client_that_says_so_has_left_for_good(code: int):
    assert is_deliberate(code, by_client=True) == (code == 1000)


@pytest.mark.parametrize("code", sorted(COME_BACK | STAY_AWAY))
def test_who_may_come_back_keeps_the_session(code: int):
    # Going away (1001) and a session that goes on elsewhere (4503) end the connection alone.
    assert is_deliberate(code, by_client=False) == (code in STAY_AWAY - {1001, 4503})


def test_a_code_that_is_none_of_ours_ends_no_session():
    assert not is_deliberate(1006, by_client=False)
