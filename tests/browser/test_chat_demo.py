"""The demo's page in Chromium: two tabs on two edges chat, see who is there, and speak to everyone."""

from __future__ import annotations

from pathlib import Path

import roomcast.demo
from roomcast import Bus
from roomcast.demo.service import Chat
from support.browser import Tab

PAGE = Path(roomcast.demo.__file__).with_name("chat.html")


async def goes_to(tab: Tab, room: str, name: str) -> None:
    """Fill in the form at the top."""
    await tab.shows("#state", "connected")
    await tab.type("#room", room)
    await tab.type("#name", name)
    await tab.press_enter()
    await tab.shows("#messages", f"you are in {room}")


async def test_two_tabs_on_two_edges(nats, prefix, start_edge, browser):
    edges = [await start_edge(nats.urls, page=PAGE), await start_edge(nats.urls, page=PAGE)]
    pages = [f"http://127.0.0.1:{edge.port}/" for edge in edges]
    async with Bus.connect(nats.url, prefix=prefix) as bus:
        await Chat(bus, prefix, pages).start()
        ann, bob = [await browser.open(page) for page in pages]
        await goes_to(ann, "garden", "Ann")
        await ann.shows("#crowd", "You are alone here")
        await goes_to(bob, "garden", "Bob")
        await ann.shows("#messages", "Bob is here")
        for tab, edge in ((ann, edges[0]), (bob, edges[1])):
            await tab.shows("#state", f"connected to edge {edge.id}")
            await tab.shows("#crowd", "2 are here")
        await ann.shows("#people li", f"Bob edge {edges[1].id}")
        await bob.shows("#people li", "Bob (you)")

        await ann.type("#text", "Hello over the hedge")
        await ann.press_enter()
        for tab in (ann, bob):
            await tab.shows("#messages li", "Hello over the hedge")
        assert await ann.evaluate("document.querySelectorAll('#messages .mine').length") == 1
        assert await bob.evaluate("document.querySelectorAll('#messages .mine').length") == 0

        await goes_to(bob, "kitchen", "Bob")
        await ann.shows("#messages", "Bob left")
        await ann.shows("#crowd", "You are alone here")
        await bob.type("#text", "Dinner is ready")
        await bob.click("#blast")
        await ann.shows("#messages .all", "Dinner is ready")

        links = "[...document.querySelectorAll('#edges a')].map(link => link.href)"
        assert await bob.evaluate(links) == [f"{pages[0]}#kitchen"]
        await edges[1].stop()
        await bob.shows("#state", "away")
        assert (await edges[1].start()).port == int(pages[1].rsplit(":")[-1].strip("/"))
        await bob.shows("#state", "connected", 20)
        await ann.type("#text", "To all")
        await ann.click("#blast")
        await bob.shows("#messages .all", "To all")
        assert ann.failures == bob.failures == []
