"""Settings of an edge: flags, variables of the environment, and what is refused before anything starts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import nkeys
import orjson
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from roomcast_edge.command import config, edge
from roomcast_edge.environment import check_environment
from roomcast_edge.settings import Settings, text_pattern
from support.certificates import certificates, new_nkey, operator_mode

FILES = certificates()
SEED, CREDENTIALS = (str(Path(FILES.ca).with_name(name)) for name in ("user.nk", "user.creds"))
Path(SEED).write_text(new_nkey(nkeys.PREFIX_BYTE_USER)[0])
Path(CREDENTIALS).write_text(operator_mode()[1])


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in dataclasses.fields(Settings):
        monkeypatch.delenv(f"ROOMCAST_{field.name.upper()}", raising=False)
    monkeypatch.delenv("NATS_URL", raising=False)


def read(*arguments: str) -> Settings:
    """The settings of a command line and the environment."""
    return Settings(**edge.make_context("edge", list(arguments)).params)


def test_the_defaults():
    assert read() == Settings()


PAIRS = {"tls_cert": "tls_key", "tls_key": "tls_cert", "nats_cert": "nats_key", "nats_key": "nats_cert"}
"""Settings that are only accepted together."""

VALUES: dict[str, tuple[str, Any]] = {
    "nats": ("nats://a:1, nats://b:2,", ("nats://a:1", "nats://b:2")),
    "prefix": ("my_Bus-2", "my_Bus-2"),
    "listen": ("0.0.0.0:80", ("0.0.0.0", 80)),
    "admin": ("[::1]:0", ("::1", 0)),
    "auth": ("bus", "bus"),
    "jwt_secret": ("x" * 32, "x" * 32),
    "jwt_keys": ("keys.json", "keys.json"),
    "jwt_issuer": ("https://id.example", "https://id.example"),
    "jwt_audience": ("chat", "chat"),
    "jwt_leeway": ("5", 5.0),
    "origins": ("https://*.example.com,http://localhost:3000", ("https://*.example.com", "http://localhost:3000")),
    "proxies": ("1", 1),
    "connections_per_address": ("50", 50),
    "client_rooms": ("chat-*, lobby", ("chat-*", "lobby")),
    "kv_replicas": ("3", 3),
    "resume_window": ("60", 60.0),
    "cast_limit": ("1000", 1000),
    "connect_rate": ("2.5", 2.5),
    "message_limit": ("128", 128),
    "outbox_limit": ("4096", 4096),
    "ping_interval": ("0.5", 0.5),
    "ping_timeout": ("1", 1.0),
    "handshake_limit": ("2048", 2048),
    "handshake_timeout": ("2", 2.0),
    "close_timeout": ("3", 3.0),
    "action_timeout": ("4", 4.0),
    "requests_per_socket": ("10", 10),
    "requests_per_edge": ("100", 100),
    "request_rate": ("50", 50.0),
    "page": (__file__, __file__),
    "drain_delay": ("5", 5.0),
    "drain_time": ("20", 20.0),
    "ready_grace": ("10", 10.0),
    "tls_cert": (FILES.server_cert, FILES.server_cert),
    "tls_key": (FILES.server_key, FILES.server_key),
    "nats_ca": (FILES.ca, FILES.ca),
    "nats_cert": (FILES.client_cert, FILES.client_cert),
    "nats_key": (FILES.client_key, FILES.client_key),
    "nats_credentials": (CREDENTIALS, CREDENTIALS),
    "nats_nkey": (SEED, SEED),
    "nats_token": ("s3cret", "s3cret"),
    "log_format": ("json", "json"),
    "log_level": ("debug", "debug"),
}


def test_every_setting_is_tested_here():
    assert set(VALUES) >= {field.name for field in dataclasses.fields(Settings)}, "add the new one to VALUES"


@pytest.mark.parametrize("name", VALUES)
def test_each_setting_is_a_flag_and_a_variable(name: str, monkeypatch: pytest.MonkeyPatch):
    text, value = VALUES[name]
    changed = [name]
    if name in PAIRS:
        changed.append(PAIRS[name])
        monkeypatch.setenv(f"ROOMCAST_{PAIRS[name].upper()}", VALUES[PAIRS[name]][0])
    assert getattr(read(f"--{name.replace('_', '-')}", text), name) == value
    monkeypatch.setenv(f"ROOMCAST_{name.upper()}", text)
    assert getattr(read(), name) == value
    back = {each: getattr(Settings(), each) for each in changed}
    assert dataclasses.replace(read(), **back) == Settings(), "nothing else changed"


def test_nats_url_is_honoured_where_nothing_nearer_speaks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NATS_URL", "nats://usual:1")
    assert read().nats == ("nats://usual:1",)
    monkeypatch.setenv("ROOMCAST_NATS", "nats://ours:2")
    assert read().nats == ("nats://ours:2",)
    assert read("--nats", "nats://flag:3").nats == ("nats://flag:3",)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "8001"], "HOST:PORT"),
        (["--listen", "localhost:http"], "HOST:PORT"),
        (["--listen", "a:70000"], "HOST:PORT"),
        (["--kv-replicas", "6"], "kv-replicas"),
        (["--outbox-limit", "0"], "outbox-limit"),
        (["--message-limit", "many"], "message-limit"),
        (["--ping-interval", "-1"], "ping-interval"),
        (["--log-level", "loud"], "log-level"),
        (["--prefix", "a.b"], "prefix"),
        (["--prefix", ""], "prefix"),
        (["--prefix", "a b"], "prefix"),
        (["--prefix", ">"], "prefix"),
        (["--nats", " , "], "NATS"),
        (["--page", "/no/such/file"], "no such file"),
        (["--nats", "nats://host:port"], "NATS server"),
        (["--nats", "http://host:80"], "NATS server"),
        (["--nats", "nats://me:s3cret@"], "me:***@"),
        (["--drain-time", "-1"], "drain-time"),
        (["--log-format", "xml"], "log-format"),
        (["--tls-cert", FILES.server_cert], "tls_cert and tls_key belong together"),
        (["--tls-cert", FILES.server_cert, "--tls-key", FILES.client_key], "no certificate with its unencrypted key"),
        (["--tls-cert", "/no/such", "--tls-key", FILES.server_key], "tls_cert /no/such: No such file"),
        (["--nats-ca", "/no/such"], "nats_ca /no/such: No such file"),
        (["--nats-ca", FILES.server_key], "no certificate in PEM form"),
        (["--nats-cert", FILES.client_cert], "nats_cert and nats_key belong together"),
        (["--nats-cert", FILES.client_cert, "--nats-key", FILES.other_key], "no certificate with its unencrypted key"),
        (["--nats-nkey", FILES.ca], "no seed of a user"),
        (["--nats-credentials", FILES.ca], "no .creds file"),
        (["--nats-nkey", SEED, "--nats-token", "t"], "give one"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_what_is_wrong_is_one_clear_line(arguments: list[str], says: str):
    told = CliRunner().invoke(edge, arguments)
    assert told.exit_code == 2
    assert says in told.output
    assert "Traceback" not in told.output


@pytest.mark.parametrize("command", [edge, config])
def test_a_misspelt_variable_is_one_clear_line(command: click.Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROOMCAST_CLIENT_ROMS", "chat-*")
    told = CliRunner().invoke(command, [])
    assert told.exit_code == 2
    assert "no setting ROOMCAST_CLIENT_ROMS; do you mean ROOMCAST_CLIENT_ROOMS?" in told.output


def test_what_kubernetes_sets_beside_a_service_is_no_misspelt_setting():
    names = ["HOST", "PORT", "PORT_WS"]
    environment = {f"ROOMCAST_EDGE_SERVICE_{name}": "10.0.0.1" for name in names}
    environment |= {"ROOMCAST_PORT": "tcp://10.0.0.1:80", "ROOMCAST_PORT_80_TCP": "tcp://10.0.0.1:80"}
    environment |= {f"ROOMCAST_PORT_80_TCP_{name}": "x" for name in ("ADDR", "PORT", "PROTO")}
    check_environment(environment, ["listen"])
    for wrong in ({"ROOMCAST_PORT": "8001"}, {"ROOMCAST_": "x"}, {"ROOMCAST_SERVICE": "x"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            check_environment(wrong, ["listen"])


def test_config_shows_each_setting_its_source_and_no_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NATS_URL", "nats://me:s3cret@a:1,nats://s3cret@b:2")
    monkeypatch.setenv("ROOMCAST_NATS_TOKEN", "s3cret")
    told = CliRunner().invoke(config, ["--json", "--listen", "[::1]:80"])
    assert told.exit_code == 0, told.output
    rows = {row["name"]: (row["value"], row["source"]) for row in map(orjson.loads, told.output.splitlines())}
    assert list(rows) == [field.name for field in dataclasses.fields(Settings)]
    assert rows["nats"] == ("nats://me:***@a:1,nats://***@b:2", "NATS_URL")
    assert rows["nats_token"] == ("***", "ROOMCAST_NATS_TOKEN")
    assert rows["listen"] == ("[::1]:80", "--listen")
    assert rows["drain_time"] == ("10", "default")
    assert "s3cret" not in told.output + CliRunner().invoke(config, []).output


def test_no_secret_is_in_the_help(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROOMCAST_NATS_TOKEN", "s3cret")
    assert "s3cret" not in CliRunner().invoke(edge, ["--help"]).output


def test_the_help_names_every_flag_and_variable():
    text = CliRunner().invoke(edge, ["--help"]).output
    for field in dataclasses.fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in text
        assert f"ROOMCAST_{field.name.upper()}" in re.sub(r"\s+", " ", text)


def test_a_host_that_is_left_out_is_every_address():
    assert read("--listen", ":8001").listen == ("0.0.0.0", 8001)
    with pytest.raises(click.BadParameter):
        read("--listen", ":")


def test_settings_of_code_are_checked_too(tmp_path: Path):
    for wrong in ({"prefix": "a.b"}, {"nats": ()}, {"page": str(tmp_path)}, {"client_rooms": ("",)}):
        with pytest.raises(ValueError):
            Settings(**wrong)


def matches(pattern: str, room: str) -> bool:
    """A naive reading of a pattern: ``*`` is any text."""
    if not pattern:
        return not room
    if pattern[0] == "*":
        return any(matches(pattern[1:], room[i:]) for i in range(len(room) + 1))
    return bool(room) and room[0] == pattern[0] and matches(pattern[1:], room[1:])


@given(st.text(alphabet="ab.*\n[", min_size=1, max_size=6), st.text(alphabet="ab.*\n[", max_size=6))
def test_a_star_is_any_text_and_all_else_is_itself(pattern: str, room: str):
    assert bool(text_pattern(pattern).fullmatch(room)) == matches(pattern, room)
