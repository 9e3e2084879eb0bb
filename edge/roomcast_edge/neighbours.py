"""What this edge knows of the others by their heartbeats: who lives, who is dead, and who is suspect. Pure code.

heard ─silent─▶ ASKED ─no answer─▶ SUSPECT ─heard─▶ HEARD
                  └─nobody listens─▶ DEAD ─heard─▶ HEARD

NATS closes the connection of an edge that is stalled after some seconds; from then on it says "no responders", as for
one that is dead. Whoever was found silent while its connection stood is suspect, and stays so until it is heard again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What is thought of an edge."""

    HEARD = "heard"
    ASKED = "asked"
    """It is silent; a question to it is under way."""
    SUSPECT = "suspect"
    """It did not answer, though it listened: stalled, or out of reach."""
    DEAD = "dead"


@dataclass(slots=True)
class _Neighbour:
    heard_at: float
    state: State = State.HEARD


class Neighbours:
    """All other edges that were heard lately. Times are seconds of one steady clock."""

    def __init__(self, silent_after: float, forget_after: float) -> None:
        self._silent_after = silent_after
        self._forget_after = forget_after
        self._known: dict[str, _Neighbour] = {}

    def heard(self, edge: str, now: float) -> None:
        """A sign of life, whatever was thought of it."""
        self._known[edge] = _Neighbour(now)

    def silent(self, now: float) -> list[str]:
        """Those that became silent and must be asked now.

        Who has been silent for so long that its lease is gone is forgotten.
        """
        asked = []
        for edge, known in list(self._known.items()):
            silence = now - known.heard_at
            if silence > self._forget_after:
                del self._known[edge]
            elif silence > self._silent_after and known.state is State.HEARD:
                known.state = State.ASKED
                asked.append(edge)
        return asked

    def judge(self, edge: str, state: State) -> None:
        """What came of asking it, unless it was heard meanwhile; ``HEARD``: nothing, it is asked again."""
        known = self._known.get(edge)
        if known is not None and known.state is State.ASKED:
            known.state = state

    def is_suspect(self, edge: str) -> bool:
        """Whether "no responders" from this edge may mean that it is stalled."""
        known = self._known.get(edge)
        return known is not None and known.state is State.SUSPECT
