"""Records and moves: there and back, versions, and replaying moves over a record that lags."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.membership import Change
from roomcast.names import is_edge_id, is_socket_id
from roomcast_edge.records import (
    Move,
    Record,
    UnknownVersion,
    new_edge_id,
    new_session,
    secret_hash,
    secret_matches,
    split_session,
)

OWN = "e0000000.AAAAAAAAAAAAAAAA"
ROOMS = ["a", "b", "c", "d"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**53), 2**53)
scalars = st.none() | st.booleans() | numbers | texts
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=3)
rooms = st.lists(st.sampled_from(ROOMS), unique=True, max_size=3)
KNOWN = {"v", "owner", "rooms", "applied", "hash", "user", "data", "client_rooms", "connected_at"}

records = st.builds(
    Record,
    owner=st.none() | st.just("e0000000"),
    rooms=st.sets(texts.filter(bool), max_size=5),
    applied=st.integers(0, 2**53),
    hash=texts,
    user=st.none() | texts,
    data=values,
    client_rooms=st.none() | st.lists(texts, max_size=3).map(tuple),
    connected_at=st.floats(0, 1e10),
    extra=st.dictionaries(texts.filter(lambda key: key not in KNOWN), values, max_size=3),
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Any change that a move may carry."""
    join = draw(rooms)
    leave = [room for room in draw(rooms) if room not in join]
    return Change(tuple(join), tuple(leave), draw(st.booleans()), draw(st.none() | st.just("enough")))


# -- there and back ----------------------------------------------------------------------------------------------------


@given(records)
def test_a_record_comes_back_as_it_was(record: Record):
    assert Record.from_json(record.to_json()) == record


@given(records, st.dictionaries(texts.filter(lambda key: key not in KNOWN), values, min_size=1, max_size=3))
def test_fields_of_a_later_edge_are_kept(record: Record, later: dict[str, Any]):
    body = {**orjson.loads(record.to_json()), **later}
    back = Record.from_json(orjson.dumps(body))
    back.rooms = {"changed"}
    assert orjson.loads(back.to_json()) == {**body, "rooms": ["changed"]}


@given(changes(), st.sampled_from([*ROOMS, OWN]), st.sampled_from(["", "e0000000"]))
def test_a_move_comes_back_as_it_was(change: Change, source: str, owner: str):
    move = Move("an-id", source, change, 7, owner)
    assert Move.from_json("an-id", move.to_json(), 7) == move


@pytest.mark.parametrize("version", [0, 2, "1", None, [], 1e9])
def test_another_version_is_refused_and_says_what_to_do(version: Any):
    for kind, value in (
        (Record.from_json, {"v": version, "owner": None, "rooms": [], "applied": 0, "hash": ""}),
        (lambda value: Move.from_json("id", value, 1), {"v": version, "from": "a", "join": ["b"]}),
    ):
        with pytest.raises(UnknownVersion, match=r"version .*upgrade"):
            kind(orjson.dumps(value))  # type: ignore[operator]
    with pytest.raises(UnknownVersion):
        Record.from_json(b'{"owner":null,"rooms":[],"applied":0,"hash":""}')


@given(
    st.binary()
    | values.map(orjson.dumps)
    | st.dictionaries(
        st.sampled_from([*sorted(KNOWN), "from", "join", "leave", "leave_all", "disconnect"]), values
    ).map(lambda body: orjson.dumps({**body, "v": 1}))
)
def test_any_bytes_are_a_record_or_a_clear_error(value: bytes):
    for read in (Record.from_json, lambda value: Move.from_json("id", value, 1)):
        with contextlib.suppress(ValueError, UnknownVersion):
            read(value)


def test_ids_and_secrets():
    edges = {new_edge_id() for _ in range(500)}
    assert len(edges) == 500
    assert all(is_edge_id(edge) for edge in edges)
    edge = edges.pop()
    sockets = {new_session(edge)[0] for _ in range(500)}
    assert len(sockets) == 500
    assert all(is_socket_id(socket) for socket in sockets)
    name, secret = new_session(edge)
    assert len(secret) * 6 == 144
    assert secret not in secret_hash(secret)
    assert secret_matches(secret, secret_hash(secret))
    assert not secret_matches(new_session(edge)[1], secret_hash(secret))
    assert not secret_matches("\udcff", secret_hash(secret)), "what a header may hold is compared, not raised at"
    assert split_session(f"{name}.{secret}") == (name, secret)


@given(st.text())
def test_what_is_no_session_is_split_into_nothing(session: str):
    name, secret = split_session(session)
    assert (name, secret) == ("", "") or f"{name}.{secret}" == session


# -- replaying ---------------------------------------------------------------------------------------------------------


def naive(rooms: set[str], applied: int, moves: list[Move]) -> tuple[set[str], int, str | None]:
    """The rooms after all moves, one by one."""
    reason = None
    for move in moves:
        if move.sequence <= applied:
            continue
        applied = move.sequence
        if move.source not in rooms | {OWN}:
            continue
        left = rooms if move.change.leave_all else set(move.change.leave)
        rooms = (rooms - left) | (set(move.change.join) - {OWN})
        reason = reason if move.change.disconnect is None else move.change.disconnect
    return rooms, applied, reason


@given(
    st.sets(st.sampled_from(ROOMS)),
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from([*ROOMS, OWN]), changes()), max_size=12),
)
def test_replaying_equals_applying_one_by_one(rooms: set[str], applied: int, drawn: list[tuple[str, Change]]):
    moves = [Move(str(number), source, change, number) for number, (source, change) in enumerate(drawn, 1)]
    record = Record(None, set(rooms), applied, "")
    expected = naive(rooms, applied, moves)
    for split in range(len(moves) + 1):  # in one go or in two, and again: the same
        again = dataclasses.replace(record, rooms=set(record.rooms))
        again.replay(OWN, moves[:split])
        again.replay(OWN, moves)
        again.replay(OWN, moves)
        assert (again.rooms, again.applied, again.disconnect) == expected


@given(st.sets(st.sampled_from(ROOMS)), changes())
def test_applying_tells_whether_anything_changed(rooms: set[str], change: Change):
    record = Record(None, set(rooms), 0, "")
    told = record.apply(OWN, change)
    assert told == (record.rooms != rooms or change.disconnect is not None)
    if change.disconnect is None:
        assert not record.apply(OWN, change) or change.leave_all, "a second time changes nothing"
