"""Headless Chromium loads a page through the gateway, opens an EventSource and WebSockets, and tells what it saw."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.complete_path.foreign import on_path
from tests.complete_path.issuer import Issuer
from tests.complete_path.streaming import streaming
from tests.complete_path.talkative import talkative
from tests.e2e.conftest import Seen, Server

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

PAGE = (Path(__file__).parent / "page.html").read_bytes()
WITHIN_S = 60.0
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
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam}"}}
identity: {identity}
upstreams: {{pages: {{url: "{pages}"}}, events: {{url: "{events}"}}, chat: {{url: "{chat}"}}}}
routes:
  - {{id: page, path: /page/*, upstream: pages, authorize: public}}
  - {{id: events, path: /events/*, upstream: events, authorize: public}}
  - {{id: chat, path: /chat/*, upstream: chat, authorize: public}}
  - id: closed
    path: /closed/*
    upstream: pages
    authorize: authenticated
    cors: {{origins: ["http://127.0.0.1:{{port}}"]}}
"""


@asynccontextmanager
async def browsing(program: str, url: str, profile: Path) -> AsyncIterator[None]:
    """A browser on a page, with a profile of its own; all of its processes end with it."""
    browser = await asyncio.create_subprocess_exec(
        program,
        *FLAGS,
        f"--user-data-dir={profile}",
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        await browser.wait()


async def test_a_page_streams_through_the_gateway(
    start_gateway: Any, iam: Server, upstream: Server, issuer: Issuer, tmp_path: Path
) -> None:
    chromium = on_path("chromium")
    report: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def answer(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        if seen.method == "POST" and not report.done():
            report.set_result(json.loads(seen.body))
        return 200, {"Content-Type": "text/html; charset=utf-8"}, PAGE

    upstream.answer = answer
    async with streaming() as events, talkative() as chat:
        gateway = await start_gateway(
            ROUTES.format(
                iam=iam.url, identity=issuer.settings(tmp_path), pages=upstream.url, events=events.url, chat=chat.url
            )
        )
        async with browsing(chromium, f"{gateway.url}/page/index.html", tmp_path / "profile"):
            results = await asyncio.wait_for(report, WITHIN_S)
    assert results == {
        "events": ["0", "1", "2"],
        "socket": ["chat.v2", "grüße", [0, 255], 4001, True],
        "refusedEvents": True,
        "refusedSocket": [1006, False],
        "crossOrigin": [401, "unauthenticated", True],
    }
    assert not iam.seen
