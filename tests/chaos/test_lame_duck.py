"""A NATS node that goes into lame duck mode is left before it ends: one short gap, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time

import pytest

from chaos.test_cluster_nodes import name_of, node_of
from roomcast import Bus
from roomcast.lameduck import LAME_DUCK_SPREAD
from support.chaos import seeded
from support.nats_servers import NatsCluster, NatsServer, nats_server_binary
from support.proxy import StallProxy
from support.until import until
from support.websocket_client import Client
from support.workload import Kept, Workload

CLIENTS = 6
GRACE = 10.0
"""Seconds for which a lame duck closes nobody: nats-server's ``lame_duck_grace_period``."""


def say_lame_duck(node: NatsServer) -> None:
    """``nats-server --signal ldm=PID``."""
    subprocess.run([nats_server_binary(), "--signal", f"ldm={node.pid}"], check=True, capture_output=True)


@pytest.mark.cluster
async def test_a_lame_duck_is_left_in_time_and_nothing_acknowledged_is_lost(prefix, start_edge):
    with NatsCluster() as cluster:
        urls = cluster.urls
        edges = [await start_edge(urls[n:] + urls[:n], kv_replicas=3) for n in range(2)]
        async with Bus.connect([urls[2], *urls[:2]], prefix=prefix, dont_randomize=True) as bus:
            clients = [(edge, await Client.open(edge.url)) for edge in edges for _ in range(CLIENTS)]
            load = Workload(bus, [Kept(client, edge.id) for edge, client in clients], seeded())
            async with load:
                await until(lambda: load.flows(0.0), 15, "everything flows at first")
                before = len(load.failures)
                began = time.monotonic()
                await asyncio.to_thread(say_lame_duck, cluster.nodes[0])
                assert node_of(cluster, name_of(edges[0])) is cluster.nodes[0], "nobody leaves in a panic"
                # What the edge logs after it has left: it was told, nobody has closed its connection.
                await until(lambda: "in step with the log" in edges[0].log, LAME_DUCK_SPREAD + 4, "the edge has left")
                left = time.monotonic() - began
                assert left < GRACE, "before the node closes anybody"
                since = time.monotonic()
                await until(lambda: load.flows(since), 20, "everything flows on")
                found = node_of(cluster, name_of(edges[0]))
                assert found is not cluster.nodes[0]
                assert cluster.nodes[0].is_running, "the lame duck has not ended yet"
            assert all(client.close_code is None for _, client in clients), "no client has noticed"
            await load.check()
            gap = re.search(r"connected to NATS again after (\d+\.\d) s", edges[0].log)
            assert gap is not None, edges[0].log
            assert float(gap[1]) < 1.0, "the gap is short"
            assert edges[1].log.count("connected to NATS again") == 0, "the other edge's node was none"
            print(
                f"left after {left:.1f} s, {gap[1]} s without NATS, {len(load.lost(began))} of {len(load.sent)} casts "
                f"missed by somebody, {len(load.failures) - before} changes failed, {load.changes} acknowledged"
            )
            await asyncio.gather(*[client.close() for _, client in clients])


async def test_a_lame_duck_is_left_by_the_same_name_for_another_node():
    """One address for the whole cluster, as a Service of Kubernetes is: another node answers there by and by."""
    with NatsCluster(2, advertise=False) as cluster:
        first, second = cluster.nodes
        async with StallProxy(first.url) as front, await Bus.connect(front.url) as bus:
            assert len(bus.nats._server_pool) == 1
            await asyncio.to_thread(say_lame_duck, first)
            front._target = ("127.0.0.1", second.port)
            began = time.monotonic()
            await until(lambda: bus.nats.stats["reconnects"] == 1, LAME_DUCK_SPREAD + 4, "it has left")
            assert time.monotonic() - began < GRACE, "before the node closes anybody"
            assert bus.nats._server_info["server_name"] == second.name


async def test_the_only_node_is_kept_until_it_ends(fresh_nats, prefix, start_edge):
    edge = await start_edge(fresh_nats.urls)
    client = await Client.open(edge.url)
    async with Bus.connect(fresh_nats.url, prefix=prefix) as bus:
        await bus.join(client.id, "room")
        await asyncio.to_thread(say_lame_duck, fresh_nats)
        await until(lambda: bus.nats._leaving is not None, 5, "it is heard")
        leaving = bus.nats._leaving
        assert leaving is not None
        number, over = 0, time.monotonic() + LAME_DUCK_SPREAD + 1.5
        while time.monotonic() < over:
            number += 1
            await bus.broadcast("room", "news", number)
            await client.hears(number)
            await asyncio.sleep(0.1)
        assert bus.nats.stats["reconnects"] == 0
        assert not leaving.done(), "it looks for another one still"
    assert "is lost" not in edge.log
    edge.signal(signal.SIGTERM)
    await client.is_closed()
