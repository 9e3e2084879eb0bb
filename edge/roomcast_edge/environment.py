"""The variables of the environment that are meant for an edge: a misspelt one is an error, not silence. Pure code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

PREFIX = "ROOMCAST_"

# What Kubernetes sets in every pod beside a Service named "roomcast" or "roomcast-…", and Docker's links did.
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?$")


def variable(name: str) -> str:
    """The variable of a setting."""
    return PREFIX + name.upper()


def check_environment(environment: Mapping[str, str], settings: Iterable[str]) -> None:
    """``ValueError`` names the first ``ROOMCAST_…`` variable that is no setting, and the setting that it resembles."""
    known = {variable(name) for name in settings}
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or name in known or _is_service_link(name, value):
            continue
        near = get_close_matches(name, known, 1)
        hint = f"; do you mean {near[0]}?" if near else "; roomcast edge --help lists all"
        raise ValueError(f"there is no setting {name}{hint}")


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name)) or (name.endswith("_PORT") and "://" in value)
