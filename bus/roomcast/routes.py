"""Routes: ``PUT /orders/:id/status`` as a NATS subject, and which of two overlapping routes is meant. Pure code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from roomcast.names import MAX_NAME_BYTES, decode_event, encode_event

_METHOD = re.compile(r"[A-Z]{1,16}").fullmatch
_PARAMETER = re.compile(r":([A-Za-z_][A-Za-z0-9_]*)").fullmatch

MAX_PATH_BYTES = 1000
"""Of a request's path: its subject, three times as long at most, must fit into a line of NATS's protocol."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path whose segments are texts or parameters (``:id``)."""

    method: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Route:
        """The route of ``"METHOD /path/:parameter"``; ``ValueError`` says what is wrong with it."""
        method, _, path = text.strip().partition(" ")
        if not _METHOD(method.upper()) or not path.strip().startswith("/"):
            raise ValueError(f"{text!r} is no route: write a method and a path, for example 'PUT /orders/:id'")
        route = cls(method.upper(), tuple(path.strip().strip("/").split("/")))
        names = [segment for segment in route.segments if segment.startswith(":")]
        for name in names:
            if not _PARAMETER(name):
                raise ValueError(f"{name!r} in {text!r} is no parameter: a colon, then letters, digits and _")
        if len(set(names)) < len(names):
            raise ValueError(f"a parameter stands twice in {text!r}")
        return route

    def __str__(self) -> str:
        return f"{self.method} /{'/'.join(self.segments)}"

    def tokens(self) -> str:
        """The subject behind ``bus.route.``: a parameter is any one token."""
        return ".".join([self.method, *("*" if part.startswith(":") else path_token(part) for part in self.segments)])

    def params(self, tokens: str) -> dict[str, str]:
        """The parameters in the tokens of a subject that matches this route."""
        given = tokens.split(".")[1:]
        return {
            name[1:]: "" if part == "=" else decode_event(part)
            for name, part in zip(self.segments, given, strict=True)
            if name.startswith(":")
        }

    def covers(self, tokens: str) -> bool:
        """Whether a subject's tokens match this route."""
        own, given = self.tokens().split("."), tokens.split(".")
        return len(own) == len(given) and all(a in ("*", b) for a, b in zip(own, given, strict=True))

    @property
    def rank(self) -> tuple[bool, ...]:
        """The smaller, the more literal from the left on: of two routes that match, the smaller one is meant."""
        return tuple(segment.startswith(":") for segment in self.segments)


def request_tokens(method: str, path: str) -> str:
    """The tokens of a request's subject behind ``bus.route.``: the method, then the path's segments, unescaped.

    Slashes at either end count for nothing. ``ValueError``: the path is too long, or escaped as no path is.
    """
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"a path has at most {MAX_PATH_BYTES} bytes of UTF-8; this one has {len(path.encode())}")
    try:
        segments = [unquote(segment, errors="strict") for segment in path.strip("/").split("/")]
    except UnicodeDecodeError:
        raise ValueError(f"the path {path!r} is not UTF-8 where it is percent-encoded") from None
    if any(len(segment.encode()) > MAX_NAME_BYTES for segment in segments):
        raise ValueError(f"a segment of a path has at most {MAX_NAME_BYTES} bytes of UTF-8")
    return ".".join([method.upper(), *map(path_token, segments)])


def path_token(segment: str) -> str:
    """One segment of a path as a token; an empty one is ``=``."""
    return encode_event(segment) if segment else "="
