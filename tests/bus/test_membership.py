"""Changes against a naive model of sets, bodies from strangers, and who a target is."""

from __future__ import annotations

from types import SimpleNamespace

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomcast.membership import (
    MAX_REASON_BYTES,
    MAX_ROOMS,
    Change,
    EdgeResult,
    MoveResult,
    Socket,
    check_reason,
    parse_socket,
    room_list,
    socket_id,
)

OWN = "k3f9x2a7.8Hd72kQpX0aLmT5v"

rooms = st.sampled_from(["a", "b", "c", "order.42", "é"])
room_sets = st.sets(rooms)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    join = draw(st.lists(rooms | st.just(OWN), unique=True))
    leave = draw(st.lists(rooms.filter(lambda room: room not in join), unique=True))
    reason = draw(st.none() | st.text("abc é", max_size=20))
    return Change(tuple(join), tuple(leave), draw(st.booleans()), reason)


# -- changes ---------------------------------------------------------------------------------------------------------


@given(changes(), room_sets)
def test_a_delta_does_to_rooms_what_sets_would(change: Change, before: set[str]) -> None:
    joined, left = change.delta(before, OWN)
    after = ((set() if change.leave_all else before - set(change.leave)) | set(change.join)) - {OWN}
    assert (before - set(left)) | set(joined) == after
    assert not set(joined) & before, "only rooms that are new are joined"
    assert set(left) <= before, "only rooms that it was in are left"
    assert len(joined) == len(set(joined))
    assert len(left) == len(set(left))


@given(changes(), room_sets)
def test_a_change_made_twice_is_made_once(change: Change, before: set[str]) -> None:
    joined, left = change.delta(before, OWN)
    assert change.delta((before - set(left)) | set(joined), OWN) == ([], [])


@given(changes())
def test_a_change_travels_as_json(change: Change) -> None:
    assert Change.parse(orjson.loads(orjson.dumps(change.to_json()))) == change
    assert bool(change) == bool(change.to_json())


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("join", "leave", "leave_all", "disconnect"), json_values)))
@example({"join": {"a": 1}})
@example({"join": [["a"]]})
@example({"leave": "x" * 256})
@example({"disconnect": {"reason": 5}})
def test_any_body_is_a_change_or_a_value_error(body: dict[str, object]) -> None:
    try:
        change = Change.parse(body)
    except ValueError:
        return
    assert Change.parse(change.to_json()) == change


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"join": 7}, "join must be"),
        ({"leave": {"a": 1}}, "leave must be"),
        ({"leave_all": 1}, "leave_all"),
        ({"join": ["a", "b"], "leave": ["b"]}, "both name 'b'"),
        ({"disconnect": 7}, "reason"),
        ({"disconnect": "x" * 124}, "at most 123"),
        ({"join": [f"r{i}" for i in range(101)]}, "at most 100"),
        ({"join": ["a", ""]}, "255"),
    ],
)
def test_a_bad_body_says_which_field(body: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Change.parse(body)


def test_a_disconnect_may_be_a_reason_or_an_object_with_one() -> None:
    assert Change.parse({"disconnect": "bye"}) == Change.parse({"disconnect": {"reason": "bye"}})
    assert Change.parse({"disconnect": {}}).disconnect == ""


# -- rooms and reasons -----------------------------------------------------------------------------------------------


@given(st.lists(rooms, max_size=30))
def test_rooms_keep_their_order_and_lose_repetition(names: list[str]) -> None:
    found = room_list(names)
    assert list(found) == sorted(set(names), key=names.index)
    assert room_list(iter(names)) == found


def test_one_room_is_a_list_of_one() -> None:
    assert room_list("abc") == ("abc",)
    assert room_list(()) == ()


def test_a_hundred_rooms_are_the_most() -> None:
    most = [f"r{i}" for i in range(MAX_ROOMS)]
    assert len(room_list(most * 2)) == MAX_ROOMS
    with pytest.raises(ValueError, match=r"at most 100.* has 101"):
        room_list([*most, "one more"])


@pytest.mark.parametrize("bad", [None, 7, b"room", {"a": 1}, [7], [None], [["a"]]])
def test_what_is_no_list_of_rooms_is_a_type_error(bad: object) -> None:
    with pytest.raises(TypeError):
        room_list(bad)  # type: ignore[arg-type]


@given(st.text(max_size=140))
def test_a_reason_fits_a_close_frame_or_is_refused(reason: str) -> None:
    try:
        raw = reason.encode()
    except UnicodeEncodeError:
        raw = b"x" * 124
    if len(raw) <= MAX_REASON_BYTES:
        assert check_reason(reason) == reason
    else:
        with pytest.raises(ValueError, match=r"123|surrogate"):
            check_reason(reason)


# -- sockets and results ---------------------------------------------------------------------------------------------


def test_a_socket_is_found_in_whatever_carries_it() -> None:
    socket = Socket(OWN, rooms=frozenset({"a"}))
    body = {"id": OWN, "rooms": ["a"], "from a newer version": 1}
    for carrier in (socket, SimpleNamespace(socket=socket), {"socket": socket}, {"socket": body}):
        assert parse_socket(carrier) == socket
        assert socket_id(carrier) == OWN
    assert socket_id(OWN) == OWN


@pytest.mark.parametrize("target", [None, 7, {}, {"socket": None}, {"socket": {"id": 7}}, SimpleNamespace(socket=None)])
def test_what_carries_no_socket_is_a_type_error(target: object) -> None:
    assert parse_socket(target) is None
    with pytest.raises(TypeError, match="expected a Socket"):
        socket_id(target)


counts = st.integers(0, 10**6)


@given(st.dictionaries(st.text("abc1", min_size=1, max_size=8), st.tuples(counts, counts)), st.lists(st.text("abc")))
def test_a_moves_result_adds_up_over_edges(rows: dict[str, tuple[int, int]], missing: list[str]) -> None:
    edges = {edge: {"matched": matched, "changed": changed} for edge, (matched, changed) in rows.items()}
    result = MoveResult.from_json({"id": "m1", "edges": edges, "missing": missing})
    assert result.edges == {edge: EdgeResult(*row) for edge, row in rows.items()}
    assert result.matched == sum(matched for matched, _ in rows.values())
    assert result.changed == sum(changed for _, changed in rows.values())
    assert result.missing == missing
