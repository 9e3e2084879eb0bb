"""Names of rooms and events, end to end: whatever they hold, they reach their members, alone, and break nothing."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator

import pytest

from roomcast import Bus
from roomcast.names import is_reserved_event
from support.arena import Arena, arena
from support.proxy import StallProxy

HARD = [
    *[
        "a b",
        " ",
        "a/b",
        "/",
        'say "hi"',
        "it's",
        "*",
        ">",
        "a.*",
        "a.>",
        "a.*.b",
        "=",
        "==",
        "=41",
        "=2E",
        "a=b",
        "$SYS",
        "%00",
    ],
    *[".", "..", "a.", ".a", "a..b", "order.42", "a.b.c.d.e.f", "_INBOX.x", "bus", "bus.room.a", "user.1", "\\", "\\n"],
    *["\r\n", "\r", "\n", "\0", "\t", "\x7f", "\x1b[31m", "\u2028", "\u0085", "\ufeff", "\u200b", "\u202e", "a\0b"],
    *["a\r\nPUB injected 2\r\nhi", "a\r\nPING\r\n", "\r\n+OK", "x 1\r\nSUB > 9\r\n", " 5", "a 5 6"],
    *[
        "ü",
        "u\u0308",
        "房间",
        "غرفة",
        "חדר",
        "कक्ष",
        "ห้อง",
        "部屋",
        "방",
        "δωμάτιο",
        "комната",
        "🎉",
        "👩‍👩‍👧‍👦",
        "𝕳",
        "\U0010ffff",
    ],
    *["x" * 255, "ü" * 127, "🎉" * 63, "." * 255, "*" * 255, "\n" * 255, "=" * 255, "a." * 127, "Ünïcödé.🎉" * 15],
    *["A", "a", "-", "_", "0", "None", "null", "true", "{}", "[]", "connect", "message", "e0000000.AAAAAAAAAAAAAAAA"],
]


def drawn(count: int, seed: int) -> list[str]:
    """Random names, of any characters, near the limit now and then."""
    source = random.Random(seed)
    names = []
    while len(names) < count:
        ranges = source.choice([(0, 0x20), (0x20, 0x7F), (0, 0x250), (0, sys.maxunicode)])
        length = source.choice([1, 2, 5, 30, 255])
        text = "".join(map(chr, (source.randint(*ranges) for _ in range(length))))
        name = text.encode("utf-8", "ignore")[:255].decode("utf-8", "ignore")
        if name:
            names.append(name)
    return names


NAMES = sorted({*HARD, *drawn(60, seed=1)})


@pytest.fixture
async def stage(nats, prefix, start_edge) -> AsyncIterator[Arena]:
    """An edge whose clients may join any room."""
    async with arena([nats.urls], nats.url, prefix, start_edge, client_rooms="*") as made:
        yield made


async def test_every_name_is_a_room_of_its_own(stage: Arena, nats, prefix):
    bus, client = stage.bus, await stage.client()
    other = await stage.client()
    intruder = await nats_listener(nats.url)
    for name in NAMES:
        await bus.join(client.id, name)
    assert await bus.rooms(client.id) == set(NAMES), "all names are different rooms, told as they were given"
    for number, name in enumerate(NAMES):
        await bus.broadcast(name, "news", number)
        await bus.broadcast([name, name + "x" if len(name.encode()) < 255 else "x"], "two", number)
    [heard, none] = await stage.heard(client, other)
    named_too = {name + "x" for name in NAMES} & set(NAMES)
    assert [data for event, data in heard if event == "news"] == list(range(len(NAMES)))
    assert [data for event, data in heard if event == "two"] == list(range(len(NAMES))), named_too
    assert none == [], "nothing that looks like a wildcard is one"
    for name in NAMES[::7]:
        assert await bus.count(name) == 1
        assert [socket.id async for socket in bus.members(name)] == [client.id]
    await intruder.hears_nothing()


async def test_every_name_is_an_event(stage: Arena):
    client = await stage.client()
    events = [name for name in NAMES if not is_reserved_event(name)]
    await stage.bus.join(client.id, "room")
    for name in events:
        await stage.bus.broadcast("room", name, {"named": name})
        await stage.bus.blast(name, [name])
    [heard] = await stage.heard(client)
    assert heard == [row for name in events for row in ((name, {"named": name}), (name, [name]))]
    for name in ("connect", "disconnect", "connect_error", "bus:", "bus:join"):
        with pytest.raises(ValueError, match="reserved"):
            await stage.bus.blast(name, None)


async def test_every_name_is_good_for_bulk_changes_exceptions_and_clients_themselves(stage: Arena):
    bus, (one, two) = stage.bus, [await stage.client(), await stage.client()]
    names = [name for name in NAMES if not name.startswith("user.") and name != "e0000000.AAAAAAAAAAAAAAAA"]
    for start in range(0, len(names), 50):
        some = names[start : start + 50]
        answer = await one.emit("bus:join", {"rooms": some})
        assert "error" not in answer, answer
    await bus.join(two.id, "everybody")
    for name in names[::5]:
        await bus.broadcast(name, "mine", name)
        await bus.blast("not mine", name, except_rooms=name)
        result = await bus.add_room_members_to_rooms(name, "target")
        assert result.matched == 1
        await bus.broadcast("target", "moved", name)
        assert (await bus.remove_room_members_from_rooms("target", [name, "target"])).changed == 1
        assert await bus.count(name) == 0
    mine, others = await stage.heard(one, two)
    assert mine == [row for name in names[::5] for row in (("mine", name), ("moved", name))]
    assert others == [("not mine", name) for name in names[::5]]


class Listener:
    """A subscriber to everything beside the bus, which must stay silent."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.heard: list[bytes] = []

    async def hears_nothing(self) -> None:
        """Fail with the subjects that were heard; then end."""
        await self._bus.flush()
        await self._bus.close()
        assert not self.heard, self.heard


async def nats_listener(url: str) -> Listener:
    """Listen to what an injected command would publish to."""
    bus = await Bus.connect(url)
    listener = Listener(bus)
    for subject in ("injected", "injected.>", "hi"):
        bus.nats.subscribe_light(subject, lambda _, subject, *__: listener.heard.append(subject))
    await bus.flush()
    return listener


async def test_nothing_in_a_name_becomes_a_command(stage: Arena, nats, prefix):
    client = await stage.client()
    async with StallProxy(nats.url) as proxy, Bus.connect(proxy.url, prefix=prefix) as bus:
        await bus.flush()
        del proxy.sent[:]
        for name in NAMES:
            if not is_reserved_event(name):
                await bus.broadcast(name, name, 1, except_rooms=[name + "x" if len(name.encode()) < 255 else "x"])
        await bus.join([client.id], NAMES[:100])
        await bus.flush()
        lines = bytes(proxy.sent).split(b"\r\n")
        commands = [line for line in lines if line[:4] in (b"PUB ", b"SUB ", b"HPUB", b"PING", b"UNSU", b"CONN")]
        assert not [line for line in commands if line.startswith((b"SUB", b"UNSUB", b"CONNECT"))], commands
        for line in commands:
            if line.startswith((b"PUB", b"HPUB")):
                words = line.split(b" ")
                assert len(words) <= 5, line
                assert words[1].startswith(prefix.encode() + b"."), line
                assert all(0x20 < byte < 0x7F and byte not in b"*>" for byte in words[1]), line
    assert "Traceback" not in stage.edges[0].log


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128, "🎉" * 64, "." * 256, "\ud800", "a\udfff"])
async def test_a_name_that_is_none_is_refused_before_anything_is_sent(nats, prefix, name: str):
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        sent = bus.nats.stats["out_msgs"]
        says = "surrogate" if name and name[-1] in "\ud800\udfff" else "1 to 255 bytes"
        socket = "e0000000.AAAAAAAAAAAAAAAA"
        for call in (
            bus.broadcast(name, "event", 1),
            bus.broadcast(["good", name], "event", 1),
            bus.broadcast("good", name, 1),
            bus.broadcast("good", 1, except_rooms=[name]),
            bus.blast(name, 1),
            bus.join(socket, name),
            bus.leave([socket], ["good", name]),
            bus.leave_all(name),
            bus.add_room_members_to_rooms(name, "good"),
            bus.add_room_members_to_rooms("good", name),
            bus.remove_room_members_from_rooms("good", [name]),
            bus.count(name),
            anext(bus.members(name)),
            bus.disconnect(name),
        ):
            with pytest.raises(ValueError, match=says):
                await call
        assert bus.nats.stats["out_msgs"] == sent


@pytest.mark.parametrize("prefix", ["", "a.b", "a b", "*", ">", "ü", "a\r\nPUB x 0", "x" * 65, "a/b", "$JS"])
def test_a_prefix_that_is_none_is_refused_at_once(prefix: str):
    with pytest.raises(ValueError, match="prefix"):
        Bus.connect("nats://127.0.0.1:1", prefix=prefix)


async def test_tenants_hear_nothing_of_each_other(stage: Arena, nats, start_edge, prefix):
    client = await stage.client()
    await stage.bus.join(client.id, "room")
    for other_prefix in (prefix + "-2", prefix[:-1], prefix + "_"):
        async with Bus.connect(nats.url, prefix=other_prefix) as other:
            await other.broadcast("room", "news", 1)
            await other.blast("news", 1)
            await other.broadcast(client.id, "news", 1)
            await other.flush()
    assert await stage.heard(client) == [[]]
