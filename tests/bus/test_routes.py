"""Routes: what a client asks for becomes the tokens that a service's route covers, with its parameters in them."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from roomcast.names import Subjects
from roomcast.routes import MAX_PATH_BYTES, Route, request_tokens

segments = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
lists = st.lists(segments, min_size=1, max_size=5)


@given(lists, st.sampled_from(["get", "PUT", "delete"]), st.sampled_from(["", "/"]))
def test_a_route_of_parameters_reads_back_what_was_asked(texts: list[str], method: str, end: str):
    path = "/" + "/".join(quote(text, safe="") for text in texts) + end
    assume(len(path) <= MAX_PATH_BYTES)
    tokens = request_tokens(method, path)
    route = Route.parse(f"{method} /" + "/".join(f":p{n}" for n, _ in enumerate(texts)))
    assert route.covers(tokens)
    assert list(route.params(tokens).values()) == texts


@given(lists)
def test_a_literal_route_is_asked_for_by_its_path(texts: list[str]):
    literal = [text.replace("/", "|").strip() for text in texts]
    assume(all(literal) and not any(text.startswith(":") for text in literal))
    route = Route.parse("GET /" + "/".join(literal))
    assert request_tokens("get", "/" + "/".join(quote(text, safe="") for text in literal)) == route.tokens()


@pytest.mark.parametrize(
    ("path", "tokens"),
    [
        ("/", "GET.="),
        ("", "GET.="),
        ("/orders/42", "GET.orders.42"),
        ("orders/42/", "GET.orders.42"),
        ("/a//b", "GET.a.=.b"),
        ("/a.b/*/>", "GET.a=2Eb.=2A.=3E"),
        ("/a%2Fb", "GET.a=2Fb"),
        ("/a%0D%0APUB x", "GET.a=0D=0APUB=20x"),
    ],
)
def test_a_path_is_tokens(path: str, tokens: str):
    assert request_tokens("get", path) == tokens


TOO_LONG = ["/" + "x" * 256, "/" + "a/" * MAX_PATH_BYTES, "/" + "ä" * (MAX_PATH_BYTES // 2)]


@pytest.mark.parametrize("path", [*TOO_LONG, "/%FF"])
def test_what_is_no_path_is_refused(path: str):
    with pytest.raises(ValueError, match="path"):
        request_tokens("get", path)


def test_the_longest_path_fits_into_a_line_of_nats():
    path = "/" + "/".join(["ä" * 127] * 3 + ["ä" * 115])
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert len(Subjects("x" * 64).route(request_tokens("OPTIONS", path))) < 4096 - 200
