"""The name codec against a naive model: both ways, injective, always a valid NATS subject and KV key."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from roomcast.names import (
    DEFAULT_EVENT,
    MAX_NAME_BYTES,
    RESERVED_EVENTS,
    Subjects,
    check_event,
    decode_event,
    decode_room,
    edge_of,
    encode_event,
    encode_room,
    is_edge_id,
    is_reserved_event,
    is_socket_id,
)

SAFE = string.ascii_letters + string.digits + "_-"
TOKENS = re.compile(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*")
KV_KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")
"""What the KV bucket of every NATS client accepts; no dot may stand first or last."""


Encode = Callable[[str], str]


def fits(name: str) -> bool:
    return 1 <= len(name.encode()) <= MAX_NAME_BYTES


any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255).filter(fits)
tricky_text = st.text(" *>=.\r\n\t\0\x0b\x7f\x85/$ab0Zé漢🚀", min_size=1, max_size=60).filter(fits)
plain_text = st.text(SAFE + ".", min_size=1, max_size=255)
names = any_text | tricky_text | plain_text
near_tokens = st.text("ab.=0123456789ABCDEFabcdef_-é *>\n", max_size=24)


def model_token(text: str) -> str:
    """One token by the book: what is safe stays, any other byte becomes =XX."""
    written = ""
    for character in text:
        written += character if character in SAFE else "".join(f"={byte:02X}" for byte in character.encode())
    return written


def model_room(name: str) -> str:
    return ".".join(model_token(part) if part else "=" for part in name.split("."))


@given(names)
def test_a_room_is_written_as_the_model_says_and_read_back(name: str) -> None:
    assert encode_room(name) == model_room(name)
    assert decode_room(encode_room(name)) == name


@given(names)
def test_an_event_is_one_token_and_is_read_back(name: str) -> None:
    token = encode_event(name)
    assert token == model_token(name).replace(".", "=2E")
    assert "." not in token
    assert decode_event(token) == name


@given(names)
def test_tokens_fit_nats_subjects_and_kv_keys(name: str) -> None:
    room, event = encode_room(name), encode_event(name)
    assert TOKENS.fullmatch(room), "no empty token, no wildcard, nothing that NATS reads as an end"
    assert TOKENS.fullmatch(event)
    for key in (room, event):
        assert KV_KEY.fullmatch(key)
        assert not key.startswith(".")
        assert not key.endswith(".")


@given(names, names)
def test_two_names_never_share_tokens(one: str, other: str) -> None:
    assume(one != other)
    assert encode_room(one) != encode_room(other)
    assert encode_event(one) != encode_event(other)


@given(near_tokens)
@example("")
@example(".")
@example("a.")
@example("a..b")
@example("==")
@example("=41")  # a letter needs no escape
@example("=2E")  # a dot separates tokens in a room
@example("=2e")
@example("=e9")
@example("=C3")  # half of a character
@example("=ED=A0=80")  # a surrogate
@example("a=")
@example("a\n")
def test_only_what_encode_writes_is_read_as_a_room(tokens: str) -> None:
    try:
        name = decode_room(tokens)
    except ValueError:
        return
    assert encode_room(name) == tokens


@given(near_tokens)
@example("")
@example("=")
@example("a.b")
@example("=41")
@example("=2e")
@example("=FF")
@example("a\n")
def test_only_what_encode_writes_is_read_as_an_event(token: str) -> None:
    try:
        name = decode_event(token)
    except ValueError:
        return
    assert encode_event(name) == token


@pytest.mark.parametrize(
    "tokens", ["", ".", "a.", ".a", "a..b", "==", "=41", "=2E", "=2e", "=C3", "a b", "*", ">", "é"]
)
def test_a_stranger_to_the_encoding_is_refused(tokens: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is no"):
        decode_room(tokens)


def test_what_is_longer_than_a_name_is_not_read() -> None:
    for tokens in ("a" * 256, "=C3=A9" * 128):
        with pytest.raises(ValueError, match="255"):
            decode_room(tokens)
        with pytest.raises(ValueError, match="255"):
            decode_event(tokens)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_the_limit_is_bytes_not_characters(name: str) -> None:
    size = len(name.encode())
    for encode in (encode_room, encode_event):
        if size <= 255:
            encode(name)
        else:
            with pytest.raises(ValueError, match="255"):
                encode(name)


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "\N{ROCKET}" * 64])
@pytest.mark.parametrize("encode", [encode_room, encode_event])
def test_a_name_that_does_not_fit_says_the_limit(encode: Encode, name: str) -> None:
    with pytest.raises(ValueError, match=r"1 to 255 bytes of UTF-8.* has [0-9]+$"):
        encode(name)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x", "\N{ROCKET}" * 63 + "abc", "." * 255])
def test_a_name_of_255_bytes_fits(name: str) -> None:
    assert len(name.encode()) == 255
    assert decode_room(encode_room(name)) == name
    assert decode_event(encode_event(name)) == name


@pytest.mark.parametrize("name", ["\ud800", "room\udfff", "\udc80.a"])
@pytest.mark.parametrize("encode", [encode_room, encode_event])
def test_a_lone_surrogate_is_refused(encode: Encode, name: str) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        encode(name)


@pytest.mark.parametrize("name", [None, 42, b"room", ("a",)])
@pytest.mark.parametrize("encode", [encode_room, encode_event])
def test_what_is_no_text_is_a_type_error(encode: Encode, name: Any) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        encode(name)


@pytest.mark.parametrize(
    ("name", "room", "event"),
    [
        ("order.42", "order.42", "order=2E42"),
        ("chat general", "chat=20general", "chat=20general"),
        ("a..b", "a.=.b", "a=2E=2Eb"),
        (".", "=.=", "=2E"),
        ("=", "=3D", "=3D"),
        ("*.>", "=2A.=3E", "=2A=2E=3E"),
        ("a\r\nPUB b", "a=0D=0APUB=20b", "a=0D=0APUB=20b"),
        ("\0", "=00", "=00"),
        ("é", "=C3=A9", "=C3=A9"),
    ],
)
def test_the_encoding_on_paper(name: str, room: str, event: str) -> None:
    assert encode_room(name) == room
    assert encode_event(name) == event


@pytest.mark.parametrize("name", [*sorted(RESERVED_EVENTS), "bus:", "bus:join", "bus:é"])
def test_reserved_events_are_refused(name: str) -> None:
    assert is_reserved_event(name)
    with pytest.raises(ValueError, match="reserved"):
        check_event(name)


@given(names)
def test_every_other_event_may_be_cast(name: str) -> None:
    assume(name not in {"connect", "disconnect", "connect_error"} and not name.startswith("bus:"))
    assert check_event(name) == encode_event(name)


def test_names_that_only_resemble_reserved_ones_are_free() -> None:
    for name in (DEFAULT_EVENT, "Connect", "connected", "bus", "bus.join", " connect"):
        assert check_event(name) == encode_event(name)


# -- socket and edge ids ---------------------------------------------------------------------------------------------

edge_ids = st.from_regex(r"[a-z][a-z0-9]{7}", fullmatch=True).filter(lambda text: any(c.isdigit() for c in text))
socket_ids = st.tuples(edge_ids, st.text(SAFE, min_size=16, max_size=16)).map(".".join)


@given(socket_ids)
def test_a_socket_id_is_a_room_of_two_plain_tokens(socket_id: str) -> None:
    assert is_socket_id(socket_id)
    assert is_edge_id(edge_of(socket_id))
    assert encode_room(socket_id) == socket_id
    subjects = Subjects()
    own = subjects.own_sockets(edge_of(socket_id)).split(".")
    cast = subjects.room(socket_id, encode_event("e.v")).split(".")
    assert len(own) == len(cast), "an edge's one subscription covers the casts to its sockets"
    assert all(pattern in ("*", token) for pattern, token in zip(own, cast, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k3f9x2a7",
        "k3f9x2a7.",
        "k3f9x2a7.8Hd72kQpX0aLmT5",
        "k3f9x2a7.8Hd72kQpX0aLmT5vv",
        "K3f9x2a7.8Hd72kQpX0aLmT5v",
        "3kf9x2a7.8Hd72kQpX0aLmT5v",
        "abcdefgh.8Hd72kQpX0aLmT5v",
        "k3f9x2a7.8Hd72kQpX0aLmT5.",
        "k3f9x2a7.8Hd72kQpX0aLmT5v\n",
        "k3f9x2a7.8Hd72kQpX0aLmT5é",
    ],
)
def test_what_only_resembles_a_socket_id_is_none(text: str) -> None:
    assert not is_socket_id(text)


# -- subjects --------------------------------------------------------------------------------------------------------


@given(names, names)
def test_every_subject_is_one_that_nats_takes(room: str, event: str) -> None:
    subjects = Subjects("tenant-1")
    token = encode_event(event)
    for subject in (subjects.room(room, token), subjects.blast(token), subjects.action(room)):
        assert TOKENS.fullmatch(subject)
    assert subjects.room(room, token) == f"{subjects.room_events(room)[:-1]}{token}"


@pytest.mark.parametrize("prefix", ["", "a.b", "a b", "*", ">", "é", "a\n", "x" * 65, None, 7])
def test_a_prefix_that_is_not_one_token_is_refused(prefix: object) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Subjects(prefix)  # type: ignore[arg-type]
