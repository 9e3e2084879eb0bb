"""Three NATS nodes, stopped, killed and stalled in turn under joins, moves and casts: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from roomcast import Bus
from support.bucket import bucket_view
from support.chaos import LONG, Progress, seeded
from support.edges import EdgeProcess
from support.nats_servers import NatsCluster, NatsServer
from support.proxy import StallProxy
from support.until import until
from support.websocket_client import Client
from support.workload import Kept, Workload

pytestmark = pytest.mark.cluster

CLIENTS = 8
"""On each edge."""
SERVICE = "chaos-service"
CASTS_WITHIN = 5.0
CHANGES_WITHIN = 15.0


def node_of(cluster: NatsCluster, client: str) -> NatsServer:
    """The node that the client of this name is connected to now."""
    for node in cluster.nodes:
        for connection in node.monitor("connz").get("connections") or ():
            if connection.get("name") == client:
                return node
    raise AssertionError(f"{client} is connected to no node")


def name_of(edge: EdgeProcess) -> str:
    """The name under which an edge connects."""
    return f"roomcast-edge-{edge.id}"


async def leader_of(cluster: NatsCluster, prefix: str) -> NatsServer:
    """The node that leads the bucket's stream."""
    return await until(lambda: cluster.leader_of(f"KV_{prefix}"), 15, "the stream has a leader")


async def recovery(load: Workload, name: str, strike: Callable[[], object], heal: Callable[[], object]) -> str:
    """Strike, wait until everything flows again, heal, and tell how long it took. Fails above the limits."""
    mark = len(load.failures)
    began = time.monotonic()
    await asyncio.to_thread(strike)
    await until(lambda: load.flows(began), 25, f"casts and changes flow after {name}")
    flows = time.monotonic()
    await asyncio.to_thread(heal)
    healed = time.monotonic()
    await until(lambda: load.flows(healed), 20, f"casts and changes flow after the end of {name}")
    lost = [number for number in load.lost(began) if load.sent[number] < healed]
    silent = max((load.sent[number] for number in lost), default=began) - began
    failing = max((at for at, _ in load.failures[mark:] if at < flows), default=began) - began
    kinds = sorted({error.partition(":")[0] for _, error in load.failures[mark:]})
    note = f"{name}: casts after {silent:.1f} s ({len(lost)} lost), changes after {failing:.1f} s, errors {kinds}"
    print(note)
    assert silent < CASTS_WITHIN, note
    assert failing < CHANGES_WITHIN, note
    return note


def script(rng: random.Random) -> list[tuple[str, str]]:
    """What is done to whom, in order: a few strikes in CI, each on each in the long run."""
    if not LONG:
        return [("kill", "the stream's leader"), ("stop", "the first edge's node"), ("stall", "the second edge's node")]
    strikes = [
        (what, whose)
        for what in ("kill", "stop", "stall")
        for whose in ("the stream's leader", "the first edge's node", "the second edge's node", "the service's node")
    ]
    return rng.sample(strikes * 2, len(strikes) * 2)


async def test_nothing_acknowledged_is_lost_while_nodes_die_and_come_back(cluster, prefix, start_edge):
    rng = seeded()
    urls = cluster.urls
    edges = [await start_edge(urls[n:] + urls[:n], kv_replicas=3) for n in range(2)]
    finders: dict[str, Callable[[], NatsServer]] = {
        "the first edge's node": lambda: node_of(cluster, name_of(edges[0])),
        "the second edge's node": lambda: node_of(cluster, name_of(edges[1])),
        "the service's node": lambda: node_of(cluster, SERVICE),
    }
    async with Bus.connect([urls[2], *urls[:2]], prefix=prefix, name=SERVICE, dont_randomize=True) as bus:
        clients = [(edge, await Client.open(edge.url)) for edge in edges for _ in range(CLIENTS)]
        kept = [Kept(client, edge.id) for edge, client in clients]
        strikes = script(rng)
        progress = Progress("strikes on nodes", len(strikes))
        async with Workload(bus, kept, rng) as load:
            await until(lambda: load.flows(0.0), 15, "everything flows at first")
            for number, (what, whose) in enumerate(strikes):
                node = await leader_of(cluster, prefix) if whose not in finders else finders[whose]()
                strike = {"kill": node.kill, "stop": node.stop, "stall": node.stall}[what]
                note = await recovery(load, f"{what} {whose} ({node.name})", strike, cluster.heal)
                progress.at(number + 1, note)
        assert all(client.close_code is None for _, client in clients), "no client has noticed"
        await load.check()
        assert {edge for edge in load.last_change if edge != "move"} == {edge.id for edge in edges}
        print(f"{load.changes} changes and {len(load.moves)} moves acknowledged, {len(load.failures)} failed")
        print(f"{len(load.lost())} of {len(load.sent)} casts lost ({len(load.refused)} of them refused)")
        async with bucket_view(urls, prefix) as bucket:
            assert await bucket.consumers() == 0, "edges follow the log without consumers"
            assert await bucket.keys("edge.>") == [
                f"edge.{edge.id}" for edge in sorted(edges, key=lambda edge: edge.id)
            ]
        await asyncio.gather(*[client.close() for _, client in clients])


async def test_an_edge_that_is_partitioned_from_its_node_goes_to_another(prefix, start_edge):
    """The node lives, and so does the edge; what lies between them lets nothing pass, and says nothing."""
    with NatsCluster(advertise=False) as cluster:
        urls = cluster.urls
        async with StallProxy(urls[0]) as proxy, Bus.connect(urls[2], prefix=prefix) as bus:
            edges = [await start_edge([proxy.url, urls[1]], kv_replicas=3), await start_edge([urls[1]])]
            clients = [(edge, await Client.open(edge.url)) for edge in edges for _ in range(CLIENTS)]
            async with Workload(bus, [Kept(client, edge.id) for edge, client in clients], seeded()) as load:
                await until(lambda: load.flows(0.0), 15, "everything flows at first")
                loop = asyncio.get_running_loop()

                def stall() -> None:
                    loop.call_soon_threadsafe(proxy.stall)

                await recovery(load, "partition of the first edge and its node", stall, lambda: None)
            assert all(client.close_code is None for _, client in clients), "no client has noticed"
            await load.check()
            await until(
                lambda: node_of(cluster, name_of(edges[0])).name != "n0", 10, "the node has given the old connection up"
            )
            await asyncio.gather(*[client.close() for _, client in clients])
