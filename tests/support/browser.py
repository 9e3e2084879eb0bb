"""Headless Chromium, driven over its DevTools protocol: tabs that are opened, typed into, clicked and looked at."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from support.npm import missing
from support.until import until

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    # Tabs that nobody looks at keep their timers.
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding"),
    *("--disable-backgrounding-occluded-windows", "--remote-debugging-port=0", "about:blank"),
)
LISTENS = re.compile(r"DevTools listening on (ws://\S+)")


def program() -> str | None:
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def need_browser() -> None:
    """Skip where there is no browser; where CI runs, that is a failure."""
    if program() is None:
        missing("chromium is not installed: nothing is tested in a browser")


class Browser:
    """A browser with a profile of its own. Enter it to start."""

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="browser-")
        self._log = Path(self._profile) / "log"
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._process: asyncio.subprocess.Process
        self._ws: ClientConnection
        self._reader: asyncio.Task[None]

    async def __aenter__(self) -> Browser:
        with self._log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                program() or "chromium", f"--user-data-dir={self._profile}", *FLAGS, stdout=output, stderr=output
            )

        def told() -> str:
            assert self._process.returncode is None, f"the browser ended:\n{self._log.read_text(errors='replace')}"
            found = LISTENS.search(self._log.read_text(errors="replace"))
            return found[1] if found else ""

        try:
            url = await until(told, 30, "the browser listens")
            self._ws = await connect(url, proxy=None, max_size=None, ping_interval=None)
        except BaseException:
            await self._end()
            raise
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.call("Browser.close"), 5)
        await self._ws.close()
        await self._reader
        await self._end()

    async def _end(self) -> None:
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.to_thread(shutil.rmtree, self._profile, ignore_errors=True)

    async def open(self, url: str) -> Tab:
        """A new tab that has loaded a page."""
        target = await self.call("Target.createTarget", url="about:blank", newWindow=True)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Runtime", "Page", "Log"):
            await tab.call(f"{domain}.enable")
        await tab.call("Page.navigate", url=url)
        await tab.until("location.href !== 'about:blank' && document.readyState === 'complete'", 20)
        return tab

    async def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; returns its result."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        await self._ws.send(json.dumps(message))
        answer = await asyncio.wait_for(self._answers[number], 30)
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        return dict(answer["result"])

    async def _read(self) -> None:
        async for text in self._ws:
            message = json.loads(text)
            waiting = self._answers.pop(message.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            elif message.get("sessionId") in self._tabs:
                self._tabs[message["sessionId"]].note(message)
        for waiting in self._answers.values():
            waiting.cancel()


class Tab:
    """One page. ``failures`` has the exceptions that no script of the page caught."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.failures: list[str] = []

    def note(self, message: dict[str, Any]) -> None:
        """Something happened in the page."""
        if message["method"] == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.failures.append(details.get("exception", {}).get("description", details["text"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command for this page."""
        return await self._browser.call(method, self._session, **params)

    async def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression, awaited if it is a promise."""
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{expression}: {result.get('exceptionDetails')}"
        return result["result"].get("value")

    async def until(self, expression: str, within: float = 10.0) -> Any:
        """Wait until a JavaScript expression is true; returns its value."""
        try:
            return await until(lambda: self.evaluate(expression), within, f"{expression} is true")
        except AssertionError as error:
            seen = await self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}; the page shows: {seen!r}; it failed with {self.failures}") from None

    async def shows(self, selector: str, text: str, within: float = 10.0) -> None:
        """Wait until an element that the selector finds shows a text."""
        find = f"[...document.querySelectorAll({json.dumps(selector)})]"
        await self.until(f"{find}.some(element => element.innerText.includes({json.dumps(text)}))", within)

    async def type(self, selector: str, text: str) -> None:
        """Replace what is in a field, as a keyboard does."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        await self.call("Input.insertText", text=text)

    async def press_enter(self) -> None:
        """The Enter key, where the focus is."""
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            await self.call("Input.dispatchKeyEvent", type=kind, **key)

    async def click(self, selector: str) -> None:
        """The mouse's left button, in the middle of an element."""
        box = await self.evaluate(
            f"(r => ({{x: r.x + r.width / 2, y: r.y + r.height / 2}}))"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **box)
