"""The page of the orders example in Chromium, with sails.io.js as npm has it, from another origin than the edges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.edges import EdgeProcess
from support.orders import EXAMPLE, copies
from support.site import served

PAGE = (EXAMPLE / "page.html").read_text()
THERE = "http://localhost:8001"


@contextmanager
def site(node_modules: Path, home: Path, edges: list[EdgeProcess]) -> Iterator[list[str]]:
    """A page for each edge, and sails.io.js with the socket.io-client that it bundles."""
    assert PAGE.count(THERE) == 1
    files = {"/sails.io.js": (node_modules / "sails.io.js" / "dist" / "sails.io.js", "text/javascript")}
    for number, edge in enumerate(edges):
        page = home / f"{number}.html"
        page.write_text(PAGE.replace(THERE, f"http://127.0.0.1:{edge.port}"))
        files[f"/{number}"] = (page, "text/html; charset=utf-8")
    with served(files) as address:
        yield [f"{address}/{number}" for number, _ in enumerate(edges)]


async def test_two_tabs_on_two_edges_see_the_order_change(nats, prefix, start_edge, node_modules, browser, tmp_path):
    edges = [await start_edge(nats.urls), await start_edge(nats.urls)]
    with site(node_modules, tmp_path, edges) as pages:
        async with copies(nats.url, prefix, tmp_path, 1):
            ann, bob = [await browser.open(page) for page in pages]
            for tab in (ann, bob):
                await tab.shows("#status", "placed")
            loaded = "performance.getEntriesByType('resource').map(entry => new URL(entry.name).pathname)"
            assert "/__getcookie" in await ann.evaluate(loaded), "it asked for a cookie first"

            await ann.type("#wanted", "shipped")
            await ann.press_enter()
            for tab in (ann, bob):
                await tab.shows("#updates li", "shipped at 20")
                await tab.shows("#status", "shipped")

            before = await ann.evaluate("io.socket._raw.id")
            await edges[0].kill()
            await edges[0].start()
            await ann.until(f"io.socket.isConnected() && io.socket._raw.id !== '{before}'", 20)
            await ann.shows("#status", "shipped")
            await bob.type("#wanted", "delivered")
            await bob.press_enter()
            await ann.shows("#updates li", "delivered at 20")
            for tab in (ann, bob):
                assert await tab.evaluate("document.getElementById('error').textContent") == ""
        await bob.press_enter()
        await bob.shows("#error", "404: no service answers 'PUT /orders/42/status'")
        assert ann.failures == bob.failures == []


async def test_a_page_that_wants_no_cookie_connects_at_once(nats, start_edge, node_modules, browser, tmp_path):
    edge = await start_edge(nats.urls)
    connected = """new Promise(done => {
        const socket = io.sails.connect(io.sails.url, { useCORSRouteToGetCookie: false, multiplex: false });
        socket.on("connect", () => socket.get("/nobody", (body, jwr) => done([jwr.statusCode, body.code])));
    })"""
    with site(node_modules, tmp_path, [edge]) as [page]:
        tab = await browser.open(page)
        assert await tab.evaluate(connected) == [404, "no_service"]
