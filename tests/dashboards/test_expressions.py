"""A real Prometheus over two edges under load: every panel and every rule has data, and alerts tell ill from well."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from roomcast import Bus, NotFound, Request, ServiceFault
from support.arena import Arena, arena
from support.dashboards import expressions
from support.edges import EdgeProcess
from support.nats_exporter import exporter
from support.prometheus import Prometheus, prometheus, rules
from support.raw_client import RawClient
from support.until import until
from support.websocket_client import Client

ROOM, MEMBERS = "room", 12
TEXT = "x" * 30_000
PAUSE = 0.05
SETTINGS = {"client_rooms": "open-*", "outbox_limit": 64 * 1024, "close_timeout": 0.5}

OF_THE_MACHINE = {"RoomcastFanoutSlow", "RoomcastLoopLag"}
"""Alerts that a test's machine may well deserve, laden as it is; tried with made-up figures alone."""

SELECTOR = re.compile(r"\b((?:up|(?:roomcast|gnatsd|jetstream|process|instance:|job:)\w*(?::\w+)*)(?:\{[^}]*\})?)")


class Strange(ServiceFault):
    """A code of the service's own, another each time."""

    numbers = itertools.count()

    def __init__(self) -> None:
        self.code = f"strange-{next(self.numbers)}"
        super().__init__("strange")


def offer(bus: Bus) -> None:
    """A service that answers, refuses, and invents codes."""

    @bus.action("work")
    async def work(req: Request) -> str:
        return "done"

    @bus.action("miss")
    async def miss(req: Request) -> None:
        raise NotFound("it is not here")

    @bus.action("invent")
    async def invent(req: Request) -> None:
        raise Strange


class Load:
    """All that edges do, over and over: casts of each kind, changes, moves, actions, resumes."""

    def __init__(self, stage: Arena) -> None:
        self._stage = stage
        self._bad_cast = f"{stage.edges[0].prefix}.room.{ROOM}.news"
        self.turns = 0
        self.over = False

    async def run(self) -> None:
        """Until it is over."""
        clients = await self._stage.clients(MEMBERS)
        await self._stage.bus.join([client.id for client in clients], ROOM)
        back = await Client.open(self._stage.edges[0].url)
        try:
            while not self.over:
                back = await self._turn(clients, back)
                self.turns += 1
                await asyncio.sleep(PAUSE)
        finally:
            await back.close()

    async def _turn(self, clients: list[Client], back: Client) -> Client:
        bus, client = self._stage.bus, clients[self.turns % MEMBERS]
        for number in range(5):
            await bus.broadcast(ROOM, "news", {"number": number})
        await bus.broadcast(client.id, "direct", 1)
        await bus.blast("all", self.turns)
        await bus.join(client.id, f"room-{self.turns}")
        await bus.leave(client.id, f"room-{self.turns}")
        await bus.add_room_members_to_rooms(ROOM, "more")
        await bus.remove_room_members_from_rooms(ROOM, "more")
        await client.emit("bus:join", {"room": f"open-{self.turns}"})
        await client.emit("bus:join", {"room": f"shut-{self.turns}"})
        for event in ("work", "miss", "invent"):
            await client.emit(event, {})
        bus.nats.send(self._bad_cast, b"no json")
        for each in clients:
            del each.events[:]
        back.drop()
        edge = self._stage.edges[self.turns % 2]
        return await Client.open(edge.url, session=back.session)


@asynccontextmanager
async def under_load(stage: Arena) -> AsyncIterator[Load]:
    load = Load(stage)
    offer(stage.bus)
    async with stage.bus.serving():
        running = asyncio.create_task(load.run())
        try:
            yield load
        finally:
            load.over = True
            await running


async def a_client_is_too_slow(stage: Arena) -> None:
    """One stops reading, is sent more than may wait for it, and is closed."""
    slow = await RawClient.greeted(stage.edges[0].port)
    await stage.bus.join(slow.id, "slow")

    async def is_closed() -> bool:
        await stage.bus.broadcast("slow", "big", TEXT)
        return await stage.edges[0].metric("roomcast_slow_sockets_closed_total") == 1

    await until(is_closed, 20, "the slow client is closed")
    slow.drop()


async def without_data(server: Prometheus, asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of these expressions, after where they stand, that give nothing."""
    return [(where, expr) for where, expr in asked if not await server.query(expr)]


async def all_have_data(server: Prometheus, asked: list[tuple[str, str]], within: float) -> None:
    """Wait until each of these expressions has given something."""
    silent = asked

    async def none_is_silent() -> bool:
        nonlocal silent
        silent = await without_data(server, silent)
        return not silent

    with contextlib.suppress(AssertionError):
        await until(none_is_silent, within)
    assert not silent, "no data:\n" + "\n".join(f"{where}: {expr}" for where, expr in silent)


async def series(edge: EdgeProcess) -> set[str]:
    """What an edge exposes, without the values."""
    _, text = await edge.get("/metrics")
    return {line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}


def asked_of_prometheus() -> list[tuple[str, str]]:
    """All of panels, of variables, of rules that record, and each series that an alert looks at."""
    asked = list(expressions())
    for rule in rules():
        if "record" in rule:
            asked += [(rule["record"], rule["record"]), (rule["record"], rule["expr"])]
        else:
            named = SELECTOR.findall(rule["expr"])
            assert named, f"{rule['alert']} looks at something"
            asked += [(rule["alert"], f"count({selector})") for selector in named]
    return asked


async def test_panels_and_rules_of_two_edges_under_load(fresh_nats, prefix, start_edge, needs_prometheus):
    nats = fresh_nats
    with exporter([nats]) as nats_port:
        async with arena([nats.urls] * 2, nats.url, prefix, start_edge, **SETTINGS) as stage:
            targets = {
                "roomcast-edge": [f"127.0.0.1:{edge.admin_port}" for edge in stage.edges],
                "roomcast-nats": [f"127.0.0.1:{nats_port}"],
            }
            known = await series(stage.edges[0])
            async with prometheus(targets) as server:
                async with under_load(stage) as load:
                    await until(lambda: load.turns >= 3, 30, "the load has begun")
                    await a_client_is_too_slow(stage)
                    asked = asked_of_prometheus()
                    assert len(asked) > 120, "they are found"
                    await all_have_data(server, asked, 40)
                    assert await server.rule_errors() == []
                    firing = {alert for alert in await server.firing() if alert[0] not in OF_THE_MACHINE}
                    assert firing == set(), "all is well"
                    assert await series(stage.edges[0]) == known, "nobody makes series, whatever is sent"
                    assert await stage.edges[0].metric('roomcast_actions_total{outcome="other"}') > 1
                    assert await stage.edges[0].metric("roomcast_casts_dropped_total") == 0

                ill, well = stage.edges
                ill.signal(signal.SIGKILL)
                await fires(server, "RoomcastEdgeDown", f"127.0.0.1:{ill.admin_port}")
                await asyncio.to_thread(nats.stop)
                await fires(server, "RoomcastNatsDisconnected", f"127.0.0.1:{well.admin_port}")
                assert ("RoomcastNoEdge", "") not in await server.firing(), "the other edge answers"
                assert await well.metric('roomcast_kv_failures_total{operation="write"}') > 0, (
                    "its lease is not renewed"
                )
                await asyncio.to_thread(nats.start)


async def fires(server: Prometheus, alert: str, instance: str) -> None:
    """Wait until this alert calls about this instance."""

    async def told() -> bool:
        return (alert, instance) in await server.firing()

    await until(told, 20, f"{alert} fires for {instance}")


@pytest.mark.parametrize(
    ("expr", "named"),
    [
        ('up{job="a"} == 0', ['up{job="a"}']),
        (
            'rate(roomcast_x_total{a="b"}[5m]) > 5 + job:roomcast_y:ratio5m',
            ['roomcast_x_total{a="b"}', "job:roomcast_y:ratio5m"],
        ),
    ],
)
def test_what_an_alert_looks_at_is_found(expr, named):
    assert SELECTOR.findall(expr) == named
