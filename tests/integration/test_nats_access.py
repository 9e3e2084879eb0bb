"""TLS and credentials towards NATS: an edge and the commands get in with the right ones, and say so with wrong ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import nkeys
import pytest

from commands.system import roomcast
from roomcast import Bus, BusRefused
from roomcast.access import Access
from support.certificates import certificates, new_nkey, operator_mode
from support.edges import EdgeProcess
from support.nats_servers import NatsServer
from support.until import until
from support.websocket_client import Client

FILES = certificates()
CLIENT = {"nats_ca": FILES.ca, "nats_cert": FILES.client_cert, "nats_key": FILES.client_key}


@dataclass(frozen=True)
class Case:
    """A server's configuration, what gets in, and what is refused with which words."""

    config: str
    right: dict[str, str]
    wrong: list[tuple[dict[str, str], str]] = field(default_factory=list)


def _file(name: str, text: str) -> str:
    path = Path(FILES.ca).with_name(name)
    path.write_text(text)
    return str(path)


def _tls(more: str = "") -> str:
    files = {"cert_file": FILES.server_cert, "key_file": FILES.server_key, "ca_file": FILES.ca}
    return "tls {\n" + "\n".join([*[f'{key}: "{path}"' for key, path in files.items()], more]) + "\n}"


def _cases() -> dict[str, Case]:
    seed, public = new_nkey(nkeys.PREFIX_BYTE_USER)
    stranger, _ = new_nkey(nkeys.PREFIX_BYTE_USER)
    operator, credentials = operator_mode()
    _, others = operator_mode()
    refused = "refuses these credentials (Authorization Violation)"
    return {
        "token": Case("authorization { token: s3cret }", {"nats_token": "s3cret"}, [({"nats_token": "no"}, refused)]),
        "nkey": Case(
            f"authorization {{ users: [ {{ nkey: {public} }} ] }}",
            {"nats_nkey": _file("right.nk", seed)},
            [({"nats_nkey": _file("wrong.nk", stranger)}, refused), ({}, refused)],
        ),
        "credentials": Case(
            operator,
            {"nats_credentials": _file("right.creds", credentials)},
            [({"nats_credentials": _file("wrong.creds", others)}, refused)],
        ),
        "TLS": Case(
            _tls(),
            {"nats_ca": FILES.ca},
            [({"nats_ca": FILES.other_ca}, "certificate is not trusted"), ({}, "name its CA with nats_ca")],
        ),
        "client certificates": Case(
            _tls("verify: true"),
            CLIENT,
            [
                ({"nats_ca": FILES.ca}, "wants a client certificate that it trusts: nats_cert and nats_key"),
                ({**CLIENT, "nats_cert": FILES.other_cert, "nats_key": FILES.other_key}, "wants a client certificate"),
            ],
        ),
        "no TLS there": Case("", {}, [({"nats_ca": FILES.ca}, "does not speak TLS")]),
    }


CASES = _cases()


def _environment(server: NatsServer, prefix: str, settings: dict[str, str]) -> dict[str, str]:
    variables = {f"ROOMCAST_{name.upper()}": value for name, value in settings.items()}
    return {"NATS_URL": server.url, "ROOMCAST_PREFIX": prefix, **variables}


@pytest.mark.parametrize("name", CASES)
async def test_the_right_credentials_get_in_and_wrong_ones_are_named_at_once(name, prefix, start_edge):
    case = CASES[name]
    with NatsServer(case.config) as server:
        edge = await start_edge(server.urls, **case.right)
        client = await Client.open(edge.url)
        access = Access(**{key.removeprefix("nats_"): value for key, value in case.right.items()})
        async with Bus.connect(server.url, prefix=prefix, **access.options()) as bus:
            await bus.join(client.id, "room")
            environment = _environment(server, prefix, case.right)
            told = await roomcast("broadcast", "room", "news", "1", env=environment)
            assert told.code == 0, told
            await client.hears(1)
            await asyncio.to_thread(server.restart)
            await until(lambda: "in step with the log" in edge.log, 15, "the edge gets in again")
            await until(lambda: bus.nats.is_connected, 15, "so does the Bus")
            await bus.broadcast("room", "news", 2)
            assert await client.hears(2) == [("news", 1), ("news", 2)]
        await client.close()
        for settings, says in case.wrong:
            environment = _environment(server, prefix, settings)
            for command in (["count", "room"], ["edge", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]):
                async with asyncio.timeout(15):
                    told = await roomcast(*command, env=environment)
                assert told.code == 1, told
                assert says in told.err.splitlines()[-1], told
                assert "s3cret" not in told.err


async def test_who_is_refused_later_stays_and_tries_again(prefix, start_edge):
    with NatsServer("authorization { token: one }") as server:
        edge = await start_edge(server.urls, nats_token="one", ready_grace=0.5)
        client = await Client.open(edge.url)
        server._config = "authorization { token: two }"
        await asyncio.to_thread(server.restart)
        await until(lambda: "authorization" in edge.log.lower(), 15, "it says why it is not let in")

        async def unready() -> bool:
            status, text = await edge.get("/readyz")
            return status == 503 and "FAIL nats" in text

        await until(unready, 15, "it is unready")
        assert client.close_code is None, "its sockets stay"
        server._config = "authorization { token: one }"
        await asyncio.to_thread(server.restart)
        await until(lambda: "in step with the log" in edge.log, 15, "it is let in again")
        await client.close()


async def test_a_bus_says_that_it_is_refused(prefix):
    with NatsServer("authorization { user: me, password: s3cret }") as server:
        wrong = server.url.replace("://", "://me:wr0ng@")
        with pytest.raises(BusRefused, match="refuses these credentials") as told:
            await Bus.connect(wrong)
        assert "wr0ng" not in str(told.value)
        await (await Bus.connect(server.url.replace("://", "://me:s3cret@"))).close()


async def test_no_password_of_a_url_is_logged(prefix):
    with NatsServer() as server:
        url = server.url.replace("://", "://me:s3cret@")
        await asyncio.to_thread(server.stop)
        edge = EdgeProcess([url], prefix, log_level="debug")
        try:
            await edge.start(ready=False)
            await until(lambda: "WARNING" in edge.log, 15, "it says what it waits for")
            told = await roomcast("count", "room", env={"NATS_URL": url})
            assert "me:***@" in told.err
            assert "s3cret" not in edge.log + told.err
        finally:
            await edge.close()
