"""Makes docs/outage.png: the status page while IAM is down. Run as `PYTHONPATH=. python scripts/picture.py`.

It needs Chromium, and starts the demo on ports of its own.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import httpx

from tests.admin.browser import browsing
from tests.partial.demo import Demo, copy_shipped

WANTED = Path(__file__).parents[1] / "docs" / "outage.png"


async def picture() -> bytes:
    """Traffic, then IAM is killed, then more traffic; what the page shows of it."""
    with tempfile.TemporaryDirectory() as folder:
        demo = Demo(copy_shipped(Path(folder)))
        await demo.start()
        try:
            await _traffic(demo)
            await demo.set("iam", "down")
            await _traffic(demo)
            async with browsing(str(demo.admin.base_url), Path(folder) / "profile") as page:
                await page.look(width=1280, height=900)
                await page.until("document.body.innerText.includes('open')")
                await _traffic(demo)
                await asyncio.sleep(2)
                return await page.picture()
        finally:
            await demo.stop()


async def _traffic(demo: Demo) -> None:
    for path in ("/inventory/7", "/monitoring/alarms", "/public/status", "/registry/navigation"):
        for person in ("alice", "bob", "mallory"):
            for _ in range(6):
                await _ask(demo, path, person)


async def _ask(demo: Demo, path: str, person: str) -> httpx.Response:
    return await demo.client.get(path, headers=demo.token(person))


if __name__ == "__main__":
    WANTED.write_bytes(asyncio.run(picture()))
    sys.stdout.write(f"{WANTED}\n")
