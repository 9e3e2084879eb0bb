"""Two tabs of Chromium on two edges chat over the real socket.io-client, and go on after a kill of one edge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from roomcast import Bus
from roomcast.demo.service import Chat
from support.browser import Tab
from support.site import served

PAGE = Path(__file__).with_name("socketio_chat.html")


@pytest.fixture(scope="module")
def site(node_modules: Path) -> Iterator[str]:
    """The page and the npm package's own bundle."""
    bundle = node_modules / "socket.io-client" / "dist" / "socket.io.min.js"
    files = {"/": (PAGE, "text/html; charset=utf-8"), "/socket.io.min.js": (bundle, "text/javascript")}
    with served(files) as address:
        yield address


async def says(tab: Tab, text: str) -> None:
    """Type and send, as a user does."""
    await tab.type("#text", text)
    await tab.press_enter()


async def test_a_chat_over_two_edges_outlives_one_of_them(nats, prefix, start_edge, site, browser):
    edges = [await start_edge(nats.urls), await start_edge(nats.urls)]
    addresses = [f"http://127.0.0.1:{edge.port}" for edge in edges]
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await Chat(bus, prefix).start()

        async def tab(name: str, order: list[str]) -> Tab:
            query = [("room", "lobby"), ("name", name), *[("edge", address) for address in order]]
            return await browser.open(f"{site}/?{urlencode(query)}")

        ann = await tab("Ann", addresses)
        await ann.shows("#state", f"connected to {addresses[0]}; 1 here")
        bob = await tab("Bob", addresses[::-1])
        await bob.shows("#state", f"connected to {addresses[1]}; 2 here")
        await says(ann, "Is anybody there?")
        await bob.shows("#messages", "Ann: Is anybody there?")
        await says(bob, "Yes, äöü 😀")
        await ann.shows("#messages", "Bob: Yes, äöü 😀")

        before = await ann.evaluate("socket.id")
        await edges[0].kill()
        await ann.shows("#state", f"connected to {addresses[1]}", 20)
        assert await ann.evaluate("seen.ids") == [before, before], "the same socket"
        assert await ann.evaluate("seen.recovered") == [False, False]
        assert len(await ann.evaluate("seen.reasons")) == 1
        assert await bus.count("lobby") == 2
        await says(bob, "Still there?")
        await ann.shows("#messages", "Bob: Still there?")
        await says(ann, "Of course")
        await bob.shows("#messages", "Ann: Of course")
        await ann.shows("#messages", "Ann: Of course")
        lines = "[...document.querySelectorAll('#messages li')].map(item => item.textContent)"
        assert await bob.evaluate(lines) == await ann.evaluate(lines), "both have seen the same"
        assert len(await bob.evaluate("seen.ids")) == 1, "who was on the other edge has noticed nothing"
        assert ann.failures == bob.failures == []


async def test_a_browser_may_read_why_polling_is_refused(nats, start_edge, site, browser):
    edge = await start_edge(nats.urls)
    tab = await browser.open(f"{site}/?edge=http://127.0.0.1:{edge.port}&room=lobby&name=Ann")
    polled = f"fetch('http://127.0.0.1:{edge.port}/socket.io/?EIO=4&transport=polling').then(answer => answer.json())"
    assert await tab.evaluate(polled) == {"code": 0, "message": "Transport unknown"}
    credentials = polled.replace("polling'", "polling', {credentials: 'include'}")
    assert await tab.evaluate(credentials) == {"code": 0, "message": "Transport unknown"}
