"""Which NATS nodes hear each other: what is published through each connection is heard, or not, through the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from nats import errors as nats_errors

from roomcast.nats_client import LightSubscription, MendedClient

PROBE_SECONDS = 0.5
"""What is not heard for so long is not heard, where others are."""
LONGEST_PROBE = 1.5
AGAIN_SECONDS = 0.05
"""A node learns with some delay what others listen to: say it again."""


async def groups(clients: Sequence[MendedClient]) -> list[set[int]]:
    """The connections (their places in ``clients``) by groups whose nodes hear each other.

    Takes ``PROBE_SECONDS``, less where all are one group, up to ``LONGEST_PROBE`` where no more than half of them are:
    nodes that have much to do hear each other late. What one of two hears of the other makes them one.
    """
    subject = clients[0].new_inbox()
    found = Groups(len(clients))
    subs = []

    def hear(sub: LightSubscription, _: bytes, __: bytes, payload: bytes, ___: bytes) -> None:
        found.join(sub.key, int(payload))

    try:
        for place, client in enumerate(clients):
            subs.append((client, client.subscribe_light(subject, hear, key=place)))
        began = time.monotonic()
        while (most := max(map(len, found.all()))) < len(clients):
            probed = time.monotonic() - began
            if probed > (PROBE_SECONDS if 2 * most > len(clients) else LONGEST_PROBE):
                break
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
