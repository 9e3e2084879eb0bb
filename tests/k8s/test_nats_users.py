"""NATS with the very configuration of the manifests: who is let in, what they can do, and what they are refused."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import nats.errors
import pytest
from nats.aio.client import Client as NatsClient
from websockets.exceptions import ConnectionClosed, InvalidStatus

from roomcast import Bus, Grant
from support.clients import Recorder, connected
from support.edges import EdgeProcess
from support.manifest_nats import ManifestNode, manifest_cluster, user_of
from support.manifests import container
from support.nats_servers import nats_server_binary
from support.until import until
from support.websocket_client import Client

SECRETS = {
    "nats-edge/password": "12345678",  # NATS would read it as a number, were it not in quotes
    # The hash of service-1: NATS takes either.
    "nats-service/password": "$2a$04$abcdefghijklmnopqrstuueA/ewh0mE5.x4kukA4y.X33TUgIRNJq",
    "nats-operator/password": "operator-1",
    "nats-route/password": "route-1",
}
PASSWORDS = {"edge": "12345678", "service": "service-1", "operator": "operator-1"}

REFUSED = {
    "edge": {
        "pub": [
            "bus.room.chat.message",
            "bus.blast.x",
            "bus.api.move",
            "$SRV.PING",
            "$KV.other.x",
            "$JS.API.STREAM.DELETE.KV_bus",
            "$JS.API.STREAM.UPDATE.KV_bus",
            "$JS.API.STREAM.CREATE.other",
        ],
        "sub": [">", "bus.>", "bus.action.>", "$KV.bus.>", "_INBOX.>"],
    },
    "service": {
        "pub": [
            "$KV.bus.socket.x",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.KV_bus",
            "$JS.API.STREAM.DELETE.KV_bus",
            "$JS.API.DIRECT.GET.KV_bus",
            "bus.action.x",
            "bus.route.get.x",
            "bus.auth",
            "bus.event.connect",
            "bus.edge.x",
            "bus.moved",
            "_INBOX.edge.x",
            "_INBOX.x",
            "$SRV.PING",
            "other.room.chat.message",
        ],
        "sub": [
            ">",
            "bus.>",
            "bus.room.>",
            "bus.blast.*",
            "bus.socket.*.*",
            "bus.api.*",
            "bus.edge.*",
            "bus.moved",
            "$KV.bus.>",
            "_INBOX.edge.>",
            "other.>",
        ],
    },
    "operator": {
        "pub": ["$KV.bus.socket.x", "$KV.bus.move.x", "$KV.bus.edge.x", "other.room.chat.message"],
        "sub": [">", "other.>"],
    },
}


@pytest.fixture(scope="module")
def nodes(prod):
    """The three nodes of prod."""
    with manifest_cluster(prod, SECRETS) as nodes:
        yield nodes


def urls(nodes: list[ManifestNode], user: str) -> list[str]:
    return [node.url_of(user, PASSWORDS[user]) for node in nodes]


@pytest.fixture
async def sessions(nodes):
    """A service that grants every client the rooms chat-*, and the ids of sessions of which it has heard."""
    heard: list[str] = []
    async with Bus.connect(urls(nodes, "service"), name="guard") as bus:

        @bus.authenticate
        async def let_in(_):
            return Grant(client_rooms=("chat-*",))

        @bus.on_connect
        async def connected(event):
            heard.append(event.id)

        async with bus.serving():
            yield heard


@pytest.fixture
async def edges(nodes, prod, sessions):
    """Two edges as prod has them, but that a service on the bus says who may connect."""
    edge = container(prod.get("Deployment", "roomcast-edge")["spec"]["template"], "edge")
    environment = prod.environment(edge, SECRETS)
    user, password = user_of(environment["ROOMCAST_NATS"])
    where = [node.url_of(user, password) for node in nodes]
    settings = {"kv_replicas": environment["ROOMCAST_KV_REPLICAS"], "auth": "bus"}
    started = [EdgeProcess(where[turn:] + where[:turn], "bus", **settings) for turn in range(2)]
    await asyncio.gather(*[edge.start() for edge in started])
    yield started
    await asyncio.gather(*[edge.close() for edge in started])


async def open_client(edge: EdgeProcess) -> Client:
    """A client; its edge's node may hear a moment later of the service that grants."""

    async def opened() -> Client | None:
        try:
            return await Client.open(edge.url)
        except (ConnectionClosed, InvalidStatus, AssertionError):
            return None

    client = await until(opened, what="a client is let in")
    assert client is not None
    return client


async def test_edges_services_and_operators_can_do_their_work(nodes, edges, sessions):
    errors: list[Exception] = []
    first, second = [await open_client(edge) for edge in edges]
    await until(lambda: {first.id, second.id} <= set(sessions), what="the service hears of both sessions")
    async with Bus.connect(urls(nodes, "service"), name="chat", on_error=errors.append) as bus:

        @bus.action("chat.enter")
        async def enter(req, room: str):
            await bus.join(req, room)
            return {"room": room}

        async with bus.serving():

            async def entered() -> bool:  # its node may hear of the service a moment later
                answer = await first.emit("chat.enter", {"room": "hall"})
                assert answer.get("error", {}).get("code") in (None, "no_service"), answer
                return answer.get("data") == {"room": "hall"}

            await until(entered, what="the service answers")
            assert (await second.emit("bus:join", {"room": "chat-1"}))["data"] == {"room": "chat-1"}
            await bus.broadcast("hall", "said", {"n": 1})
            await bus.blast("news", {"n": 2})
            await bus.broadcast(second.id, "direct", {"n": 3})
            moved = await bus.add_room_members_to_rooms("hall", "chat-1")
            assert (moved.matched, moved.changed, len(moved.edges)) == (1, 1, 2)
            await bus.broadcast("chat-1", "said", {"n": 4})
            assert await bus.count("chat-1") == 2
            assert {member.id async for member in bus.members("chat-1")} == {first.id, second.id}
            assert set(await bus.rooms(first.id)) >= {"hall", "chat-1"}
            assert (await first.hears(3))[:3] == [("said", {"n": 1}), ("news", {"n": 2}), ("said", {"n": 4})]
            assert (await second.hears(3))[:3] == [("news", {"n": 2}), ("direct", {"n": 3}), ("said", {"n": 4})]

            first.drop()
            again = await Client.open(edges[1].url, session=first.session)
            assert again.resumed
            await bus.broadcast("hall", "said", {"n": 5})
            assert await again.hears_event("said") == {"n": 5}

            async with connected(NatsClient, urls(nodes, "operator")) as operator:
                found = [
                    await operator.request("$SRV.PING.chat", timeout=5),
                    await operator.request("$JS.API.STREAM.INFO.KV_bus", timeout=5),
                ]
                assert json.loads(found[0].data)["name"] == "chat"
                assert json.loads(found[1].data)["config"]["num_replicas"] == 3
                passing = await operator.subscribe("bus.room.>")
                await operator.flush()

                async def passed() -> bool:  # as above
                    await bus.broadcast("hall", "said", {"n": 6})
                    return passing.pending_msgs > 0

                await until(passed, what="the operator hears what is cast")
        await bus.disconnect(again.id, reason="bye")
        assert await again.is_closed() == 4502
    await second.close()
    assert not errors
    for edge in edges:
        assert "ermissions" not in edge.log, edge.log


@pytest.mark.parametrize("user", REFUSED)
async def test_a_user_is_refused_what_is_not_its_work(nodes, user):
    recorder = Recorder()
    async with connected(NatsClient, nodes[0].url_of(user, PASSWORDS[user]), recorder) as client:
        for subject in REFUSED[user]["pub"]:
            await client.publish(subject, b"{}")
        for subject in REFUSED[user]["sub"]:
            await client.subscribe(subject)
        await client.flush()

        def allowed() -> list[str]:
            told = "\n".join(map(str, recorder.errors)).lower()
            violation = {"pub": "violation for publish to", "sub": "violation for subscription to"}
            return [
                f"{verb} {subject}"
                for verb, subjects in REFUSED[user].items()
                for subject in subjects
                if f'{violation[verb]} "{subject.lower()}"' not in told
            ]

        try:
            await until(lambda: not allowed(), what="all of it is refused")
        except AssertionError:
            raise AssertionError(f"{user} may: {allowed()}") from None


async def test_a_service_hears_no_answers_to_edges(nodes, edges):
    """It may listen to all inboxes but those: what the bucket answers an edge is not for services."""
    heard: list[str] = []

    async def take(message):
        heard.append(message.subject)

    async with (
        connected(NatsClient, urls(nodes, "service")) as listener,
        Bus.connect(urls(nodes, "service")) as bus,
    ):
        await listener.subscribe("_INBOX.>", cb=take)
        await listener.flush()
        client = await open_client(edges[0])
        await bus.join(client.id, "hall")
        await bus.add_room_members_to_rooms("hall", "hall-2")
        await until(lambda: heard, what="the answers to the other service are heard")
        await listener.flush()
        assert not [subject for subject in heard if subject.startswith("_INBOX.edge.")]
        await client.close()
    # The edges did get answers there meanwhile.
    monitored = [node.monitor("subsz?subs=1") for node in nodes]
    subscribed = [row["subject"] for page in monitored for row in page.get("subscriptions_list", ())]
    assert any(subject.startswith("_INBOX.edge.") for subject in subscribed), subscribed


@pytest.mark.parametrize(
    "who", ["", "nobody:x@", "edge:wrong@", "service:12345678@", "route:route-1@", f"service:{'$2a$04$abc'}@"]
)
async def test_nobody_else_is_let_in(nodes, who):
    recorder = Recorder()
    client = NatsClient()
    url = f"nats://{who}127.0.0.1:{nodes[0].port}"
    with pytest.raises((nats.errors.NoServersError, nats.errors.Error)):
        await client.connect(url, allow_reconnect=False, error_cb=recorder.on_error, connect_timeout=2)
    assert any("authorization violation" in str(error).lower() for error in recorder.errors), recorder.errors


def test_a_node_without_the_routes_password_is_no_member(prod, nodes):
    with ManifestNode.guest(prod, {**SECRETS, "nats-route/password": "guessed"}, nodes) as rival:
        wait_until_logged(rival, "Authorization Violation")
        for node in nodes:
            members = {route.get("remote_name") for route in node.monitor("routez")["routes"]}
            assert "guest" not in members


def test_a_node_is_made_a_lame_duck_by_what_the_pod_runs_before_it_stops(dev):
    template = dev.get("StatefulSet", "roomcast-nats")["spec"]["template"]
    before = container(template, "nats")["lifecycle"]["preStop"]["exec"]["command"]
    with manifest_cluster(dev, SECRETS) as [node]:
        command = [part.replace("/run/nats/nats.pid", node.pid_file) for part in before]
        assert command[0] == "nats-server"
        subprocess.run([nats_server_binary(), *command[1:]], check=True)
        wait_until_logged(node, "Entering lame duck mode")


def wait_until_logged(node: ManifestNode, what: str) -> None:
    async def look() -> None:
        await until(lambda: what in node.log_tail(200), 10, f"the log says {what!r}: {node.log_tail()}")

    asyncio.run(look())


@pytest.mark.parametrize("user", PASSWORDS)
async def test_the_doctor_finds_each_user_able_to_do_its_work(nodes, edges, user):
    doctor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roomcast", "doctor", "--as", user, "--json"),
        env={**os.environ, "NATS_URL": ",".join(urls(nodes, user))},
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await doctor.communicate()
    findings = [json.loads(line) for line in told.splitlines()]
    assert {each["check"] for each in findings} >= {"nats", "permissions"}, findings
    assert not [each for each in findings if each["level"] == "fail"], findings
