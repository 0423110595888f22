"""`gateway demo` on a copy of the shipped files: ports of its own, and an `audit` policy with shorter waits."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import free_port

SHIPPED = Path(__file__).parents[2]
START_S = 60.0
PATIENCE_S = 20.0
OPEN_FOR_S = 2.0
# Pauses long enough that two retries an audit stay within the budget of three a second.
AUDIT = f"""
deadline: 10s
timeout: {{connect: 500ms, read: 1s}}
retry: {{attempts: 3, backoff: 500ms, backoff_max: 2s, on: [5xx]}}
circuit_breaker: {{failure_threshold: 5, open_for: {OPEN_FOR_S:g}s}}
failure_statuses: [5xx]
"""


def copy_shipped(folder: Path) -> Path:
    """The shipped routes.yaml and policies in `folder`, on free ports; the shorter `audit` replaces the built-in."""
    ports: dict[str, int] = {}

    def own(address: re.Match[str]) -> str:
        return f"127.0.0.1:{ports.setdefault(address[1], free_port())}"

    shutil.copytree(SHIPPED / "policies", folder / "policies")
    (folder / "policies" / "audit.yaml").write_text(AUDIT)
    file = folder / "routes.yaml"
    file.write_text(re.sub(r"127\.0\.0\.1:(\d+)", own, (SHIPPED / "routes.yaml").read_text()))
    return file


@dataclass
class Demo:
    """The running demo. `errors` is what it and its gateway wrote to stderr."""

    file: Path
    process: asyncio.subprocess.Process | None = None
    state: dict[str, Any] | None = None
    errors: bytes = b""

    async def start(self) -> None:
        runtime = self.file.parent / "run"
        runtime.mkdir()
        self.environ = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "demo", "-c", str(self.file), "--quiet"),
            env=self.environ,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self.reader = asyncio.create_task(self.collect())
        found = runtime / f"gateway-demo-{os.getuid()}" / "state.json"
        end = time.monotonic() + START_S
        while not found.exists() or not found.read_text():
            assert self.process.returncode is None, self.errors.decode()
            assert time.monotonic() < end, self.errors.decode()
            await asyncio.sleep(0.05)
        self.state = json.loads(found.read_text())
        self.client = httpx.AsyncClient(base_url=self.state["gateway"], trust_env=False, timeout=PATIENCE_S)
        self.admin = httpx.AsyncClient(base_url=self.state["admin"], trust_env=False, timeout=PATIENCE_S)

    async def collect(self) -> None:
        while chunk := await self.process.stderr.read(65536):
            self.errors += chunk

    async def stop(self) -> int:
        await self.client.aclose()
        await self.admin.aclose()
        self.process.send_signal(signal.SIGINT)
        code = await asyncio.wait_for(self.process.wait(), START_S)
        await self.reader
        assert b"Traceback" not in self.errors, self.errors.decode()
        return code

    async def get(self, path: str, who: str = "alice", **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={**self.token(who), **headers})

    def token(self, who: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.state['tokens'][who]}"}

    async def set(self, part: str, mode: str) -> None:
        """What `gateway drill` does when it breaks and mends."""
        reply = await self.client.post(
            f"{self.state['control']}/break",
            json={"part": part, "mode": mode},
            headers={"authorization": f"Bearer {self.state['secret']}"},
        )
        assert reply.status_code == 200, reply.text

    async def circuit(self, name: str) -> str:
        return (await self.admin.get("/breakers")).json()["breakers"][name]["state"]

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        """One of our commands beside the demo: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments),
            env={**self.environ, "NO_COLOR": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), START_S)
        return process.returncode, out.decode(), err.decode()

    async def lines(self, pattern: str, count: int, since: int = 0) -> list[re.Match[str]]:
        """Wait for `count` lines on stderr that match."""
        found: list[re.Match[str]] = []

        def enough() -> bool:
            found[:] = re.finditer(pattern, self.errors[since:].decode(), re.MULTILINE)
            return len(found) >= count

        await eventually(enough)
        return found


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.02)
