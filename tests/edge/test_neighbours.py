"""What an edge thinks of the others: each step of the states, and any sequence of events against a naive reading."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomcast_edge.neighbours import Neighbours, State

SILENT, FORGET = 2.0, 60.0


def make() -> Neighbours:
    """A table in which ``a`` and ``b`` were heard at 0."""
    neighbours = Neighbours(SILENT, FORGET)
    neighbours.heard("a", 0.0)
    neighbours.heard("b", 0.0)
    return neighbours


def test_who_is_silent_is_asked_once_and_judged_by_the_answer():
    neighbours = make()
    assert neighbours.silent(2.0) == []
    neighbours.heard("b", 1.0)
    assert neighbours.silent(2.5) == ["a"]
    assert neighbours.silent(2.6) == [], "the question is under way"
    assert not neighbours.is_suspect("a"), "it may be dead"
    neighbours.judge("a", State.SUSPECT)
    assert neighbours.is_suspect("a")
    assert neighbours.silent(2.9) == []
    neighbours.heard("a", 3.0)
    assert not neighbours.is_suspect("a")
    assert set(neighbours.silent(6.0)) == {"a", "b"}
    neighbours.judge("a", State.DEAD)
    neighbours.judge("b", State.SUSPECT)
    assert (neighbours.is_suspect("a"), neighbours.is_suspect("b")) == (False, True)
    assert neighbours.silent(7.0) == [], "the dead are not asked again and again"


def test_a_verdict_that_comes_late_hurts_nobody():
    neighbours = make()
    assert set(neighbours.silent(3.0)) == {"a", "b"}
    neighbours.heard("a", 3.5)
    neighbours.heard("b", 3.6)
    for edge in ("a", "b", "never-heard"):
        neighbours.judge(edge, State.SUSPECT)
        assert not neighbours.is_suspect(edge)


def test_a_question_that_came_to_nothing_is_asked_again():
    neighbours = make()
    assert set(neighbours.silent(3.0)) == {"a", "b"}
    neighbours.judge("a", State.HEARD)
    neighbours.judge("b", State.SUSPECT)
    assert neighbours.silent(3.1) == ["a"]
    assert not neighbours.is_suspect("a")


def test_who_has_been_silent_for_longer_than_a_lease_is_forgotten():
    neighbours = make()
    neighbours.silent(3.0)
    neighbours.judge("a", State.SUSPECT)
    neighbours.silent(FORGET)
    assert neighbours.is_suspect("a")
    neighbours.silent(FORGET + 0.1)
    assert not neighbours.is_suspect("a")
    assert neighbours.silent(FORGET + 1) == []


events = st.one_of(
    st.tuples(st.just("heard"), st.sampled_from("ab")),
    st.tuples(st.just("judge"), st.sampled_from("ab"), st.sampled_from([State.SUSPECT, State.DEAD, State.HEARD])),
    st.tuples(st.just("look")),
)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), events), max_size=40))
def test_a_suspect_was_asked_after_its_last_word_and_did_not_answer(steps):
    """The naive reading: walk back over the history to the verdict, then to the question, then to the last word."""
    neighbours, now = make(), 0.0
    history: list[tuple] = []
    for passed, event in steps:
        now += passed
        kind, *rest = event
        if kind == "look":
            for edge in neighbours.silent(now):
                history.append(("asked", edge))
        else:
            getattr(neighbours, kind)(*rest, *([] if kind == "judge" else [now]))
            history.append(event)
        for edge in "ab":
            of_edge = [e for e in history if e[1:2] == (edge,)]
            state = "heard"
            for e in of_edge:
                if e[0] == "asked":
                    assert state == "heard", "nobody is asked twice"
                    state = "asked"
                elif e[0] == "heard":
                    state = "heard"
                elif e[0] == "judge" and state == "asked":
                    state = e[2].value
            assert neighbours.is_suspect(edge) <= (state == "suspect"), "nobody is suspect without a verdict"
            if state == "suspect" and now <= FORGET:
                assert neighbours.is_suspect(edge), "and a suspect stays one until it is heard"
