"""Which NATS nodes hear each other: any sequence of joins against a naive reading, and real nodes that are cut off."""

from __future__ import annotations

import contextlib
import time

from hypothesis import given
from hypothesis import strategies as st

from roomcast.nats_client import MendedClient, connect
from roomcast_edge.reach import PROBE_SECONDS, Groups, groups
from support.partition import PartitionedCluster

COUNT = 7
numbers = st.integers(0, COUNT - 1)


async def ignore(_: Exception) -> None:
    """Errors of connections that the test breaks itself."""


@given(st.lists(st.tuples(numbers, numbers)))
def test_groups_are_what_can_be_reached_step_by_step(pairs):
    found = Groups(COUNT)
    for one, other in pairs:
        found.join(one, other)
    reached = {number: {number} for number in range(COUNT)}
    for _ in range(COUNT):
        for one, other in pairs:
            reached[one] |= reached[other]
            reached[other] |= reached[one]
    assert {frozenset(group) for group in found.all()} == {frozenset(group) for group in reached.values()}
    assert sum(map(len, found.all())) == COUNT, "each is in one group"


async def test_a_node_without_routes_is_alone_and_a_whole_cluster_is_found_so_at_once():
    async with PartitionedCluster() as network, contextlib.AsyncExitStack() as stack:
        clients: list[MendedClient] = []
        for url in network.urls:
            clients.append(await connect([url], name="looker", on_error=ignore))
            stack.push_async_callback(clients[-1].close)
        began = time.monotonic()
        assert await groups(clients) == [{0, 1, 2}]
        assert time.monotonic() - began < PROBE_SECONDS, "nothing is left to wait for"
        network.cut_off(network.nodes[1], clients=False)
        assert await groups(clients) == [{0, 2}, {1}]
        assert all(not client._subs for client in clients), "nothing is left behind"
        await clients[2].close()
        assert await groups(clients[:2]) == [{0}, {1}]
        assert await groups(clients) == [{0}, {1}, {2}], "a connection that is gone hears nobody"
