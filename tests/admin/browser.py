"""Headless Chromium by its DevTools protocol: one page, what it shows, what it complained of, pictures of it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.complete_path.foreign import on_path

START_TIMEOUT_S = 60.0
PATIENCE_S = 30.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)


class Page:
    """One tab. `complaints` are errors and warnings of the console, of the network and of the security policy."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []

    async def listen(self) -> None:
        """Take what the browser says, until the connection ends."""
        async for message in self._connection:
            said = json.loads(message)
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] in {"error", "warning"}:
                entry = said["params"]["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
            elif said["method"] == "Runtime.consoleAPICalled" and said["params"]["type"] in {"error", "warning"}:
                self.complaints.append(str(said["params"]["args"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        answer = await asyncio.wait_for(self._waiting[number], PATIENCE_S)
        assert "error" not in answer, answer
        return dict(answer["result"])

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str, within_s: float = PATIENCE_S) -> Any:
        """Wait until an expression is true; while the page loads it may fail."""
        value: Any = None
        patient = f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()"
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (value := await self.run(patient)):  # noqa: ASYNC110 - it happens in another process
                    await asyncio.sleep(0.1)
        assert value, f"never true: {script}; the page shows: {await self.run('document.body.innerText')}"
        return value

    async def text(self, selector: str) -> str:
        """What an element shows, "" if it is hidden."""
        found = f"document.querySelector({json.dumps(selector)})"
        return str(await self.run(f"{found}?.checkVisibility() ? {found}.innerText : ''"))

    async def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key and let it go: Tab, Enter, Escape."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        typed = {"text": "\r"} if key == "Enter" else {}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", **about, **typed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    async def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Be seen on a screen of that size, in that mode."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self) -> bytes:
        """A picture of what is seen, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


@asynccontextmanager
async def browsing(url: str, profile: Path) -> AsyncIterator[Page]:
    """A browser on a page, with a profile of its own; all of its processes end with it."""
    program = on_path("chromium")
    browser = await asyncio.create_subprocess_exec(
        program,
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with connect(await _debugger(profile), max_size=None, proxy=None) as connection:
            page = Page(connection)
            listening = asyncio.create_task(page.listen())
            try:
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                await page.call("Page.navigate", url=url)
                yield page
            finally:
                listening.cancel()
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        await browser.wait()


async def _debugger(profile: Path) -> str:
    """Where the debugger of the first tab listens."""
    async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient(trust_env=False) as client:
        while True:
            with suppress(FileNotFoundError, httpx.TransportError, StopIteration, ValueError):
                port = int((profile / "DevToolsActivePort").read_text().split("\n")[0])
                tabs = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
                found = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
                if found:
                    return str(found[0])
            await asyncio.sleep(0.05)
