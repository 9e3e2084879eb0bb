"""Packets of Socket.IO for tests: naive encoders and parsers after the specification, and generators."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from roomcast_edge.frames import text_frame

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)

texts = st.text(st.characters(exclude_categories=["Cs"]))
names = texts.filter(bool)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=4)
ack_ids = st.none() | st.integers(0, 10**15 - 1)
others = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=",?"), min_size=1).map(
    lambda name: f"/{name}"
)


def payload(frame: bytes) -> str:
    """The text of a frame."""
    size = frame[1]
    start = 2 if size < 126 else 4 if size == 126 else 10
    assert frame == text_frame(frame[start:])
    return frame[start:].decode()


def encode(kind: int, namespace: str = "/", ack: int | None = None, data: Any = ..., attachments: int = -1) -> bytes:
    """A packet as the specification describes it: type, attachments, namespace, acknowledgement id, JSON."""
    packet = f"4{kind}"
    if attachments >= 0:
        packet += f"{attachments}-"
    if namespace != "/":
        packet += f"{namespace},"
    if ack is not None:
        packet += str(ack)
    if data is not ...:
        packet += json.dumps(data)
    return packet.encode()


def parse(frame: bytes) -> tuple[int, str, int | None, Any]:
    """Type, namespace, acknowledgement id and data of a packet of the server, read one character after the other."""
    text = payload(frame)
    assert text[0] == "4", "a message of Engine.IO"
    kind, rest = int(text[1]), text[2:]
    namespace, ack = "/", ""
    if rest.startswith("/"):
        namespace, _, rest = rest.partition(",")
    while rest and rest[0].isdigit():
        ack, rest = ack + rest[0], rest[1:]
    return kind, namespace, int(ack) if ack else None, json.loads(rest) if rest else None


packets = st.builds(
    encode,
    st.integers(0, 9),
    others | st.sampled_from(["/", "/?a=b", ""]),
    st.none() | st.integers(),
    values | st.just(...),
    st.integers(-1, 3000),
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A packet of which some bytes are missing, doubled or others."""
    text = draw(packets)
    at, to = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    return text[:at] + draw(st.binary(max_size=6) | st.just(text[at:to] * 2)) + text[to:]


anything = st.binary() | st.binary().map(lambda data: b"4" + data) | packets | mangled() | texts.map(str.encode)
"""What a client may send, well-formed or not."""
