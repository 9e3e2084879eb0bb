"""What ``nats_client`` and ``wire`` lean on inside nats-py: a failure names what moved and what to look at again."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from importlib.metadata import requires, version
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from roomcast.nats_client import MendedClient
from roomcast.wire import ChunkParser, LightSubscription

SUPPORTED = (2, 16)
"""The minor version of nats-py whose internals were read; pyproject.toml pins it."""

ATTRIBUTES = {
    "_subs": "light subscriptions live there, and a reconnect replays them from it",
    "_sid": "light subscriptions take their ids from it",
    "_pending": "send() and the flusher write in one order through it; a reconnect clears it",
    "_pending_data_size": "the flusher writes only while it is above zero",
    "_ps": "it is replaced by the ChunkParser",
    "_pongs": "one future for each PING that is under way",
    "_pings_outstanding": "the check for a stalled server counts with it",
    "_transport": "its _io_writer is where send() writes and what a reconnect aborts",
    "_server_pool": "the back-off of a reconnect counts the tries of its servers; who leaves a lame duck chooses there",
    "_current_server": "an error names it, and a lame duck is left for another one",
    "_server_info": "a lame duck is known by its server_id",
    "_ping_interval_task": "ended when a handshake fails",
    "_flusher_task": "ended when a handshake fails",
    "_max_payload": "send() refuses what is larger",
    "_error_cb": "report() tells it",
    "_err": "connect() names the cause from it",
    "_reading_task": "a reconnect cancels it, flush() looks whether it lives",
    "stats": "light messages and send() are counted in it",
    "options": "the wait between reconnects and their number are set in it",
}

METHODS: dict[str, list[str]] = {
    "_process_msg": ["self", "sid", "subject", "reply", "data", "headers"],
    "_process_err": ["self", "err_msg"],
    "_process_ping": ["self"],
    "_process_pong": ["self"],
    "_process_info": ["self", "info", "initial_connection"],
    "_process_connect_init": ["self"],
    "_process_op_err": ["self", "e"],
    "_send_ping": ["self", "future"],
    "_read_loop": ["self"],
    "_attempt_reconnect": ["self"],
    "_select_next_server": ["self"],
    "_close": ["self", "status", "do_cbs"],
    "flush": ["self", "timeout"],
    "publish": ["self", "subject", "payload", "reply", "headers"],
}


def check(holds: bool, what: str) -> None:
    assert holds, (
        f"nats-py {version('nats-py')}: {what}. Read its aio/client.py again beside bus/roomcast/nats_client.py and "
        "bus/roomcast/wire.py, run tests/bus/test_nats_client.py, and only then move the pin in pyproject.toml."
    )


def read_of(function: Callable[..., Any], name: str) -> set[str]:
    """The attributes of the variable ``name`` that a function reads or calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }


def test_the_pin_and_what_is_installed_agree() -> None:
    installed = tuple(int(part) for part in version("nats-py").split(".")[:2])
    check(installed == SUPPORTED, f"this minor version was never read; {SUPPORTED} was")
    pins = [pin for pin in requires("roomcast") or () if pin.startswith("nats-py")]
    check(len(pins) == 1, "roomcast requires it once")
    major, minor = SUPPORTED
    for bound in (f">={major}.{minor}", f"<{major}.{minor + 1}"):
        check(bound in pins[0], f"the pin {pins[0]!r} has lost {bound}")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_client_has(name: str) -> None:
    check(hasattr(Client(), name), f"Client.{name} is gone: {ATTRIBUTES[name]}")


def test_attributes_are_of_the_kind_that_is_used() -> None:
    client = Client()
    for name, kind in {
        "_subs": dict,
        "_pending": list,
        "_pongs": list,
        "_pending_data_size": int,
        "_pings_outstanding": int,
        "_sid": int,
        "_server_pool": list,
        "stats": dict,
        "options": dict,
    }.items():
        check(type(getattr(client, name)) is kind, f"Client.{name} is no {kind.__name__} any more")
    for counter in ("in_msgs", "in_bytes", "out_msgs", "out_bytes", "reconnects"):
        check(counter in client.stats, f"Client.stats has no {counter}")


@pytest.mark.parametrize("name", METHODS)
def test_the_client_can(name: str) -> None:
    method = getattr(Client, name, None)
    check(inspect.iscoroutinefunction(method), f"Client.{name} is gone, or waits for nothing any more")
    assert method is not None, "checked above"
    found = list(inspect.signature(method).parameters)
    check(found == METHODS[name], f"Client.{name} takes {found}, not {METHODS[name]}")


@pytest.mark.parametrize("name", sorted(set(vars(MendedClient)) & set(METHODS)))
def test_what_is_mended_takes_what_the_stock_method_takes(name: str) -> None:
    mended = list(inspect.signature(getattr(MendedClient, name)).parameters)
    check(mended == METHODS[name], f"MendedClient.{name} takes {mended}")


def test_every_override_overrides_something() -> None:
    own = {
        "subscribe_light", "unsubscribe_light", "send", "unsent", "drained", "report",
        "_write_soon", "_write_now", "_stream", "_leave_lame_duck", "other_servers",
        "move_to",
    }  # fmt: skip
    for name, value in vars(MendedClient).items():
        if not inspect.isfunction(value) or (name.startswith("__") and name.endswith("__")):
            continue
        if name in own:
            check(not hasattr(Client, name), f"Client has a method {name} of its own now, which MendedClient hides")
        else:
            check(hasattr(Client, name), f"Client.{name} is gone: its override in MendedClient is never called")


READERS: dict[str, tuple[Callable[..., Any], str]] = {
    "_close": (Client._close, "sub"),
    "drain": (Client.drain, "sub"),
    "_attempt_reconnect": (Client._attempt_reconnect, "sub"),
}


@pytest.mark.parametrize("method", READERS)
def test_a_light_subscription_has_all_that_is_read_of_it(method: str) -> None:
    function, variable = READERS[method]
    attributes = read_of(function, variable)
    check(bool(attributes), f"Client.{method} reads nothing of a subscription any more: has it moved elsewhere?")
    light = LightSubscription(1, "subject", "", lambda *_: None, None)
    for attribute in sorted(attributes):
        check(hasattr(light, attribute), f"Client.{method} reads {attribute} of a subscription; a light one has none")


def test_a_light_subscription_has_nothing_that_a_stock_one_lacks() -> None:
    stock = Subscription(Client(), 1, "subject")
    own = {"sink", "key"}
    for name in [*LightSubscription.__slots__, *vars(LightSubscription)]:
        if name not in own and not name.startswith("__"):
            check(hasattr(stock, name), f"Subscription.{name} is gone: a light one need not have it any more")


def test_the_parser_is_called_as_the_stock_one() -> None:
    stock = type(Client()._ps)
    for name in ("parse", "reset"):
        found = list(inspect.signature(getattr(stock, name)).parameters)
        ours = list(inspect.signature(getattr(ChunkParser, name)).parameters)
        check(found == ours, f"Parser.{name} takes {found}, ChunkParser's takes {ours}")
    used = set()
    for _, method in inspect.getmembers(Client, inspect.isfunction):
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
        for node in ast.walk(tree):
            inner = node.value if isinstance(node, ast.Attribute) else None
            if isinstance(node, ast.Attribute) and isinstance(inner, ast.Attribute) and inner.attr == "_ps":
                used.add(node.attr)
    check(used <= {"parse", "reset"}, f"Client calls {sorted(used)} of its parser; ChunkParser has parse and reset")


def test_a_transport_has_a_writer() -> None:
    transport = TcpTransport()
    check(hasattr(transport, "_io_writer"), "TcpTransport._io_writer is gone: send() and the abort go through it")
    for name in ("read", "drain", "at_eof", "close", "wait_closed", "write", "writelines"):
        check(callable(getattr(transport, name, None)), f"TcpTransport.{name} is gone")


async def test_a_connected_clients_transport_is_found(nats: Any) -> None:
    client = MendedClient()
    await client.connect(nats.url)
    try:
        stream = client._stream()
        check(stream is not None, "the transport of a connected client is not found")
        for name in ("write", "abort", "get_write_buffer_size"):
            check(hasattr(stream, name), f"the transport has no {name}")
        check(
            bool(client._server_pool) and hasattr(client._server_pool[0], "reconnects"), "servers count no reconnects"
        )
    finally:
        await client.close()


def test_the_errors_that_are_raised_and_caught_exist() -> None:
    for name in (
        "Error", "ConnectionReconnectingError", "ConnectionClosedError", "OutboundBufferLimitError",
        "MaxPayloadError", "UnexpectedEOF", "ProtocolError", "FlushTimeoutError",
    ):  # fmt: skip
        found = getattr(nats.errors, name, None)
        check(isinstance(found, type) and issubclass(found, nats.errors.Error), f"nats.errors.{name} is gone")
