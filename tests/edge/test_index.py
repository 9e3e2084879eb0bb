"""The membership index against a naive model of sets, over random operations."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roomcast.membership import Change
from roomcast_edge.index import Delta, Index

IDS = [f"e0000000.{number:016d}" for number in range(5)]
ROOMS = ["a", "b", "c.d", "ü", IDS[0], IDS[1]]

ids = st.sampled_from(IDS)
rooms = st.lists(st.sampled_from(ROOMS), unique=True, max_size=4)


class Member:
    """A socket, as far as the index knows it."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.rooms: set[str] = set()


class IndexAgainstSets(RuleBasedStateMachine):
    """The model: the rooms of each socket that is in."""

    def __init__(self) -> None:
        super().__init__()
        self.index: Index[Member] = Index()
        self.members: dict[str, Member] = {}
        self.model: dict[str, set[str]] = {}

    def everyone_in(self, room: str) -> set[str]:
        return {name for name, rooms in self.model.items() if room in rooms}

    def expect(self, name: str, after: set[str], delta: Delta) -> None:
        """Make the model's change, and compare what the index said of it."""
        before = self.model.get(name, set())
        held = {room: self.everyone_in(room) for room in ROOMS}
        self.model[name] = after
        joined, left = after - before, before - after
        assert (set(delta.joined), set(delta.left)) == (joined, left)
        assert set(delta.opened) == {room for room in joined if not held[room]}
        assert set(delta.closed) == {room for room in left if held[room] == {name}}
        for rows in (delta.joined, delta.left, delta.opened, delta.closed):
            assert len(rows) == len(set(rows)), "nothing is told twice"
        assert bool(delta) == bool(joined or left)

    @rule(name=ids, rooms=rooms)
    def insert(self, name: str, rooms: list[str]) -> None:
        member = Member(name)
        if name in self.model:
            with pytest.raises(KeyError):
                self.index.insert(member, rooms)
            return
        self.members[name] = member
        self.expect(name, set(rooms) - {name}, self.index.insert(member, rooms))

    @rule(name=ids)
    def remove(self, name: str) -> None:
        if name not in self.model:
            with pytest.raises(KeyError):
                self.index.remove(Member(name))
            return
        with pytest.raises(KeyError):
            self.index.remove(Member(name))  # another socket of the same id is not the one that is in
        self.expect(name, set(), self.index.remove(self.members[name]))
        del self.model[name], self.members[name]

    @rule(name=ids, join=rooms, leave=rooms, leave_all=st.booleans())
    def change(self, name: str, join: list[str], leave: list[str], leave_all: bool) -> None:
        if name not in self.model:
            return
        leave = [room for room in leave if room not in join]
        change = Change(tuple(join), tuple(leave), leave_all)
        kept = set() if leave_all else self.model[name] - set(leave)
        self.expect(name, (kept | set(join)) - {name}, self.index.change(self.members[name], change))

    @invariant()
    def both_say_the_same(self) -> None:
        assert {name: socket.rooms for name, socket in self.index.sockets.items()} == self.model
        assert self.index.sockets == self.members
        for room in ROOMS:
            own = {room} & self.model.keys()
            members = self.index.members(room)
            assert {member.id for member in members} == self.everyone_in(room) | own
            assert len(members) == len(self.everyone_in(room) | own)
        assert all(self.index.rooms.values()), "a room without members is forgotten"


IndexAgainstSets.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestIndex = IndexAgainstSets.TestCase
