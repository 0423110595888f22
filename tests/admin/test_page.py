"""The status page in a real browser: while IAM is killed and revived, by keyboard, on a phone, with a token."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.admin.assets import HEADERS, PAGE, PUBLIC_FILES, asset
from tests.admin.browser import Page, browsing
from tests.admin.conftest import OPERATOR, ActiveConfig, routes, running

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

STATE = "document.getElementById('iam').dataset.state"
LIVE = "document.body.dataset.connection === 'live'"
PNG = b"\x89PNG\r\n\x1a\n"
FOCUSED = "document.activeElement.innerText"
CONTRASTS = """
(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
  const back = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('h1, h2, p, dt, dd, th, td, small, button, .badge, code')]
    .filter((node) => node.innerText?.trim() && node.checkVisibility())
    .map((node) => {
      const [one, other] = [light(parse(getComputedStyle(node).color)), light(back(node))];
      return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), node.tagName + ' ' + node.innerText];
    })
    .filter(([ratio]) => ratio < 4.5);
})()
"""


@asynccontextmanager
async def asking(site: ActiveConfig, *paths: str) -> AsyncIterator[None]:
    """Somebody who may, and somebody who may not, ask all the time."""

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=site.process.url, trust_env=False, timeout=20) as client:
            while True:
                for path in paths:
                    await client.get(path, headers={"authorization": "Bearer allow"})
                    await client.get(path, headers={"authorization": "Bearer page-s3cret"})
                await asyncio.sleep(0.1)

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def shown(folder: Path, workers: int = 1, **how: Any) -> AsyncIterator[tuple[ActiveConfig, Page]]:
    """A gateway and its page in a browser."""
    async with running(folder, workers, **how) as site, browsing(site.process.admin, folder / "profile") as page:
        yield site, page


def cell(table: str, first: str, column: int) -> str:
    """JavaScript for the text of a cell, found by the text of its row's first cell."""
    rows = f"[...document.querySelectorAll('#{table} > tr')]"
    return f"({rows}.find((row) => row.children[0].innerText.includes('{first}'))?.children[{column}].innerText ?? '')"


async def counts_down(page: Page) -> None:
    """Also between two events of the stream."""
    seen = await page.run(
        "new Promise((resolve) => { const seen = []; const timer = setInterval(() => {"
        "seen.push(document.getElementById('iam-seconds').textContent);"
        "if (seen.length === 8) { clearInterval(timer); resolve(seen); } }, 100); })"
    )
    assert len(set(seen)) >= 4, seen


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_page_follows_iam_down_and_up_again(tmp_path: Path, workers: int) -> None:
    """State, countdown and rows change; the console has nothing to say; no token is anywhere on the page."""
    async with shown(tmp_path, workers) as (site, page):
        async with asking(site, "/inventory/7?q=page-s3cret", "/monitoring/7"):
            await page.until(f"{LIVE} && {STATE} === 'closed'")
            await page.until(f"{cell('routes', 'inventory', 3)}.includes('%')")
            assert "IAM answers" in await page.text("#iam")
            assert "iam_denied" in await page.text("#denials")
            assert await page.text("#unknowns") == "", "a denial is an answer, no trouble"
            pictures = [await page.picture()]

            await site.iam.stop()
            await page.until(f"{STATE} === 'open'")
            assert "IAM, the authorization service" in await page.text("#iam")
            assert "IAM is down" not in await page.text("#iam"), "the title above says so"
            assert "iam_" in await page.text("#iam-text")
            assert "open" in await page.text("#iam-badge"), "the state is told in words"
            await page.until(f"{cell('breakers', 'iam', 1)}.includes('open')")
            assert 0 <= float(await page.text("#iam-seconds")) <= 4.0
            await counts_down(page)
            await page.until(f"{cell('routes', 'inventory', 4)}.includes('%')")
            await page.until(f"{cell('routes', 'monitoring', 5)}.includes('%')")
            await page.until("document.getElementById('unknowns').innerText.includes('iam_')")
            assert "IAM is down" in await page.text("#verdict-title"), "what is broken"
            assert "since" in await page.text("#verdict"), "since when"
            assert "IAM cannot be reached" in await page.text("#notices"), "and why"
            assert re.search(r"connect 127\.0\.0\.1:\d+: refused", await page.text("#notices")), "with the address"
            assert "got 503" in await page.text("#notices"), "and what it costs"
            assert "tries IAM again" in await page.text("#notices"), "and what comes next"
            assert "503" in await page.run(cell("routes", "inventory", 8)), "what is served now"
            pictures.append(await page.picture())

            await site.iam.start()
            await page.until(f"{STATE} === 'closed'")
            assert "IAM answers" in await page.text("#iam")
            assert await page.text("#iam-countdown") == ""
            await page.until("document.getElementById('notices').innerText.includes('IAM answers again')")
            over = await page.text("#notices")
            assert re.search(r"From [\d:]{8} to [\d:]{8}, all routes: \d+ requests?, \d+ got 503", over), over
            assert "IAM did not decide" in await page.text("#outages"), (
                "what was broken in the last hour stays to be read"
            )
            announced = await page.run("document.getElementById('announcement').textContent")
            assert announced == "IAM answers", "who cannot see the page is told"
        assert all(picture.startswith(PNG) for picture in pictures)
        assert pictures[0] != pictures[1]
        assert "page-s3cret" not in await page.run("document.documentElement.outerHTML")
        assert page.complaints == []


async def test_everything_can_be_done_by_keyboard(tmp_path: Path) -> None:
    async with shown(tmp_path) as (site, page):
        await page.until(f"{LIVE} && {STATE} === 'closed'")
        await page.press("Tab")
        assert await page.run(FOCUSED) == "Skip to the state of IAM"
        await page.press("Enter")
        await page.press("Tab")
        assert await page.run(FOCUSED) == "Hold open"
        await page.press("Enter")
        assert await page.run(FOCUSED) == "Cancel", "what is asked is not done by chance"
        assert "Hold the circuit of IAM open?" in await page.text("#confirm")
        await page.press("Escape")
        await page.until("!document.getElementById('confirm').open")
        assert await page.run(FOCUSED) == "Hold open"
        assert (await site.operator.get("/breakers")).json()["breakers"]["iam"]["forced"] is None
        await page.press("Enter")
        await page.press("Tab")
        assert await page.run(FOCUSED) == "Hold open"
        await page.press("Enter")
        await page.until(f"{STATE} === 'open' && document.getElementById('iam-badge').innerText.includes('held open')")
        assert await page.text("#toast") == "IAM: held open."
        assert (await site.operator.get("/breakers")).json()["breakers"]["iam"]["forced"] == "open"
        assert page.complaints == []


async def test_changes_are_made_and_their_results_told(tmp_path: Path) -> None:
    async with shown(tmp_path) as (site, page):
        await page.until(LIVE)

        async def press(button: str) -> None:
            await page.run(f"document.querySelector(`{button}`).click()")
            await page.run("document.getElementById('confirm-yes').click()")

        await press('[data-breaker="user-audit.Workday"][data-mode="open"]')
        await page.until(f"{cell('breakers', 'Workday', 1)}.includes('held open')")
        assert "user-audit.Workday" in await page.text("#notices")
        await press('[data-action="purge"]')
        await page.until("document.getElementById('toast').innerText.includes('forgotten')")
        text = site.process.file.read_text()
        site.process.file.write_text(text.replace("upstream: inventory", "upstream: inventroy"))
        await press('[data-action="reload"]')
        await page.until("document.getElementById('toast').innerText.includes('inventroy')")
        await page.until("document.getElementById('problems').innerText.includes('inventroy')")
        assert "The new configuration was rejected" in await page.text("#notices")
        await press('[data-action="drain"]')
        await page.until("document.getElementById('toast').innerText.includes('Draining')")
        await page.until("document.body.dataset.connection === 'lost'")
        assert "does not answer" in await page.text("#lost")


async def test_a_token_is_asked_for_and_kept_in_the_tab_only(tmp_path: Path) -> None:
    def with_token(iam: Any, upstream: Any) -> str:
        return routes(iam, upstream).replace("drain_timeout: 4s", 'drain_timeout: 4s, admin_token: "admin-s3cret"')

    async with shown(tmp_path, write=with_token) as (_, page):
        await page.until("document.getElementById('token').open")
        use = "document.getElementById('token-value').value = '{}'; document.querySelector('#token button').click()"
        await page.run(use.format("wrong"))
        await page.until("document.getElementById('token-wrong').checkVisibility()")
        await page.run(use.format("admin-s3cret"))
        await page.until(f"{LIVE} && {STATE} === 'closed'")
        await page.call("Page.reload")
        await page.until(f"{LIVE} && {STATE} === 'closed'")
        assert await page.run("[localStorage.length, document.cookie, location.href.includes('s3cret')]") == [
            0,
            "",
            False,
        ]
        assert "s3cret" not in await page.run("document.documentElement.outerHTML")
        assert not [complaint for complaint in page.complaints if "401" not in complaint]


async def test_it_can_be_read_in_light_and_dark_wide_and_narrow(tmp_path: Path) -> None:
    async with shown(tmp_path) as (site, page):
        for name in ("iam", "user-audit.Workday"):
            await site.operator.post(f"/breakers/{name}/open", headers=OPERATOR)
        async with asking(site, "/inventory/7"):
            await page.until(f"{LIVE} && {cell('routes', 'inventory', 4)}.includes('%')")
        backgrounds = set()
        for dark, width in product((False, True), (1280, 768, 390, 320)):
            await page.look(width=width, dark=dark)
            await asyncio.sleep(0.4)  # colours change softly
            assert await page.run("document.documentElement.scrollWidth <= innerWidth"), f"scrolls sideways at {width}"
            assert await page.run(CONTRASTS) == [], "WCAG 2.2: 4.5 to 1"
            backgrounds.add(await page.run("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2


def test_the_page_is_fenced_in() -> None:
    policy = HEADERS["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"):
        assert f"{rule};" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    for name in (PAGE, *PUBLIC_FILES):
        text = bytes(asset(name).body).decode()
        foreign = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not foreign, f"{name} names another host"
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|style=", text), name
    assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=|<style", bytes(asset(PAGE).body).decode())


def test_every_file_of_the_page_is_served() -> None:
    folder = Path(__file__).parents[2] / "gateway" / "admin" / "page"
    assert {file.name for file in folder.iterdir()} == {PAGE, *PUBLIC_FILES}
