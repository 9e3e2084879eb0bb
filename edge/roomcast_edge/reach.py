"""Which NATS nodes hear each other: what is published through each connection is heard, or not, through the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from nats import errors as nats_errors

from roomcast.nats_client import LightSubscription, MendedClient

PROBE_SECONDS = 0.5
"""What is not heard for so long is not heard."""
AGAIN_SECONDS = 0.05
"""A node learns with some delay what others listen to: say it again."""


async def groups(clients: Sequence[MendedClient], within: float = PROBE_SECONDS) -> list[set[int]]:
    """The connections (their places in ``clients``) by groups whose nodes hear each other.

    Takes ``within`` seconds unless all are one group; what one of two hears of the other makes them one.
    """
    subject = clients[0].new_inbox()
    found = Groups(len(clients))
    subs = []

    def hear(sub: LightSubscription, _: bytes, __: bytes, payload: bytes, ___: bytes) -> None:
        found.join(sub.key, int(payload))

    try:
        for place, client in enumerate(clients):
            subs.append((client, client.subscribe_light(subject, hear, key=place)))
        deadline = asyncio.get_running_loop().time() + within
        while len(found.all()) > 1 and asyncio.get_running_loop().time() < deadline:
            for place, client in enumerate(clients):
                if client.is_connected:
                    client.send(subject, b"%d" % place)
            await asyncio.sleep(AGAIN_SECONDS)
    except nats_errors.Error:
        pass  # one of them is gone: what is known until now is the answer
    finally:
        for client, sub in subs:
            if not client.is_closed:
                client.unsubscribe_light(sub)
    return found.all()


class Groups:
    """Things by number, each at first a group of its own."""

    def __init__(self, count: int) -> None:
        self._group = [{number} for number in range(count)]

    def join(self, one: int, other: int) -> None:
        """Make the groups of these two one."""
        if self._group[one] is not self._group[other]:
            self._group[one] |= self._group[other]
            for number in self._group[other]:
                self._group[number] = self._group[one]

    def all(self) -> list[set[int]]:
        """Every group, once."""
        return [group for number, group in enumerate(self._group) if number == min(group)]
