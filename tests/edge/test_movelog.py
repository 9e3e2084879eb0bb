"""The log of moves by source: replaying by its index equals the naive replay of all moves in their order."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from roomcast.membership import Change
from roomcast_edge.movelog import MoveLog
from roomcast_edge.records import Move, Record

OWN = "e0000000.AAAAAAAAAAAAAAAA"
ROOMS = ["a", "b", "c", "d", "e"]
KEPT = 6

sources = st.sampled_from([*ROOMS, OWN])
rooms = st.lists(st.sampled_from(ROOMS), unique=True, max_size=3)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Any change of a move."""
    join = draw(rooms)
    leave = [room for room in draw(rooms) if room not in join]
    return Change(tuple(join), tuple(leave), draw(st.sampled_from([False, False, False, True])))


def naive(record: Record, moves: list[Move], head: int) -> Record:
    """A copy of the record after all moves up to the head, one by one."""
    expected = copy.deepcopy(record)
    expected.replay(OWN, [move for move in moves if move.sequence <= head])
    expected.applied = max(expected.applied, head)
    return expected


class LogAgainstAllMoves(RuleBasedStateMachine):
    """The model: every move that there ever was."""

    @initialize(before=st.lists(st.tuples(sources, changes(), st.integers(1, 3)), max_size=10))
    def start(self, before: list[tuple[str, Change, int]]) -> None:
        """Some moves are older than what this edge has read."""
        self.sequence = 0
        self.moves: list[Move] = []
        for source, change, step in before:
            self.make(source, change, step)
        self.log = MoveLog(self.sequence, KEPT)

    def make(self, source: str, change: Change, step: int) -> Move:
        """A move; other keys of the stream lie between it and the one before."""
        self.sequence += step
        move = Move(f"m{self.sequence}", source, change, self.sequence)
        self.moves.append(move)
        return move

    @rule(source=sources, change=changes(), step=st.integers(1, 3))
    def append(self, source: str, change: Change, step: int) -> None:
        self.log.append(self.make(source, change, step))

    @rule(back=st.integers(0, 12))
    def reach_back(self, back: int) -> None:
        """As the follower does for a record that is older than the log."""
        since = max(0, self.log.since - back)
        older = [move for move in self.moves if since < move.sequence <= self.log.since]
        self.log.prepend(older, since)

    @rule(data=st.data(), rooms=st.sets(st.sampled_from(ROOMS)), lag=st.integers(0, 30), ahead=st.integers(0, 4))
    def replay(self, data: st.DataObject, rooms: set[str], lag: int, ahead: int) -> None:
        applied = max(self.log.since, self.sequence - lag) + (ahead if lag == 0 else 0)
        head = data.draw(st.integers(min(applied, self.sequence), self.sequence))
        record = Record(None, rooms, applied, "")
        expected = naive(record, self.moves, head)
        self.log.replay(OWN, record, head)
        assert record == expected

    @invariant()
    def it_holds_what_came_after_since(self) -> None:
        if hasattr(self, "log"):
            held = [move for move in self.moves if move.sequence > self.log.since]
            assert len(self.log) == len(held)


LogAgainstAllMoves.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestMoveLog = LogAgainstAllMoves.TestCase


@given(st.sets(st.sampled_from(ROOMS)), st.lists(st.tuples(sources, changes()), max_size=60), st.integers(0, 60))
@settings(max_examples=300)
def test_long_chains_of_moves(rooms: set[str], drawn: list[tuple[str, Change]], applied: int):
    log = MoveLog(0)
    moves = [Move(str(number), source, change, number) for number, (source, change) in enumerate(drawn, 1)]
    for move in moves:
        log.append(move)
    record = Record(None, rooms, applied, "")
    expected = naive(record, moves, len(moves))
    log.replay(OWN, record, len(moves))
    assert record == expected


def test_what_is_too_old_is_forgotten_entirely():
    log = MoveLog(0, kept=10)
    for number in range(1, 1001):
        log.append(Move(str(number), f"source.{number}", Change(join=("a",)), number))
    assert (len(log), log.since) == (10, 990)
    assert len(log._by_source) == 10, "no room is remembered for moves that are gone"
